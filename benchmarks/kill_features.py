"""Are features whole, and the same, whatever happens to the processes that make them? Two at a time are killed.

    python benchmarks/kill_features.py                             # 60 videos, 20 kills
    python benchmarks/kill_features.py --videos 6 --kills 4        # two minutes on two cores

Two processes make the features of one folder of videos, with random weights of I3D. Each is killed again and again, by
SIGKILL after a random time, or when it is about to open, rename or remove a file among the features, and started again.
What is there in the end must be what one undisturbed process makes, to the bit, and no other file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.kill import start_python

# main.py, in a process that kills itself right before the n-th time that it changes a name among the features; with 0
# it counts, and writes how many times there were.
CHILD = """
import os, signal, sys
fatal, count = int(sys.argv[1]), 0

def hook(event, args):
    global count
    changes = event in ("os.rename", "os.remove") or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
    if changes and not isinstance(args[0], int) and os.fsdecode(args[0]).split(os.sep)[0] == "features":
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
from main import main
status = main(sys.argv[2:])
if not fatal:
    with open("changes.txt", "w") as file:
        file.write(str(count))
sys.exit(status)
"""


def make_videos(folder: Path, count: int) -> None:
    """Make short videos of a disc that moves, of 17 to 30 frames each."""
    folder.mkdir()
    y, x = np.mgrid[:96, :128]
    for i in range(count):
        draw = random.Random(i)
        start, speed = (draw.uniform(20, 90), draw.uniform(20, 70)), (draw.uniform(-2, 2), draw.uniform(-2, 2))
        with av.open(str(folder / f"video {i:02}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for k in range(draw.randint(17, 30)):
                inside = (x - start[0] - k * speed[0]) ** 2 + (y - start[1] - k * speed[1]) ** 2 < 300
                picture = np.where(inside[..., None], (220, 160, 40), (40, 60, 90)).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))


def left(folder: Path) -> dict[str, str]:
    """A hash of each file in a folder, hidden ones too."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


class Home:
    """The videos, and how features of them are made.

    Args:
        folder: an empty one.
        videos: how many to make.
        argv: further options of main.py.
    """

    def __init__(self, folder: Path, videos: int, argv: Sequence[str]) -> None:
        self.folder = folder
        make_videos(folder / "videos", videos)
        self.argv = ["--run_type", "features", "--videos", str(folder / "videos"), "--i3d_weights", "random"]
        self.argv += ["--features", "features", "--device", "cpu", "--workers", "1", *argv]

    def start(self, cwd: Path, fatal_change: int, output: str) -> subprocess.Popen:
        """Start a process that makes features in `cwd/features`."""
        return start_python(CHILD, [str(fatal_change), *self.argv], cwd, cwd / output)

    def undisturbed(self) -> tuple[dict[str, str], float, int]:
        """What one process makes, the seconds it takes, and how often it changes a name."""
        cwd = self.folder / "undisturbed"
        cwd.mkdir()
        began = time.perf_counter()
        if self.start(cwd, 0, "output.txt").wait():
            raise RuntimeError((cwd / "output.txt").read_text())
        return left(cwd / "features"), time.perf_counter() - began, int((cwd / "changes.txt").read_text())


class Killing:
    """Two processes in one folder, each killed half of the times.

    Args:
        home: the videos.
        cwd: an empty folder.
        seconds: that a process lives, at most.
        changes: of names after which one is killed, at most.
    """

    def __init__(self, home: Home, cwd: Path, seconds: float, changes: int) -> None:
        self.home, self.cwd, self.seconds, self.changes = home, cwd, seconds, changes
        self.moments: list[str] = []
        self.failures: list[str] = []

    def run(self, kills: int, seed: int) -> None:
        """Kill so many times, unless all is done before, then let both end."""
        workers = [
            threading.Thread(target=self._keep_killing, args=(kills // 2 + (i < kills % 2), 2 * seed + i))
            for i in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self.failures:
            raise RuntimeError(self.failures[0])

    def _keep_killing(self, kills: int, seed: int) -> None:
        draw, output = random.Random(seed), f"output {seed}.txt"
        for remaining in range(kills, -1, -1):
            at_a_change = draw.random() < 0.5
            child = self.home.start(
                self.cwd, draw.randint(1, self.changes) if at_a_change and remaining else -1, output
            )
            try:
                child.wait(None if at_a_change or not remaining else draw.uniform(0, self.seconds))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.returncode > 0:
                self.failures.append((self.cwd / output).read_text())
            if child.returncode >= 0:
                return
            self.moments.append(self._stage() + (", at a change of files" if at_a_change else ", at some time"))

    def _stage(self) -> str:
        """How far the features are."""
        features = self.cwd / "features"
        if not features.exists():
            return "before there was a folder"
        if any(features.glob(".*.part")):
            return "with a file half written"
        return "with a video locked" if any(features.glob(".*.lock")) else "between videos"


def kill_features(folder: Path, *, videos: int, kills: int, argv: Sequence[str] = ()) -> Counter:
    """Make features with processes that are killed; begin anew, from nothing, until there were enough kills.

    Args:
        folder: an empty one.
        videos: how many to make.
        kills: how many times a process is killed.
        argv: further options of main.py.

    Returns:
        How many processes were killed at each stage.

    Raises:
        RuntimeError: a process fails, or what is left is not what an undisturbed process makes.
    """
    home = Home(folder, videos, argv)
    expected, seconds, changes = home.undisturbed()
    print(f"undisturbed: {len(expected)} files of {videos} videos, {seconds:.0f} s, {changes} changes", flush=True)
    stages: Counter = Counter()
    for turn in range(kills):
        cwd = folder / f"killed {turn}"
        cwd.mkdir()
        killing = Killing(home, cwd, 2 * seconds / kills + 5, max(2, 2 * changes // kills))
        killing.run(kills - stages.total(), turn)
        found = left(cwd / "features")
        if different := [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]:
            raise RuntimeError(f"after {len(killing.moments)} kills, not as in the undisturbed folder: {different}")
        stages.update(killing.moments)
        print(f"{len(found)} files equal after {len(killing.moments)} kills", flush=True)
        if stages.total() >= kills:
            break
    return stages


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos", type=int, default=60)
    add("--kills", type=int, default=20)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        stages = kill_features(Path(folder), videos=args.videos, kills=args.kills)
    print(f"\nevery file equals that of the undisturbed process, after {stages.total()} kills:")
    print("\n".join(f"{count:5d} {name}" for name, count in stages.most_common()))


if __name__ == "__main__":
    main()
