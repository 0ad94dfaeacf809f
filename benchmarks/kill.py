"""Does a run that is killed, and resumed, end as if nothing had happened? Demo runs are killed at random moments.

    python benchmarks/kill.py                                      # 60 runs of the demo, half an hour on two cores
    python benchmarks/kill.py --runs 4 --jobs 1 --max_epoch 6      # a minute

Every run is killed one to three times, by SIGKILL after a random time, or when it is about to open, rename or remove a
file; then it is resumed to its end. What it leaves must be what an uninterrupted run leaves, to the bit: the weights,
`resume.pt`, results, detections and logs, but for the seconds in them, and no other file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from joblib import Parallel, delayed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prepare.make_demo import make_demo

REPOSITORY = Path(__file__).resolve().parents[1]

# main.py, in a process that kills itself right before the n-th time that it changes a name in the folder of its run;
# with 0 it counts, and writes how many times there were.
CHILD = """
import os, signal, socket, sys, time
socket.gethostname = lambda: f"{time.time_ns():020}"  # TensorBoard reads a run's files in the order of their names
fatal, count = int(sys.argv[1]), 0

def hook(event, args):
    global count
    changes = event in ("os.rename", "os.remove") or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
    if changes and not isinstance(args[0], int) and os.fsdecode(args[0]).split(os.sep)[0] == "run":
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


class Process(Protocol):
    """What is needed of `subprocess.Popen`."""

    returncode: int

    def poll(self) -> int | None: ...  # noqa: D102
    def wait(self, timeout: float | None = None) -> int: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102


def start_python(code: str, argv: Sequence[str], cwd: Path, output: Path) -> subprocess.Popen:
    """Start `python -c code argv…` in a folder; what it prints is appended to a file."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(output, "ab") as stream:
        command = [sys.executable, "-c", code, *argv]
        return subprocess.Popen(command, cwd=cwd, env=os.environ | {"PYTHONPATH": path}, stdout=stream, stderr=stream)


@dataclass
class Home:
    """The demo dataset, how runs of it are started, and with which options."""

    folder: Path
    argv: Sequence[str]  # of main.py
    start: Callable[[str, Sequence[str], Path, Path], Process]  # see `start_python`

    def launch(self, cwd: Path, fatal_change: int = -1, *more: str) -> Process:
        """Start, or resume, the run in `cwd/run`."""
        argv = ["--dataset_name", "Demo", "--dataset_root", str(self.folder / "data")]
        argv += ["--proposals_root", str(self.folder), "--descriptors_root", str(self.folder)]
        argv = [str(fatal_change), *argv, *self.argv, "--exp_dir", "run", *more]
        return self.start(CHILD, argv, cwd, cwd / "output.txt")


def left(run: Path) -> dict[str, str]:
    """What a run has left: a hash of each file, and for TensorBoard's what it shows."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or path.parent.name == "logs" or name in ("opt.txt", "options.json"):  # of the last start
            continue
        content = path.read_bytes()
        if name == "metrics.jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([line | {"seconds": 0} for line in lines]).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    board = EventAccumulator(str(run / "logs"), size_guidance={"scalars": 0})
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each epoch that is there twice, as is meant
    board.Reload()
    tags = [tag for tag in sorted(board.Tags()["scalars"]) if not tag.startswith("speed/")]
    shown = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags}
    return found | {"logs": hashlib.sha256(json.dumps(shown).encode()).hexdigest()}


def reference(home: Home) -> tuple[dict[str, str], float, int]:
    """What an uninterrupted run leaves, the seconds it takes, and how often it changes a name."""
    cwd = home.folder / "reference"
    cwd.mkdir()
    began = time.perf_counter()
    if home.launch(cwd, 0).wait():
        raise RuntimeError((cwd / "output.txt").read_text())
    return left(cwd / "run"), time.perf_counter() - began, int((cwd / "changes.txt").read_text())


def kill_and_resume(home: Home, seed: int, seconds: float, changes: int) -> tuple[dict[str, str], list[str]]:
    """Kill a run up to three times, and let it end; what it leaves, and where it was when it was killed."""
    draw = random.Random(seed)
    cwd = home.folder / f"killed_{seed}"
    cwd.mkdir()
    moments = []
    for _ in range(draw.randint(1, 3)):
        at_a_change, at_the_start = draw.random() < 0.5, draw.random() < 0.2
        child = home.launch(cwd, draw.randint(1, changes) if at_a_change else -1, "--resume", "auto")
        if not (at_a_change or at_the_start):  # most of the time until there is a `resume.pt` goes into imports
            while child.poll() is None and not (cwd / "run" / "ckpt" / "resume.pt").exists():
                time.sleep(0.01)
        try:
            child.wait(None if at_a_change else draw.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.returncode < 0:
            moments.append(stage(cwd / "run") + (", at a change of files" if at_a_change else ", at some time"))
        elif child.returncode:
            raise RuntimeError((cwd / "output.txt").read_text())
    if home.launch(cwd, -1, "--resume", "auto").wait():
        raise RuntimeError((cwd / "output.txt").read_text())
    return left(cwd / "run"), moments


def stage(run: Path) -> str:
    """How far a run was when it was killed."""
    if not (run / "ckpt" / "resume.pt").exists():
        return "before there was a resume.pt"
    if list(run.rglob(".*.part")):
        return "with a file half written"
    return "with results" if (run / "results.json").exists() else "in training"


def kill_runs(
    folder: Path,
    *,
    runs: int,
    jobs: int,
    argv: Sequence[str],
    feature_size: int,
    start: Callable[[str, Sequence[str], Path, Path], Process] = start_python,
) -> Counter:
    """Kill runs of the demo, and resume them.

    Args:
        folder: an empty one.
        runs: how many.
        jobs: how many at a time.
        argv: options of the runs.
        feature_size: of the demo.
        start: starts a process, see `start_python`.

    Returns:
        How many runs were killed at each stage.

    Raises:
        RuntimeError: a run fails, or leaves something else than the uninterrupted one.
    """
    make_demo(folder / "data", folder, folder, feature_size=feature_size)
    home = Home(folder, argv, start)
    expected, seconds, changes = reference(home)
    print(f"uninterrupted: {seconds:.1f} s, {changes} changes of files, leaves {', '.join(expected)}", flush=True)
    stages: Counter = Counter()
    results = Parallel(n_jobs=jobs, prefer="threads", return_as="generator")(
        delayed(kill_and_resume)(home, seed, seconds, changes) for seed in range(runs)
    )
    for i, (found, moments) in enumerate(results):
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if different:
            raise RuntimeError(f"run {i}, killed {'; '.join(moments)}, differs from the uninterrupted one: {different}")
        stages.update(moments)
        print(f"run {i}: killed {len(moments)} times ({'; '.join(moments)}), and equal", flush=True)
    return stages


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--runs", type=int, default=60)
    add("--jobs", type=int, default=2, help="runs at a time")
    add("--threads", type=int, default=1, help="of a run")
    add("--max_epoch", type=int, default=100)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    argv = ["--max_epoch", str(args.max_epoch), "--max_proposal", "40"]  # so that every step draws from the shuffler
    with tempfile.TemporaryDirectory() as folder:
        stages = kill_runs(Path(folder), argv=argv, feature_size=256, runs=args.runs, jobs=args.jobs)
    print(f"\nall {args.runs} runs equal the uninterrupted one, after {stages.total()} kills:")
    print("\n".join(f"{count:5d} {name}" for name, count in stages.most_common()))


if __name__ == "__main__":
    main()
