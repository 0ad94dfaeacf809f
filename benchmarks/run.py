"""How near SEAL comes to what the machine can do: each part's time beside its floor, measured in the same run.

    python benchmarks/run.py             # THUMOS14's size, about a quarter of an hour on two cores
    python benchmarks/run.py --quick     # a tenth of the videos, about a minute

Floors: of a training epoch and of a test pass, the bare matrix products, into memory that is there already (the first
layer needs no gradient of its input); of pooling, reading the features and writing the result at the speed at which
this machine copies; of post-processing, one exponential for every two proposals of a video; of evaluation, sorting
the detections and the tIoU of every detection and instance that may match; of `resume.pt`, writing as many bytes.

With `--annotations` and `--proposals` the videos, proposals and detections are THUMOS14's own, else invented ones of
the same number; features are random. Times are medians over interleaved repetitions, since machines are noisy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import main as seal
from benchmarks import workload
from benchmarks.padded import padded_step
from dataset import Batch, training_batches
from eval.detection import candidate_pairs
from eval.evaluation import evaluate
from eval.metrics import EvaluationInput
from eval.postprocess import LOGITS
from eval.protocols import TIOU_PROTOCOLS
from eval.segments import video_class_keys
from options import Options, parse_options, plain_values
from prepare.make_demo import make_demo
from proposals import SNIPPETS_PER_SECOND, roi_pool, tiou
from readers.annotations import read_annotations
from report.settings import dashboard_settings
from runs.detections import read_detections
from runs.inputs import Data, load_data
from runs.run import Run
from runs.setup import build_evaluator, build_plan, build_post_process, load_network
from runs.state import TrainingState
from utils import pick_device, seed_everything

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTH = 2048
PARTS = ("pooling", "training", "testing", "evaluation", "logging", "memory", "tenfold")
PRECISIONS = ("float32", "bfloat16")


@dataclass
class Table:
    """The rows of the result; seconds, or GB where the name says memory."""

    rows: list[dict] = field(default_factory=list)

    def add(self, what: str, measured: float, floor: float | None = None, **more: float | str) -> None:
        """Add a row and print it, so that a long run shows what it has."""
        figures = {"measured": round(measured, 4)}
        if floor is not None:
            figures |= {"floor": round(floor, 4), "ratio": round(measured / floor, 3)}
        figures |= more
        self.rows.append({"what": what} | figures)
        print(f"{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


def clock(device: torch.device | None = None) -> float:
    """The time in seconds when the device has done what it was given."""
    if device is not None and device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()


def medians(repeats: int, *runs: Callable[[], object], device: torch.device | None = None) -> list[float]:
    """The median time of each of several calls, made in turn so that all meet the same disturbances."""
    times = []
    for _ in range(repeats):
        moments = [clock(device)]
        for run in runs:
            run()
            moments.append(clock(device))
        times.append(np.diff(moments))
    return np.median(times, axis=0).tolist()


class Products:
    """The matrix products of the network alone, with all memory taken beforehand."""

    def __init__(self, most_rows: int, width: int, num_class: int, dtype: torch.dtype, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.full(shape, 0.5, dtype=dtype, device=device)

        outs = (num_class + 1, 1, 1)
        self.rows, self.fused, self.hidden = (zeros(most_rows, n) for n in (3 * width, width, width // 2))
        self.logits = [zeros(most_rows, n) for n in outs]
        self.first, self.middle = zeros(width, 3 * width), [zeros(width // 2, width) for _ in outs]
        self.last = [zeros(n, width // 2) for n in outs]

    def __call__(self, n: int, *, backward: bool) -> None:
        """Those of n rows: forward, and backward if asked."""
        rows, fused, hidden = self.rows[:n], self.fused[:n], self.hidden[:n]
        torch.mm(rows, self.first.T, out=fused)
        for middle, last, logits in zip(self.middle, self.last, self.logits, strict=True):
            torch.mm(fused, middle.T, out=hidden)
            torch.mm(hidden, last.T, out=logits[:n])
            if backward:
                torch.mm(logits[:n].T, hidden, out=last)
                torch.mm(logits[:n], last, out=hidden)
                torch.mm(hidden.T, fused, out=middle)
                torch.mm(hidden, middle, out=fused)
        if backward:
            torch.mm(fused.T, rows, out=self.first)


@contextmanager
def extra_memory(result: list[float]) -> Iterator[None]:
    """Appends the GB by which memory peaked over what was taken at the start; nothing where the system does not say."""
    status = Path("/proc/self/status")

    def read(name: str) -> float:
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name)) * 1024 / 1e9
        )

    if status.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = read("VmRSS")
    yield
    if status.exists():
        result.append(read("VmHWM") - before)


def at_precision(data: Data, options: Options, precision: str) -> tuple[Data, Options]:
    """Data and options as main.py has them at `--precision`: pooled proposals are kept in it."""
    dtype = getattr(torch, precision)
    train, test = ([replace(v, pooled=v.pooled.to(dtype)) for v in part] for part in (data.train, data.test))
    return replace(data, train=train, test=test), Options(**vars(options) | {"precision": precision})


# ---------------------------------------------------------------------------------------------- the parts


def measure_pooling(table: Table, features: list[Tensor], segments: list[Tensor], repeats: int) -> None:
    """RoI pooling of all training proposals."""
    pooled = torch.ones(sum(map(len, segments)), 3, WIDTH)
    parts = pooled.split([len(s) for s in segments])

    def pool() -> None:
        for out, raw, segment in zip(parts, features, segments, strict=True):
            out.copy_(roi_pool(raw, segment))

    source = torch.ones(50_000_000)
    copies = partial(torch.ones_like(source).copy_, source)
    took, copying = medians(repeats, pool, copies)
    bandwidth = 2 * source.nbytes / copying
    memory: list[float] = []
    with extra_memory(memory):
        pool()
    moved = sum(raw.nbytes for raw in features) + pooled.nbytes
    extra = {"extra GB": round(memory[0], 3)} if memory else {}
    table.add(f"pooling, {len(pooled)} proposals", took, moved / bandwidth, **extra)


def training_times(data: Data, options: Options, features: list[Tensor]) -> pd.DataFrame:
    """Seconds of every step of an epoch, of its matrix products, and, every other time, of the padded step."""
    device = data.train[0].proposals.device
    model, criterion = load_network(options, data, device, None), seal.build_criterion(options)
    optimizer = seal.build_optimizer(options, model)
    precision = getattr(torch, options.precision)
    most = sum(sorted(len(video.proposals) for video in data.train)[-options.batch_size :])
    products = Products(most, WIDTH, workload.NUM_CLASS, precision, device)
    segments = [torch.from_numpy(video.segments_snip) for video in data.train]

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        return training_batches(data.train, options.batch_size, options.max_proposal, generator, precision)

    def step(batch: Batch) -> None:
        model.train()
        seal.training_step(model, batch, data, criterion, optimizer, 1)

    for batch in itertools.islice(batches(), 2):  # warms up
        step(batch)
        products(len(batch.rows), backward=True)
    times = []
    epoch = batches()
    for i in range(len(data.train) // options.batch_size):
        moments = [clock(device)]
        batch = next(epoch)  # making a batch belongs to the step
        step(batch)
        moments.append(clock(device))
        products(len(batch.rows), backward=True)
        moments.append(clock(device))
        if i % 2 == 0 and device.type == "cpu":
            raw, own = ([x[j] for j in batch.videos] for x in (features, segments))
            padded_step(model, criterion, optimizer, raw, own, batch.labels, data.pseudo.select(batch.videos))
            moments.append(clock())
        times.append(np.diff(moments))
    return pd.DataFrame(times, columns=["step", "products", "padded"][: len(times[0])])


def measure_training(table: Table, data: Data, options: Options, features: list[Tensor]) -> None:
    """A training epoch in each precision beside its matrix products, and some steps beside the padded ones."""
    padded_float32 = None
    for precision in PRECISIONS:
        times = training_times(*at_precision(data, options, precision), features)
        table.add(f"training epoch, {precision}", times["step"].sum(), times["products"].sum())
        if "padded" not in times:
            continue
        some = times.dropna()
        ours, padded = some["step"].sum(), some["padded"].sum()
        table.add(f"{len(some)} padded steps over ours, {precision}", padded, ours)
        if padded_float32 is None:
            padded_float32 = padded
        else:
            table.add(f"{len(some)} padded float32 steps over ours, {precision}", padded_float32, ours)


def measure_saving(table: Table, data: Data, options: Options, folder: Path, repeats: int) -> None:
    """`resume.pt`, as it is written at signals and by the thread, beside a bare write of as many bytes."""
    device = data.train[0].proposals.device
    model = load_network(options, data, device, None)
    optimizer = seal.build_optimizer(options, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = TrainingState(
        folder / "resume.pt",
        options=plain_values(options),
        data=data.digest(),
        terms=seal.build_criterion(options).names,
        model=model,
        optimizer=optimizer,
        generator=torch.Generator(),
        others={},
    )
    state.save()
    content = state.path.read_bytes()

    def bare() -> None:
        with open(folder / "bare", "wb") as file:
            file.write(content)
            os.fsync(file.fileno())

    table.add(f"saving resume.pt, {len(content) / 1e6:.0f} MB", *medians(2 * repeats + 1, state.save, bare))


def measure_testing(table: Table, data: Data, options: Options, repeats: int) -> None:
    """A test pass in each precision, and its post-processing alone."""
    device = data.test[0].proposals.device
    sizes = [len(video.proposals) for video in data.test]
    chunks = [2048] * (sum(sizes) // 2048) + [sum(sizes) % 2048]
    for precision in PRECISIONS:
        kept, chosen = at_precision(data, options, precision)
        model = load_network(chosen, kept, device, None)
        products = Products(2048, WIDTH, workload.NUM_CLASS, getattr(torch, precision), device)
        forward = partial(map, partial(products, backward=False), chunks)
        whole = partial(build_evaluator(chosen, kept), model)
        times = medians(repeats, whole, lambda run=forward: list(run()), device=device)
        table.add(f"test pass, {precision}", *times)

    logits = torch.randn(sum(sizes), workload.NUM_CLASS + 3) * 3
    outputs = dict(zip(LOGITS, (logits[:, :-2], logits[:, -2], logits[:, -1]), strict=True))
    listed = [video.listed for video in data.test]
    post_process = build_post_process(options)
    pairs = np.random.default_rng(0).random(max(sizes) ** 2)
    took, floor = medians(
        repeats,
        lambda: post_process(outputs, listed, [None] * len(listed)),
        lambda: [np.exp(pairs[: size**2]) for size in sizes],
    )
    table.add(f"post-processing, {sum(sizes)} proposals", took, floor)


def measure_logging(table: Table, name: str, data: Data, options: Options, folder: Path, repeats: int) -> None:
    """All that is recorded of an epoch, and of its share of an evaluation, beside the time that the epoch takes."""
    device = data.train[0].proposals.device
    model, criterion = load_network(options, data, device, None), seal.build_criterion(options)
    optimizer, generator = seal.build_optimizer(options, model), torch.Generator().manual_seed(0)
    dashboard = seal.Dashboard(dashboard_settings(options), data, criterion.weights)
    with Run(folder) as run:
        run.plan(replace(build_plan(options), last_epoch=10**6))  # the last epoch records more
        run.attach(data, criterion, generator, dashboard, model=model, optimizer=optimizer)
        epochs = run.epochs()
        next(epochs)
        began = clock(device)
        run.step_values.extend(
            seal.training_step(model, batch, data, criterion, optimizer, 1) for batch in run.batches()
        )
        seconds = clock(device) - began
        evaluation = build_evaluator(options, data)(model)

        def record_evaluation() -> None:
            run.record_evaluation(evaluation)

        once = medians(1, run.end_epoch, record_evaluation)
        each = medians(repeats, run.end_epoch, record_evaluation)
    added = each[0] + each[1] / options.interval
    share = {"% of an epoch": round(100 * added / seconds, 2), "epoch": round(seconds, 3)}
    share |= {"evaluation": round(each[1], 4), "once, at the start": round(sum(once) - sum(each), 3)}
    table.add(f"logging an epoch, {name}", added, **share)


def measure_evaluation(table: Table, name: str, inputs: EvaluationInput, repeats: int) -> None:
    """Both protocols."""
    detections, instances = inputs.segments("seconds")
    keys = video_class_keys(detections, instances)
    detection, instance = (np.concatenate(arrays) for arrays in zip(*candidate_pairs(*keys), strict=True))

    def bare() -> None:
        for _ in ("snippet", "seconds"):
            np.argsort(-detections.score, kind="stable")
            tiou(detections.segment[detection], instances.segment[instance])

    took, floor = medians(repeats, partial(evaluate, inputs), bare)
    table.add(f"evaluation, {len(detections)} detections, {name}, both protocols", took, floor)


def activitynet_sized(folder: Path | None) -> EvaluationInput:
    """100 detections for each of 4,575 videos of 200 classes, scattered about the first instance of the video."""
    rng = np.random.default_rng(0)
    if folder is not None:
        annotations = read_annotations(folder)
        truth, classes = annotations.ground_truth("validation"), annotations.class_names
    else:
        start = rng.uniform(0, 100, 7000)
        truth = pd.DataFrame({"video": [f"v{i % 4575}" for i in range(7000)], "class_idx": rng.integers(0, 200, 7000)})
        truth = truth.assign(start_sec=start, end_sec=start + rng.uniform(5, 100, 7000))
        classes = [str(i) for i in range(200)]
    videos = truth["video"].unique()
    seed = truth.groupby("video", sort=False).first().loc[videos]
    near = seed[["start_sec", "end_sec"]].to_numpy().repeat(100, axis=0)
    sec = np.sort(near + rng.normal(0, 0.3, near.shape) * (near[:, 1:] - near[:, :1]), axis=1)
    class_idx = np.where(
        rng.random(len(sec)) < 0.7, seed["class_idx"].to_numpy().repeat(100), rng.integers(0, 200, len(sec))
    )
    table = pd.DataFrame({"video": videos.repeat(100), "class_idx": class_idx, "score": rng.random(len(sec))})
    for unit, factor in (("snip", SNIPPETS_PER_SECOND), ("sec", 1)):
        table[[f"start_{unit}", f"end_{unit}"]] = sec * factor
    return EvaluationInput(table, truth, list(classes), TIOU_PROTOCOLS["activitynet"], SNIPPETS_PER_SECOND)


# Trains in a process of its own, and says how much memory that took at most: the system's account of a finished process
# would count what this one had when it started it.
CHILD = """
import json, pathlib, resource, sys
sys.path.insert(0, sys.argv[1])
from main import main
status = main(sys.argv[2:])
own = pathlib.Path("/proc/self/status")
if own.exists():
    peak = 1024 * next(int(line.split()[1]) for line in own.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pathlib.Path("peak.json").write_text(json.dumps(peak / 1e9))
sys.exit(status)
"""


def run_main(home: Path, *argv: str) -> tuple[float, list[float]]:
    """Train in a process of its own: its peak memory in GB, and the seconds of its epochs."""
    command = [sys.executable, "-c", CHILD, str(REPOSITORY), "--dataset_name", workload.NAME, "--recipe", "paper"]
    command += ["--overwrite", *argv]
    subprocess.run(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    lines = [json.loads(line) for line in (home / "outputs" / "metrics.jsonl").read_text().splitlines()]
    return json.loads((home / "peak.json").read_text()), [line["seconds"] for line in lines if "seconds" in line]


def measure_memory(table: Table, home: Path) -> None:
    """Peak memory of whole training runs, two epochs and an evaluation each."""
    for argv in (
        ("--cache", "memory"),
        ("--cache", "memory", "--pooled_dtype", "float16"),
        ("--cache", "memory", "--precision", "bfloat16"),
        ("--cache", "none"),
    ):
        peak, _ = run_main(home, "--max_epoch", "2", "--interval", "2", *argv)
        table.add(f"peak memory of training, GB: {' '.join(argv)}", peak)


def measure_tenfold(table: Table, home: Path, clips: list[workload.Clip]) -> None:
    """Ten times the training videos, which are not kept in memory: peak memory, and time per video."""
    per_video = {}
    for times in (1, 10):
        more = workload.repeated(clips, times)
        workload.write_dataset(home, more, WIDTH)
        count = sum(clip.subset == workload.SUBSETS["train"] for clip in more)
        peak, took = run_main(home, "--max_epoch", "1", "--interval", "0", "--cache", "none")
        per_video[times] = took[0] / count
        table.add(f"peak memory of training, GB: --cache none, {count} training videos", peak)
    table.add("seconds per training video, ten times the videos over one time", per_video[10], per_video[1])


# ------------------------------------------------------------------------------------------------ the whole


def load(home: Path, device: torch.device) -> tuple[Data, Options, list[Tensor]]:
    """The dataset under a folder, main.py's default options for it, and the features of its training videos."""
    root = home / "data" / workload.NAME
    argv = ["--dataset_name", workload.NAME, "--recipe", "paper", "--cache", "memory", "--dataset_root", str(root)]
    argv += ["--proposals_root", str(home / "proposals4Thumos14"), "--descriptors_root", str(home / "descriptors")]
    options = parse_options(argv)
    data = load_data(options, device)
    return data, options, [torch.from_numpy(np.load(root / "features" / f"{v.name}.npy")) for v in data.train]


def load_demo(home: Path, device: torch.device) -> tuple[Data, Options]:
    """The demo, made under a folder, and main.py's default options for it."""
    root = home / "demo"
    make_demo(root, root, root)
    argv = ["--dataset_name", "Demo", "--recipe", "paper", "--dataset_root", str(root)]
    options = parse_options([*argv, "--proposals_root", str(root), "--descriptors_root", str(root)])
    return load_data(options, device), options


def real_detections(annotation_folder: Path, proposals_root: Path) -> EvaluationInput:
    """The proposals of the test videos with their labels and scores, which make them detections."""
    annotations = read_annotations(annotation_folder)
    name = annotation_folder.name.removesuffix("-Annotations")
    path = proposals_root / f"Proposals_{name}_test.json"
    names, protocol = annotations.class_names, TIOU_PROTOCOLS["thumos14"]
    file = read_detections(path, annotations.videos_of("test"), names, SNIPPETS_PER_SECOND)
    return EvaluationInput(file.detections, annotations.ground_truth("test"), names, protocol, SNIPPETS_PER_SECOND)


def measure(args: argparse.Namespace, clips: list[workload.Clip], home: Path) -> list[dict]:
    """Measure everything that is asked for; the rows of the table."""
    repeats = 1 if args.quick else 3
    table = Table()
    workload.write_dataset(home, clips, WIDTH)
    data, options, features = load(home, pick_device(args.device))
    if "pooling" in args.parts:
        segments = [torch.from_numpy(video.segments_snip) for video in data.train]
        measure_pooling(table, features, segments, repeats)
    if "training" in args.parts:
        measure_training(table, data, options, features)
        measure_saving(table, data, options, home, repeats)
    if "testing" in args.parts:
        measure_testing(table, data, options, repeats)
    if "evaluation" in args.parts:
        if args.annotations:
            detections = real_detections(args.annotations, args.proposals)
        else:
            model = load_network(options, data, data.train[0].proposals.device, None)
            detections = build_evaluator(options, data)(model).inputs
        measure_evaluation(table, "THUMOS14's size", detections, 2 * repeats - 1)
        measure_evaluation(table, "ActivityNet 1.3's size", activitynet_sized(args.activitynet), 2 * repeats - 1)
    if "logging" in args.parts:
        measure_logging(table, "THUMOS14's size", data, options, home, 10 * repeats - 9)
        measure_logging(table, "the demo", *load_demo(home, pick_device(args.device)), home / "demo", 10 * repeats - 9)
    del data, features
    if "memory" in args.parts:
        measure_memory(table, home)
    if "tenfold" in args.parts:
        measure_tenfold(table, home, clips)
    return table.rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a tenth of the videos, and no parts but the first five")
    add("--parts", nargs="+", choices=PARTS, default=PARTS[:-1], help="tenfold writes 7 GB of features for a while")
    add("--annotations", type=Path, help="Thumos14reduced-Annotations")
    add("--proposals", type=Path, help="folder of its two proposal files, with labels and scores")
    add("--activitynet", type=Path, help="ActivityNet1.3-Annotations")
    add("--device", default="cpu", help="where to train and test")
    add("--json", type=Path, default=Path("benchmark.json"), help="file for the result")
    args = parser.parse_args(argv)
    if (args.annotations is None) != (args.proposals is None):
        parser.error("--annotations and --proposals go together")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as main.py does
    seed_everything(0)
    real = args.annotations is not None
    clips = workload.real_clips(args.annotations, args.proposals) if real else workload.invented_clips()
    if args.quick:
        args.parts = [part for part in args.parts if part in PARTS[:5]]
        clips = workload.some_of_each(clips, 10)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, clips, Path(folder) / "home")
    machine = {"device": args.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    machine |= {"videos": len(clips), "data": "THUMOS14's" if real else "invented", "quick": args.quick}
    args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"\n{machine}\n{pd.DataFrame(rows).to_string(index=False, na_rep='', justify='left')}\nwritten: {args.json}")


if __name__ == "__main__":
    main()
