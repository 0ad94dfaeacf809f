"""When `resume.pt` is written, by a thread, and what a kill, a signal or an error does meanwhile."""

import os
import re
import signal
import threading
import time

import pytest
from test_resume import ARGV, STEPS, what_is_left

from options import parse_options, plain_values, resume_options
from runs.saver import Saver
from runs.signals import Interrupted, catching_signals
from runs.state import read_resume
from runs.weights import save_checkpoint
from utils import CannotWrite

RUN = (*ARGV, "--max_epoch", 2)  # which is evaluated at its end
pytestmark = pytest.mark.usefixtures("event_files_in_order")


@pytest.fixture(scope="module")
def expected(run_once, tmp_path_factory):
    """What an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    run_once(*RUN, "--exp_dir", folder)
    return what_is_left(folder)


@pytest.fixture
def writes(monkeypatch):
    """Each writing of a `resume.pt`: `writes.before` is called with its number, from 1; then its content is added."""

    class Writes(list):
        def before(self, number):
            pass

    found = Writes()

    def save(path, content):
        found.before(len(found) + 1)
        save_checkpoint(path, content)
        found.append((content["epoch"], len(content["steps"]), threading.current_thread()))

    monkeypatch.setattr("runs.state.save_checkpoint", save)
    return found


@pytest.mark.parametrize(
    ("argv", "positions"),
    [
        ((), [(2, 0)]),
        (("--save_every", 0), [(1, 0), (2, 0)]),
        (("--max_epoch", 1, "--save_every", 1e-9), [*((0, step) for step in range(1, STEPS)), (1, 0)]),
    ],
)
def test_when_it_is_written(run, tmp_path, writes, argv, positions):
    run.train(tmp_path / "run", *RUN[2:], *argv)
    assert [write[:2] for write in writes] == [(0, 0), *positions]
    assert threading.main_thread() not in [write[2] for write in writes[1:]]


CHILD = """
import os, signal, socket, sys, time
import main, report.dashboard, runs.state, torch

report.dashboard.NUM_VIDEOS = 0
socket.gethostname = lambda: "0"  # TensorBoard reads a run's files in the order of their names
at_step, at_write, seconds, in_place = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "True"
runs.state.TrainingState.is_written_in_place = in_place
step, write, save, steps, writes = main.training_step, runs.state.save_checkpoint, torch.save, 0, 0

def training_step(*args):
    global steps
    steps += 1
    if steps == at_step:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args)

def save_checkpoint(path, content):
    global writes
    writes += 1
    time.sleep(seconds)
    write(path, content)

def half(content, file):
    save(content, file)
    if writes == at_write:
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

main.training_step, runs.state.save_checkpoint, torch.save = training_step, save_checkpoint, half
sys.exit(main.main(sys.argv[5:]))
"""


@pytest.mark.parametrize(
    ("at_step", "at_write", "seconds", "in_place", "least"),
    [
        (STEPS + 3, 0, 0.01, True, (1, 1)),
        (2 * STEPS, 0, 0.01, False, (0, 1)),  # as on a GPU: the steps do not wait
        (0, STEPS + 5, 0, True, (1, 3)),
    ],
    ids=["while weights wait", "with copies", "in the thread"],
)
def test_after_a_kill_nothing_is_missing(
    run, processes, demo_home, tmp_path, expected, at_step, at_write, seconds, in_place, least
):
    """Weights in the file must be those of its steps, although it is written slowly."""
    out = tmp_path / "run"
    argv = (at_step, at_write, seconds, in_place, *RUN, "--exp_dir", out, "--save_every", 1e-9)
    assert processes.start(CHILD, argv, demo_home).wait() == -signal.SIGKILL
    saved = read_resume(out / "ckpt" / "resume.pt")
    assert least <= (saved.epoch, len(saved.steps)) < (1, STEPS)
    assert bool(at_write) <= bool(list(out.rglob(".*.part")))
    status, _, err = run("--exp_dir", out, "--resume")
    assert status == 0 and what_is_left(out) == expected, err


def test_a_signal_while_it_is_written(run, tmp_path, writes, expected):
    """The thread writes the whole file, and then what was done since."""
    out = tmp_path / "run"

    def before(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            assert (out / ".lock").exists()

    writes.before = before
    status, _, err = run(*RUN, "--exp_dir", out, "--save_every", 0)
    assert status == 143 and "go on with: " in err
    positions = [write[:2] for write in writes]
    assert positions[:2] == [(0, 0), (1, 0)] and positions[2:] in ([(1, 1)], [])
    assert not (out / ".lock").exists()
    assert run("--exp_dir", out, "--resume")[0] == 0 and what_is_left(out) == expected


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CannotWrite("x/resume.pt: cannot be written (No space)"), r"^error: x/resume.pt: cannot .*\(No space\)$"),
        (MemoryError(), r"^error: out of memory\. \S+resume.pt has the run up to epoch 1, which can go on with "),
    ],
    ids=["disk", "memory"],
)
def test_an_error_in_the_thread(run, tmp_path, writes, error, message):
    """It ends the run within a step, and costs what a kill would."""
    out = tmp_path / "run"

    def before(number):
        if number == STEPS + 3:
            raise error

    writes.before = before
    status, _, err = run(*RUN, "--exp_dir", out, "--save_every", 1e-9)
    *_, told, hint = err.splitlines()
    assert status == 2 and re.search(message, told) and hint.startswith("go on with: ")
    assert not (out / ".lock").exists()
    saved = read_resume(out / "ckpt" / "resume.pt")
    assert (saved.epoch, len(saved.steps)) == (1, 1)


def test_a_file_of_a_version_that_saved_every_epoch():
    saved = plain_values(parse_options(["--dataset_name", "Demo"]))
    del saved["save_every"]
    assert resume_options(parse_options(["--resume"]), saved).save_every == 60


def test_a_saver_is_waited_for():
    done, saver = [], Saver()

    def job():
        time.sleep(0.05)
        done.append(1)

    with pytest.raises(KeyError), saver:
        saver.start(job)
        assert saver.is_busy
        raise KeyError
    assert done and not saver.is_busy
    with pytest.raises(ZeroDivisionError), Saver() as saver:
        saver.start(lambda: 1 / 0)
    with pytest.raises(Interrupted), catching_signals(), Saver() as saver:
        saver.start(job)
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(done) == 2
