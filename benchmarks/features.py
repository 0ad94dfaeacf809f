"""How near features of videos come to what the machine can do: each part's time beside its floor, in the same run.

    python benchmarks/features.py            # 8 s of a made video, some minutes on two cores
    python benchmarks/features.py --quick    # 2 s, each part once
    python benchmarks/features.py --memory   # also the memory that a minute and an hour of video take

Floors: of decoding, decoding alone, without scaling, by FFmpeg in one thread; of optical flow, the bare calls of
OpenCV's TV-L1 on grey images, in as many threads; of the network, its bare convolutions, in as many threads; of the
whole, the sum of these. Times are medians over interleaved repetitions, since machines are noisy. Weights are random.

For the memory of long videos, the network and TV-L1 are what they are at the beginning of a video, which is when they
take their memory, and after that give zeros at once. So an hour of video takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from subprocess import run
from threading import local

import av
import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.run import Table, extra_memory, medians
from prepare.clips import Extractor
from prepare.feature_writing import FeatureSettings
from prepare.i3d import I3D, SIDE, SNIPPET_FRAMES, Unit, random_i3d
from prepare.optical_flow import flow_of
from prepare.video_features import VideoSource, extract_features
from prepare.video_frames import HEIGHT, WIDTH, VideoFile
from utils import pick_device, seed_everything

FPS = 30  # of the made video; features take 25 a second
SIZE = 640, 360
REAL_FLOWS, REAL_CROPS = 10, 6  # with which a video begins where memory is measured


def make_video(path: Path, seconds: float) -> None:
    """Write a video in H.264: three squares, each with a motion of its own, before a ground with texture."""
    rng = np.random.default_rng(0)
    width, height = SIZE
    ground = cv2.GaussianBlur(rng.integers(0, 255, (height, width, 3), dtype=np.uint8), (0, 0), 3)
    colours = rng.integers(100, 255, (3, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(round(seconds * FPS)):
            picture = ground.copy()
            for number, colour in enumerate(colours):
                x = int((0.5 + 0.35 * np.sin(t / 20 * (number + 1))) * width)
                y = int((0.5 + 0.35 * np.cos(t / 30 * (number + 1))) * height)
                picture[y - 40 : y + 40, x - 40 : x + 40] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def repeat_video(path: Path, target: Path, times: int) -> None:
    """Write a video that shows another one so many times, without encoding it again."""
    with av.open(str(target), "w") as output:
        copy, shift = None, 0
        for _ in range(times):
            with av.open(str(path)) as source:
                stream = source.streams.video[0]
                copy = copy or output.add_stream_from_template(stream)
                packets = [packet for packet in source.demux(stream) if packet.dts is not None]
                length = packets[-1].dts + packets[-1].duration - packets[0].dts
                for packet in packets:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                    output.mux(packet)
                shift += length


# ---------------------------------------------------------------------------------------------- the parts


def in_threads(threads: int, call: Callable[[int], object], count: int) -> None:
    """Call with 0 … count - 1, in threads that each have one thread of PyTorch's."""
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        for _ in pool.map(call, range(count)):
            pass


def measure_decoding(table: Table, path: Path, repeats: int) -> int:
    """Frames of 340 x 256 at 25 a second; returns their number."""
    count = sum(1 for _ in VideoFile(path).frames())

    def bare() -> None:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for _ in container.decode(stream):
                pass

    def scaled() -> None:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in islice(container.decode(stream), count):
                frame.reformat(WIDTH, HEIGHT, "rgb24", interpolation="BICUBIC").to_ndarray()

    took, floor, with_scaling = medians(repeats, lambda: [*map(len, VideoFile(path).frames())], bare, scaled)
    table.add("decoding", took, floor, frames_per_s=round(count / took), with_scaling=round(with_scaling, 4))
    return count


def measure_flow(table: Table, path: Path, workers: int, repeats: int) -> None:
    """Optical flow of frames that are there already."""
    frames = [*VideoFile(path).frames()]
    pairs = [*pairwise(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)]
    own = local()

    def call(number: int) -> None:
        own.solver = getattr(own, "solver", None) or cv2.optflow.DualTVL1OpticalFlow_create()
        own.solver.calc(*pairs[number], None)

    def bare() -> None:
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        in_threads(workers, call, len(pairs))
        cv2.setNumThreads(before)

    took, floor = medians(repeats, lambda: [*map(len, flow_of(frames, workers))], bare)
    table.add("flow", took, floor, frames_per_s=round(len(pairs) / took, 1))


def convolutions(network: I3D, clips: Tensor) -> list[Callable[[], Tensor]]:
    """The bare convolutions of a network, on what reaches each of them from clips `[N, channels, 16, 224, 224]`."""
    calls: list[Callable[[], Tensor]] = []
    on_cpu = clips.device.type == "cpu" and torch.backends.mkldnn.is_available()
    bare = torch.mkldnn_convolution if on_cpu else torch.convolution

    def note(unit: Unit, inputs: tuple[Tensor]) -> None:
        x = inputs[0] if unit.around is None else torch.nn.functional.pad(inputs[0], unit.around)
        around = [size // 2 for size in unit.kernel_size] if unit.around is None else [0] * 3
        weights = x.clone(), unit.weight, unit.bias
        if on_cpu:
            calls.append(partial(bare, *weights, around, unit.stride, [1] * 3, 1))
        else:
            calls.append(partial(bare, *weights, unit.stride, around, [1] * 3, False, [0] * 3, 1))

    hooks = [unit.register_forward_pre_hook(note) for unit in network.modules() if isinstance(unit, Unit)]
    network(clips)
    for hook in hooks:
        hook.remove()
    return calls


@torch.inference_mode()
def measure_network(table: Table, extractor: Extractor, count: int, repeats: int) -> None:
    """Both networks on clips that are there already, of as many frames."""
    rng, clips = np.random.default_rng(0), count // SNIPPET_FRAMES
    device, dtype = extractor.device, extractor.dtype
    for kind, network in extractor.networks.items():
        clip = rng.integers(0, 256, (SNIPPET_FRAMES, HEIGHT, WIDTH, network.channels), dtype=np.uint8)
        shape = extractor.most, SNIPPET_FRAMES, SIDE, SIDE, network.channels
        calls = convolutions(network, torch.rand(shape, device=device).to(dtype).permute(0, 4, 1, 2, 3) * 2 - 1)

        def work(_: int, calls: list[Callable[[], Tensor]] = calls) -> None:
            for call in calls:
                call()

        batches = -(-clips // extractor.most)
        measured = partial(extractor.extract, kind, [clip] * clips)
        took, floor = medians(repeats, measured, partial(in_threads, extractor.threads, work, batches), device=device)
        table.add(f"network, {kind}", took, floor, frames_per_s=round(SNIPPET_FRAMES * clips / took, 1))


def measure_whole(table: Table, path: Path, extractor: Extractor, count: int, workers: int, repeats: int) -> None:
    """All parts at once, as `--run_type features` has them, beside the sum of the floors so far."""
    floors = sum(row["floor"] for row in table.rows)
    settings = FeatureSettings()
    whole = partial(extract_features, VideoSource(path, settings.feature_fps), settings, extractor, workers)
    [took] = medians(repeats, whole, device=extractor.device)
    table.add("the whole", took, floors, frames_per_s=round(count / took, 1))


# ---------------------------------------------------------------------------------------------- memory


class Begun:
    """Calls a function so many times, and after that gives zeros of the same shape at once."""

    def __init__(self, function: Callable, times: int) -> None:
        self.function, self.left, self.zeros = function, times, None

    def __call__(self, *args: object) -> object:
        """The function's result, or zeros."""
        if self.left > 0 or self.zeros is None:
            self.left -= 1
            result = self.function(*args)
            self.zeros = result * 0
            return result
        return self.zeros


class BegunSolver:
    """TV-L1 that begins as it is, see `Begun`."""

    def __init__(self, create: Callable) -> None:
        self.calc = Begun(create().calc, REAL_FLOWS)


def print_peak(path: Path, workers: int) -> None:
    """Print the peak memory, in GB, that making the features of a video takes over what the program has before."""
    create, peak = cv2.optflow.DualTVL1OpticalFlow_create, list[float]()
    cv2.optflow.DualTVL1OpticalFlow_create = partial(BegunSolver, create)
    extractor, settings = Extractor(random_i3d(), "center"), FeatureSettings()
    extractor.networks = {kind: Begun(network, REAL_CROPS) for kind, network in extractor.networks.items()}
    with extra_memory(peak):
        extract_features(VideoSource(path, settings.feature_fps), settings, extractor, workers)
    print(json.dumps(peak))


def measure_memory(table: Table, home: Path, workers: int) -> None:
    """Peak memory of a minute and of an hour of video."""
    minute, hour = home / "minute.mp4", home / "hour.mp4"
    make_video(minute, 60)
    repeat_video(minute, hour, 60)
    for video in (minute, hour):
        command = [sys.executable, __file__, "--peak", str(video), "--workers", str(workers)]
        for peak in json.loads(run(command, stdout=-1, check=True).stdout):
            table.add(f"peak memory, GB, of a video of one {video.stem}", peak)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="2 s of video, each part once")
    add("--seconds", type=float, default=8, help="of video")
    add("--memory", action="store_true", help="also the memory of long videos")
    add("--device", default="cpu", help="for the network")
    add("--half", action="store_true", help="the network in float16")
    add("--workers", type=int, default=os.cpu_count(), help="threads for optical flow")
    add("--json", type=Path, default=Path("benchmark-features.json"), help="file for the result")
    add("--peak", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as main.py does
    if args.peak is not None:
        print_peak(args.peak, args.workers)
        return
    seed_everything(0)
    repeats, table = 1 if args.quick else 3, Table()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        make_video(path, 2 if args.quick else args.seconds)
        extractor = Extractor(random_i3d(), "center", pick_device(args.device), half=args.half)
        count = measure_decoding(table, path, repeats)
        measure_flow(table, path, args.workers, repeats)
        measure_network(table, extractor, count, repeats)
        measure_whole(table, path, extractor, count, args.workers, repeats)
        if args.memory:
            measure_memory(table, Path(folder), args.workers)
    machine = {"device": args.device, "threads": torch.get_num_threads(), "workers": args.workers, "frames": count}
    machine |= {"torch": torch.__version__, "opencv": cv2.__version__, "av": av.__version__}
    args.json.write_text(json.dumps({"machine": machine, "rows": table.rows}, indent=1) + "\n")
    print(
        f"\n{machine}\n{pd.DataFrame(table.rows).to_string(index=False, na_rep='', justify='left')}\n"
        f"written: {args.json}"
    )


if __name__ == "__main__":
    main()
