"""Makes small videos of moving shapes, to try the way from videos to detections without any data.

    python -m prepare.make_videos

writes `data/Shapes/videos/*.mp4` and `data/Shapes/annotations.json`: videos for training with labels alone, and videos
for testing with the times of their actions. A dark shape wanders about in each; now and then a coloured one comes, and
its form, colour and motion tell the class. Results on them say nothing about real videos.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from prepare.video_frames import HEIGHT, WIDTH  # so that nothing is scaled
from prepare.video_packages import require_video_packages
from readers.features import SIMULATED_MARK
from utils import InputError, is_plain_name, printable, require_writable, whole_file, write_json

FPS = 25
RADIUS = 52  # of a shape, in pixels
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


class Pose(NamedTuple):
    """Where a shape is, in pixels, and how far it is turned, in radians."""

    x: float
    y: float
    angle: float = 0.0


class Look(NamedTuple):
    """The shape of a class, and how it moves."""

    colour: tuple[int, int, int]
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of points whose unit is the radius
    pose: Callable[[float], Pose]  # after seconds of an action


# Optical flow takes several times as long where much moves far, so motions are slow, shapes plain, and the background
# stands still.
CLASSES = {
    "Roll": Look(
        (225, 45, 35), lambda u, v: u**2 + v**2 < 1, lambda t: Pose(60 + (80 * t + 40) % 220, 150, 80 * t / RADIUS)
    ),
    "Drop": Look(
        (40, 80, 235), lambda u, v: np.maximum(abs(u), abs(v)) < 0.85, lambda t: Pose(170, 30 + (95 * t + 30) % 196)
    ),
    "Spin": Look(
        (40, 190, 60),
        lambda u, v: (np.minimum(abs(u), abs(v)) < 0.35) & (np.maximum(abs(u), abs(v)) < 1.3),
        lambda t: Pose(170, 128, 2 * t),
    ),
    "Shake": Look(
        (245, 215, 40),
        lambda u, v: (abs(u) < 0.5) & (abs(v) < 1.7),
        lambda t: Pose(170 + 18 * math.sin(3 * math.pi * t), 128),
    ),
}


@dataclass(frozen=True)
class Scene:
    """What happens in a video; times in seconds."""

    name: str
    seed: int
    seconds: float
    actions: tuple[tuple[str, float, float], ...]  # class, start, end


# ------------------------------------------------------------------------------------- what happens


def invent_scene(name: str, main_class: int, seed: int) -> Scene:
    """Invent a video of one class or, with probability 1/4, of two: two actions of 2 to 4 s.

    They are 3 s apart at least, about five snippets, which is what the network that makes proposals sees at once.
    """
    rng, classes = np.random.default_rng(seed), [*CLASSES]
    first = classes[main_class % len(classes)]
    other = classes[(main_class + int(rng.integers(1, len(classes)))) % len(classes)] if rng.random() < 0.25 else first
    actions, t = [], rng.uniform(1.2, 2.2)
    for label in (first, other):
        start, t = t, t + rng.uniform(2, 4)
        actions.append((label, round(start, 2), round(t, 2)))
        t += rng.uniform(3, 4)
    return Scene(name, seed, round(t - rng.uniform(1.2, 2.2), 2), tuple(actions))


def entry_of(scene: Scene, subset: str) -> dict[str, Any]:
    """What the annotations have of a video: of one for training the labels alone."""
    if subset == "training":
        annotations: list[dict[str, Any]] = [
            {"label": label} for label in sorted({label for label, *_ in scene.actions})
        ]
    else:
        annotations = [{"label": label, "segment": times} for label, *times in scene.actions]
    return {"subset": subset, "duration": num_frames(scene) / FPS, "annotations": annotations}


def num_frames(scene: Scene) -> int:
    """F of a video."""
    return round(scene.seconds * FPS)


# ---------------------------------------------------------------------------------------- drawing


def draw(scene: Scene) -> Iterator[np.ndarray]:
    """Draw the frames of a video, uint8 `[HEIGHT, WIDTH, 3]`."""
    rng = np.random.default_rng([scene.seed, 1])
    background = _texture(rng)
    speed, phase = rng.uniform(0.5, 0.9, 2), rng.uniform(0, 2 * math.pi, 2)  # of the shape that wanders
    for i in range(num_frames(scene)):
        t = i / FPS
        frame = background.copy()
        across, down = np.sin(speed * t + phase)
        _paint(frame, (60, 60, 60), lambda u, v: u**2 + (1.6 * v) ** 2 < 0.5, Pose(170 + 110 * across, 128 + 70 * down))
        for label, start, end in scene.actions:
            if start <= t < end:
                look = CLASSES[label]
                _paint(frame, look.colour, look.inside, look.pose(t - start))
        yield frame


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Smooth blotches in a muted colour, uint8 `[HEIGHT, WIDTH, 3]`."""
    grey: np.ndarray = np.zeros((HEIGHT, WIDTH))
    for cell in (8, 24):  # pixels
        coarse = rng.standard_normal((HEIGHT // cell + 2, WIDTH // cell + 2))
        wide = np.stack([np.interp(X[0] / cell, np.arange(len(row)), row) for row in coarse])
        grey += np.stack([np.interp(Y[:, 0] / cell, np.arange(len(row)), row) for row in wide.T], axis=1)
    tint = rng.uniform(97, 103, 3)
    return (tint + 7 * grey[..., None]).clip(0, 255).astype(np.uint8)


def _paint(
    frame: np.ndarray, colour: tuple[int, int, int], inside: Callable[[np.ndarray, np.ndarray], np.ndarray], pose: Pose
) -> None:
    """Paint a shape into a frame."""
    dx, dy = (X - pose.x) / RADIUS, (Y - pose.y) / RADIUS
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    frame[inside(u, v)] = colour


# ---------------------------------------------------------------------------------------- writing


def write_video(scene: Scene, folder: Path) -> Path:
    """Write a video whole, as browsers play it; returns its file."""
    import av

    codec, ending, options = _codec()
    path = folder / f"{scene.name}{ending}"
    with (
        whole_file(path, "wb") as file,
        av.open(file, "w", format=ending[1:], options={"movflags": "+faststart"}) as video,
    ):
        stream = video.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = WIDTH, HEIGHT, "yuv420p", FPS
        stream.codec_context.thread_count = 1
        for frame in draw(scene):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        video.mux(stream.encode())
    return path


def _codec() -> tuple[str, str, dict[str, str]]:
    """A codec that is installed and that browsers know, the ending of its files, and its settings."""
    import av

    if "libx264" in av.codecs_available:
        return "libx264", ".mp4", {"preset": "veryfast", "crf": "23"}
    return "libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "6", "crf": "30", "b:v": "0"}


def make_videos(folder: Path, *, train: int = 12, test: int = 8, seed: int = 0) -> list[Scene]:
    """Make a dataset of videos.

    Args:
        folder: of the dataset; its videos and annotations must not exist.
        train: videos for training.
        test: videos for testing.
        seed: of everything random. The same seed draws the same frames; FFmpeg's version says how they are packed.

    Returns:
        What happens in each.

    Raises:
        InputError: packages are missing, there is something already, or the folder cannot be written to.
    """
    require_video_packages()
    require_writable(folder, "--folder")
    videos, annotations = folder / "videos", folder / "annotations.json"
    for path in (videos, annotations):
        if path.exists():
            raise InputError(
                f"{path} exists, and made videos do not replace files; remove it, or name another --folder"
            )
    scenes = [invent_scene(f"shapes_train_{i + 1:03d}", i, 1000 * seed + i) for i in range(train)]
    scenes += [invent_scene(f"shapes_test_{i + 1:03d}", i, 1000 * seed + train + i) for i in range(test)]
    progress = tqdm(scenes, desc="making videos", unit="video", leave=False)
    Parallel(n_jobs=-1, prefer="threads")(delayed(write_video)(scene, videos) for scene in progress)
    with whole_file(folder / SIMULATED_MARK) as file:
        file.write(
            "The videos here are drawn (prepare/make_videos.py): results on them say nothing about real videos.\n"
        )
    subsets = ["training"] * train + ["validation"] * test
    database = {scene.name: entry_of(scene, subset) for scene, subset in zip(scenes, subsets, strict=True)}
    write_json(annotations, {"database": database})  # last: the dataset is complete when it exists
    return scenes


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m prepare.make_videos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("data/Shapes"), help="of the dataset, which it names")
    parser.add_argument("--train", type=int, default=12, help="videos for training")
    parser.add_argument("--test", type=int, default=8, help="videos for testing")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if not is_plain_name(args.folder.name):
            raise InputError(f"--folder {args.folder}: its last part names the dataset, so it must be a plain name")
        if args.train < 1 or args.test < 1 or args.seed < 0:
            raise InputError("--train and --test must be at least 1, and --seed not negative")
        scenes = make_videos(args.folder, train=args.train, test=args.test, seed=args.seed)
    except InputError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    seconds, videos = sum(num_frames(scene) for scene in scenes) / FPS, args.folder / "videos"
    megabytes = sum(path.stat().st_size for path in videos.iterdir()) / 1e6
    print(
        f"{args.train} videos to train and {args.test} to test on, {seconds:.0f} s in all, {megabytes:.1f} MB: {videos}"
    )
    words = ["python", "main.py", "--run_type", "features", "--dataset_name", args.folder.name]
    words += [] if args.folder.parent == Path("data") else ["--dataset_root", str(args.folder)]
    print(f"done; next: {shlex.join([*words, '--videos', str(videos), '--i3d_weights', 'random'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
