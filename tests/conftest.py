"""Fixtures: the demo dataset, and the real annotations where they are at hand."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Processes
from hypothesis import HealthCheck, settings
from reader_cases import SHARED

import main
from prepare.make_demo import make_demo

PARITY = Path(__file__).parent / "parity"

# The same inputs every time, and few; `--hypothesis-profile long` draws many new ones.
for name, options in {"short": {"max_examples": 60, "derandomize": True}, "long": {"max_examples": 20_000}}.items():
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile(name, database=None, deadline=None, suppress_health_check=slow, **options)
settings.load_profile("short")

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and tests of a closed terminal would fail

torch.set_num_threads(1)  # the arrays are tiny, and threads that wait for a busy core would cost more than they give


@pytest.fixture
def parity() -> Path:
    return PARITY


@pytest.fixture
def thumos() -> Path:
    """The real THUMOS14 annotations and the public base detections."""
    if not (SHARED / "thumos14").is_dir():
        pytest.skip(f"the real THUMOS14 annotations are not in {SHARED}")
    return SHARED / "thumos14"


@pytest.fixture
def activitynet() -> Path:
    if not (SHARED / "activitynet").is_dir():
        pytest.skip(f"the real ActivityNet annotations are not in {SHARED}")
    return SHARED / "activitynet"


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory) -> Path:
    """A working folder with a narrow Demo dataset, as main.py would make it. Tests must not change it."""
    home = tmp_path_factory.mktemp("home")
    make_demo(home / "data" / "Demo", home / "proposals4Thumos14", home / "descriptors", feature_size=32)
    return home


@pytest.fixture(scope="session")
def run_once(demo_home) -> Callable[..., None]:
    """Runs main.py's command line in `demo_home`, for fixtures that outlive a test; it must succeed.

    With `draw`, TensorBoard gets timelines.
    """

    def run(*argv: object, draw: bool = False) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(demo_home)
            if not draw:
                patch.setattr("report.dashboard.NUM_VIDEOS", 0)
            assert main.main([str(word) for word in argv]) == 0

    return run


class Runner:
    """Runs main.py's command line inside a folder and returns its exit status and output."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        monkeypatch.chdir(home)
        self._capsys = capsys

    def __call__(self, *argv: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        try:
            status = main.main([str(word) for word in argv])
        except SystemExit as exit:  # argparse ends the program by itself
            status = exit.code
        out, err = self._capsys.readouterr()
        return status, out, err

    def train(self, folder: Path, *argv: object) -> list[dict]:
        """Train on the demo; returns the lines of metrics.jsonl."""
        status, _, err = self("--run_type", "train", "--dataset_name", "Demo", "--exp_dir", folder, *argv)
        assert status == 0, err
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def no_timelines(request, monkeypatch):
    """TensorBoard gets no timelines, which take longer to draw than a run to train; one in tests marked `drawn`."""
    monkeypatch.setattr("report.dashboard.NUM_VIDEOS", 1 if "drawn" in request.keywords else 0)


class Numbers:
    """TensorBoard reads files in the order of their names, which end in a number for runs of one process and second."""

    count = 0

    def get(self):
        Numbers.count += 1
        return f"{Numbers.count:06d}"


@pytest.fixture
def event_files_in_order(monkeypatch):
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", Numbers())


@pytest.fixture(scope="session")
def processes():
    """Starts fresh processes."""
    started = Processes()
    yield started
    started.close()


@pytest.fixture
def run(demo_home, monkeypatch, capsys) -> Runner:
    return Runner(demo_home, monkeypatch, capsys)


@pytest.fixture
def run_in(monkeypatch, capsys):
    return lambda home: Runner(home, monkeypatch, capsys)
