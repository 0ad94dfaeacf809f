"""A run that stops, for whatever reason, and is resumed ends as if it had not stopped."""

import copy
import hashlib
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from building import network
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from benchmarks.kill import kill_runs, left
from readers.checkpoints import read_checkpoint
from runs.folder import RunFolder
from runs.saver import Saver
from runs.signals import Interrupted, catching_signals, uninterrupted
from runs.state import TrainingState, read_resume
from utils import InputError, step_if_finite

ARGV = ("--dataset_name", "Demo", "--max_epoch", 4, "--interval", 2, "--max_proposal", 20)  # 20: every step is random
STEPS = 8  # of an epoch
pytestmark = pytest.mark.usefixtures("event_files_in_order")


def without_checkpoint_paths(results):
    return {
        name: without_checkpoint_paths(value) if isinstance(value, dict) else value
        for name, value in results.items()
        if name != "checkpoint"
    }


def what_is_left(folder):
    """All that a run leaves, but for what names its folder: `resume.pt` in parts, and results without their paths."""
    found = left(folder)
    saved = read_checkpoint(folder / "ckpt" / "resume.pt")
    for name in ("exp_dir", "cache", "save_every"):
        del saved["options"][name]
    found["ckpt/resume.pt"] = repr(flat(saved))
    if "results.json" in found:
        results = json.loads((folder / "results.json").read_text())
        found["results.json"] = json.dumps(without_checkpoint_paths(results))
    return found


def flat(value):
    if isinstance(value, dict):
        return {name: flat(part) for name, part in value.items()}
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


@pytest.fixture(scope="module")
def uninterrupted_run(run_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_once(*ARGV, "--exp_dir", folder)
    found = Left(what_is_left(folder))
    found.folder = folder
    return found


class Left(dict):
    """What a run has left, and where."""

    folder: Path


def signal_at_step(monkeypatch, number, signum):
    """Have a signal come in the middle of the n-th training step of this process."""
    step, count = main.training_step, 0

    def training_step(*args):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signum)
        return step(*args)

    monkeypatch.setattr("main.training_step", training_step)


@pytest.mark.parametrize(
    ("signum", "number", "cache"),
    [
        (signal.SIGINT, 1, "memory"),
        (signal.SIGINT, 5, "none"),
        (signal.SIGINT, STEPS, "memory"),
        (signal.SIGTERM, STEPS + 1, "none"),
        (signal.SIGTERM, 2 * STEPS, "none"),
        (signal.SIGTERM, 4 * STEPS - 1, "memory"),
        (signal.SIGHUP, 3 * STEPS - 2, "memory"),
    ],
)
def test_a_signal_lets_the_step_finish_and_the_run_be_resumed(
    run, tmp_path, monkeypatch, uninterrupted_run, signum, number, cache
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at_step(patch, number, signum)
        status, _, err = run(*ARGV, "--cache", cache, "--exp_dir", out)
    assert status == 128 + signum and signum.name in err and "Traceback" not in err
    command = f"go on with: python main.py {' '.join(map(str, ARGV))} --cache {cache} --exp_dir {out} --resume"
    assert command in err.splitlines()
    saved = torch.load(out / "ckpt" / "resume.pt", weights_only=True)
    epoch, steps = divmod(number, STEPS)
    assert (saved["epoch"], len(saved["steps"])) in ((epoch, steps), (epoch - 1, STEPS))
    assert not (out / ".lock").exists() and not (out / "results.json").exists()

    status, printed, err = run(*ARGV, "--exp_dir", out, "--resume")
    assert status == 0 and "resuming the run" in printed, err
    assert what_is_left(out) == uninterrupted_run


def test_a_signal_in_an_evaluation(run, tmp_path, monkeypatch, uninterrupted_run):
    out = tmp_path / "run"
    evaluate = main.Evaluator.__call__
    with monkeypatch.context() as patch:
        patch.setattr("main.Evaluator.__call__", lambda *a: os.kill(os.getpid(), signal.SIGTERM) or evaluate(*a))
        assert run(*ARGV, "--exp_dir", out)[0] == 143
    saved = torch.load(out / "ckpt" / "resume.pt", weights_only=True)
    assert saved["epoch"] == 1 and len(saved["steps"]) == STEPS  # all of epoch 2, which then is not trained again
    with monkeypatch.context() as patch:
        patch.setattr("main.training_step", count := Counted(main.training_step))
        assert run(*ARGV, "--exp_dir", out, "--resume")[0] == 0
    assert count.calls == 2 * STEPS
    assert what_is_left(out) == uninterrupted_run


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


class Killed(BaseException):
    """Stands for a kill, which nothing catches."""


@pytest.mark.parametrize("every", [0, 60])
def test_a_run_may_die_when_it_writes(run, tmp_path, monkeypatch, uninterrupted_run, every):
    """What is on the disk whenever a run is about to put something there; each of these folders can be resumed."""
    fsync, start, saving = os.fsync, Saver.start, threading.RLock()
    out, folders = tmp_path / "run", []

    def copying(descriptor):
        with saving:  # what the thread writes does not change while it is copied
            folders.append(shutil.copytree(out, tmp_path / f"run{len(folders)}"))
        fsync(descriptor)

    def start_alone(saver, job):
        def alone():
            with saving:
                job()

        start(saver, alone)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", copying)
        patch.setattr("runs.saver.Saver.start", start_alone)
        assert run(*ARGV, "--exp_dir", out, "--save_every", every)[0] == 0
    assert len(folders) >= 20 and any(list(folder.rglob(".*.part")) for folder in folders)
    for folder in folders[::12]:
        shutil.rmtree(out)
        folder.rename(out)
        status, _, err = run(*ARGV, "--exp_dir", out, "--resume", "auto")
        assert status == 0 and what_is_left(out) == uninterrupted_run, (folder, err)


def test_killed_runs(tmp_path, processes):
    """The short form of `python benchmarks/kill.py`, which kills processes, and at any moment."""
    argv = ["--max_epoch", "4", "--interval", "3", "--max_proposal", "20"]
    assert kill_runs(tmp_path, runs=4, jobs=2, feature_size=16, argv=argv, start=processes.start).total() >= 2


# ------------------------------------------------------------------------------------- what may be resumed


@pytest.fixture
def finished(uninterrupted_run, tmp_path):
    """The folder of a finished run."""
    return Path(shutil.copytree(uninterrupted_run.folder, tmp_path / "run"))


def test_the_results_of_a_finished_run_are_left_as_they_are(run, finished):
    def files():
        return {p: (p.read_bytes(), p.stat().st_ino) for p in finished.rglob("*.json*")}

    run(*ARGV, "--exp_dir", finished, "--resume")  # the folder has moved, which results.json tells
    before, event_files = files(), len(list((finished / "logs").iterdir()))
    status, printed, _ = run(*ARGV, "--exp_dir", finished, "--resume")
    assert len(list((finished / "logs").iterdir())) == event_files
    assert status == 0 and "best checkpoint" in printed
    assert files() == before


def test_a_run_may_be_made_longer(run, finished):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    status, printed, err = run(*ARGV, "--exp_dir", finished, "--resume", "--max_epoch", 6, "--interval", 1)
    assert status == 0 and "notice: --max_epoch was 4" in printed, err
    longer = (finished / "metrics.jsonl").read_text().splitlines()
    assert longer[: len(lines)] == lines and [json.loads(line)["epoch"] for line in longer[len(lines) :]] == [
        5,
        5,
        6,
        6,
    ]
    assert json.loads((finished / "results.json").read_text())["epoch"] == 6
    assert json.loads((finished / "results.1.json").read_text())["epoch"] == 4
    status, _, err = run(*ARGV, "--exp_dir", finished, "--resume")
    assert status == 2 and re.search("--max_epoch 4: .*6 epochs", err)


def test_a_run_cannot_end_before_the_epoch_it_is_in(run, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at_step(patch, 2 * STEPS + 3, signal.SIGTERM)
        run(*ARGV, "--exp_dir", out)
    status, _, err = run(*ARGV, "--exp_dir", out, "--resume", "--max_epoch", 2)
    assert status == 2 and re.search("--max_epoch 2: .*2 epochs .*3 steps", err)


def test_an_evaluation_at_the_end_is_recorded_once(run, tmp_path, monkeypatch, uninterrupted_run):
    """Of a run that was never evaluated before, and dies between the record and `resume.pt`."""
    out = tmp_path / "run"
    run.train(out, *ARGV[2:], "--interval", 0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("runs.state.TrainingState.note_evaluation", lambda *_: (_ for _ in ()).throw(Killed))
        run(*ARGV, "--exp_dir", out, "--resume")
    assert (out / "metrics.jsonl").read_text().count("evaluation") == 1
    assert run(*ARGV, "--exp_dir", out, "--resume")[0] == 0
    assert (out / "metrics.jsonl").read_text().count("evaluation") == 1
    assert (out / "mAP-results.log").read_text().count("\n") == 1


def test_a_run_that_was_never_evaluated_can_be_at_its_end(run, tmp_path, uninterrupted_run):
    out = tmp_path / "run"
    run.train(out, *ARGV[2:], "--interval", 0)
    assert not (out / "results.json").exists()
    status, _, err = run(*ARGV, "--exp_dir", out, "--resume")
    assert status == 0, err
    results = json.loads((out / "results.json").read_text())
    assert results["best"]["epoch"] == results["epoch"] == 4
    assert (out / "ckpt" / "best_model.pkl").read_bytes() == (out / "ckpt" / "last_model.pkl").read_bytes()
    assert run(*ARGV, "--exp_dir", out, "--resume")[0] == 0
    assert (out / "metrics.jsonl").read_text().count("evaluation") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr", 1e-3], r"--lr 0.001 \(.*0.0001\)"),
        (["--dataset_name", "Mine"], r"--dataset_name Mine \(.*Demo\)"),
        (["--seed", 3, "--alpha_1", 2], r"--seed 3 \(.*\b0\).*--weight_pc 2.0 \(.*3.4\)"),
        (["--pretrained_ckpt", "x.pkl"], r"--pretrained_ckpt x.pkl \(.*none\)"),
        (["--deterministic"], r"--deterministic \(.*none\)"),
        (["--overwrite"], r"--resume .*--run_type train.* not .*--overwrite"),
        (["--run_type", "test"], r"--resume .*--run_type train"),
        (["--resume", "maybe"], r"--resume: .*'maybe'"),
    ],
)
def test_options_that_may_not_change(run, finished, argv, message):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    status, _, err = run(*ARGV, "--exp_dir", finished, "--resume", *argv)
    assert status == 2 and re.search(message, err) and "Traceback" not in err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_options_that_are_not_typed_are_those_of_the_run(run, tmp_path):
    out = tmp_path / "run"
    run.train(out, *ARGV[2:], "--max_epoch", 1, "--interval", 0, "--seed", 3, "--lr", 1e-3)
    assert run("--exp_dir", out, "--resume", "--max_epoch", 2)[0] == 0
    options = json.loads((out / "options.json").read_text())
    assert [options[name] for name in ("dataset_name", "seed", "lr", "max_epoch")] == ["Demo", 3, 1e-3, 2]
    assert read_resume(out / "ckpt" / "resume.pt").options == options


def test_what_the_data_says_and_what_is_not_for_training_may_change(run, finished):
    argv = ("--num_class", 6, "--feature_size", 32, "--proposal_epochs", 3)
    assert run(*ARGV, "--exp_dir", finished, "--resume", *argv)[0] == 0


def test_directories_device_and_cache_may_change(run, finished, demo_home, tmp_path):
    (tmp_path / "elsewhere").symlink_to(demo_home / "data" / "Demo")
    moved = finished.rename(tmp_path / "moved")
    argv = ("--dataset_root", tmp_path / "elsewhere", "--device", "cpu", "--cache", "none")
    status, _, err = run(*ARGV, "--exp_dir", moved, "--resume", "--max_epoch", 5, *argv)
    assert status == 0, err
    assert json.loads((moved / "results.json").read_text())["best"]["checkpoint"].startswith(str(moved))


def test_other_data_is_refused(run_in, demo_home, finished, tmp_path):
    proposals = tmp_path / "proposals"
    proposals.mkdir()
    for path in (demo_home / "proposals4Thumos14").iterdir():
        (proposals / path.name).write_text(path.read_text().replace("7.5", "7.6"))
    run = run_in(demo_home)
    status, _, err = run(*ARGV, "--exp_dir", finished, "--resume", "--proposals_root", proposals)
    assert status == 2 and re.search(r"resume\.pt: .*data .*changed", err)

    shutil.copytree(demo_home / "descriptors", tmp_path / "descriptors")
    for path in (tmp_path / "descriptors" / "Demo").glob("*.npy"):
        np.save(path, np.load(path)[::-1])
    argv = ("--resume", "--max_epoch", 5, "--descriptors_root", tmp_path / "descriptors")
    status, _, err = run(*ARGV, "--exp_dir", finished, *argv)
    assert status == 2 and re.search(r"resume\.pt: .*data .*changed", err)


def test_another_number_of_threads_is_told(run, finished, restored_settings):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    status, printed, _ = run(*ARGV, "--exp_dir", finished, "--resume", "--max_epoch", 5)
    assert status == 0 and re.search(rf"notice: .*threads .*{threads + 1} .*{threads}\b", printed)


def test_there_is_nothing_to_resume(run, tmp_path):
    status, _, err = run(*ARGV, "--exp_dir", tmp_path / "none", "--resume")
    assert status == 2 and re.search(f"{tmp_path / 'none'}.*resume", err) and not (tmp_path / "none").exists()
    assert run(*ARGV, "--exp_dir", tmp_path / "none", "--resume", "auto", "--interval", 0)[0] == 0


def test_a_folder_with_a_run_says_how_to_go_on(run, finished):
    status, _, err = run(*ARGV, "--exp_dir", finished)
    assert status == 2 and re.search("--resume .*--overwrite ", err)
    (finished / "ckpt" / "resume.pt").unlink()
    status, _, err = run(*ARGV, "--exp_dir", finished, "--resume", "auto")
    assert status == 2 and "--resume " not in err and "--overwrite " in err


@pytest.mark.drawn
def test_logs_are_mended(run, tmp_path, monkeypatch, uninterrupted_run):
    """Lines of a later epoch, and halves of lines, as a kill or a full disk leaves them."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at_step(patch, 2 * STEPS + 3, signal.SIGTERM)
        assert run(*ARGV, "--exp_dir", out)[0] == 143
    for name, more in {
        "metrics.jsonl": '{"epoch": 3, "loss_total": 1.0}\n{"epoch": 4, "evalu',
        "mAP-results.log": "4 1.0 2.0\n5 1",
    }.items():
        with open(out / name, "a") as file:
            file.write(more)
    event_file = next((out / "logs").iterdir())
    event_file.write_bytes(event_file.read_bytes()[:-5])
    for name in ("ckpt/.resume.pt.1.part", "model/.network.pkl.1.part"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("half")
    assert run(*ARGV, "--exp_dir", out, "--resume")[0] == 0
    found = what_is_left(out)
    assert found | {"logs": ""} == uninterrupted_run | {"logs": ""}
    board = EventAccumulator(str(out / "logs"))
    board.Reload()
    shown = {tag: [event.step for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert all(steps == ([2, 4] if tag.startswith("test") else [1, 2, 3, 4]) for tag, steps in shown.items())
    assert [event.step for event in board.Images("test/timelines")] == [4]  # was written last before, and is cut off


def test_weights_of_a_resume_file_can_be_used(run, finished, tmp_path):
    argv = ("--run_type", "test", "--dataset_name", "Demo", "--exp_dir", tmp_path / "test")
    assert run(*argv, "--pretrained_ckpt", finished / "ckpt" / "resume.pt")[0] == 0
    files = [(folder / "detections.json").read_bytes() for folder in (finished, tmp_path / "test")]
    assert files[0] == files[1]


# ----------------------------------------------------------------------------------------- damaged resume.pt


def change(*path_and_value):
    *path, name, value = path_and_value

    def apply(content):
        for part in path:
            content = content[part]
        content[name] = value(content[name]) if callable(value) else value

    return apply


NAN = torch.tensor(torch.nan)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("weights"),
        change("format", 99),
        change("format", "x"),
        change("format", torch.zeros(2)),
        change("epoch", "three"),
        change("epoch", -1),
        change("seconds", float("nan")),
        change("seconds", float("inf")),
        change("steps", torch.tensor(1.0)),
        change("steps", torch.ones(2, 99)),
        change("steps", lambda steps: torch.full((2, steps.shape[1]), torch.nan)),
        change("best", {"snippet": "good"}),
        change("best", lambda best: best | {"epoch": torch.nan}),
        change("best", lambda best: best | {"epoch": 2.5}),
        change("best", "snippet", "mAP", [10**30] * 7),
        change("options", []),
        change("terms", "abc"),
        change("terms", [["a"] * 60] * 60),
        change("data", "other"),
        change("weights", lambda weights: dict(list(weights.items())[1:])),
        change("weights", lambda weights: weights | {next(iter(weights)): torch.ones(3)}),
        change("weights", lambda weights: {name: value * NAN for name, value in weights.items()}),
        change("optimizer", {0: 1}),
        change("optimizer", "state", lambda state: state | {99: state[0]}),
        change("optimizer", "state", 0, "exp_avg", torch.ones(2)),
        change("optimizer", "state", 1, "exp_avg_sq", lambda value: value * NAN),
        change("optimizer", "state", 0, {}),
        change("random", {}),
        change("random", "torch", torch.zeros(3)),
        change("random", "python", [3, [1, 2], None]),
        change("generator", torch.zeros(5)),
    ],
)
def test_a_damaged_resume_file_is_refused(finished, damage):
    path = finished / "ckpt" / "resume.pt"
    content = torch.load(path, weights_only=True)
    about = copy.deepcopy({name: content[name] for name in ("options", "data", "terms")})
    damage(content)
    torch.save(content, path)
    model = network(32, 6)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    state = TrainingState(path, **about, model=model, optimizer=optimizer, generator=torch.Generator(), others={})
    with pytest.raises(InputError, match=r"^\S+resume.pt: [^\n]+$"):
        state.restore(read_resume(path))


@pytest.mark.parametrize(
    "damage", [change("format", 99), change("weights", {}), lambda content: content.pop("optimizer")]
)
def test_a_damaged_resume_file_ends_the_program_with_one_line(run, finished, damage):
    path = finished / "ckpt" / "resume.pt"
    content = torch.load(path, weights_only=True)
    damage(content)
    torch.save(content, path)
    before = path.read_bytes()
    status, _, err = run(*ARGV, "--exp_dir", finished, "--resume", "--max_epoch", 5)
    assert status == 2 and re.match(r"error: \S+resume.pt: ", err.split("\r")[-1].strip()) and "Traceback" not in err
    assert path.read_bytes() == before


def test_numbers_of_the_optimizer_that_lie_in_no_order(run, finished, tmp_path):
    """The optimizer writes as many numbers as there are, one behind another, whatever the tensor of the file was."""
    path = finished / "ckpt" / "resume.pt"
    content = torch.load(path, weights_only=True)
    for kept in content["optimizer"]["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            turned = kept[name].T.contiguous().T if kept[name].dim() == 2 else kept[name]
            kept[name] = turned
    torch.save(content, path)
    assert run(*ARGV, "--exp_dir", finished, "--resume", "--max_epoch", 5)[0] == 0
    assert run(*ARGV, "--exp_dir", tmp_path / "other", "--max_epoch", 4)[0] == 0
    assert run(*ARGV, "--exp_dir", tmp_path / "other", "--resume", "--max_epoch", 5)[0] == 0
    assert what_is_left(finished)["ckpt/last_model.pkl"] == what_is_left(tmp_path / "other")["ckpt/last_model.pkl"]


def test_a_cut_off_resume_file(run, finished):
    path = finished / "ckpt" / "resume.pt"
    for length in (0, 10, 5000, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length])
        status, _, err = run(*ARGV, "--exp_dir", finished, "--resume")
        assert status == 2 and re.search(r"resume\.pt: .*readable checkpoint.*--exp_dir", err)


def test_generators_go_on_where_they_were(run, tmp_path, monkeypatch):
    """Python's and numpy's, too, for losses that draw from them."""

    def draws(folder, *argv, stop_at=None):
        drawn, step = [], main.training_step

        def training_step(*args):
            drawn.append((random.random(), float(np.random.random()), float(torch.rand(1))))  # noqa: NPY002
            if len(drawn) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*args)

        with monkeypatch.context() as patch:
            patch.setattr("main.training_step", training_step)
            run(*ARGV, "--max_epoch", 2, "--exp_dir", folder, *argv)
        return drawn

    expected = draws(tmp_path / "a")
    first = draws(tmp_path / "b", stop_at=5)
    assert first + draws(tmp_path / "b", "--resume") == expected and len(set(expected)) == 2 * STEPS


# ----------------------------------------------------------------------------------------------- signals


def test_a_second_signal_is_not_waited_for(processes, tmp_path):
    """Within a block that is not to be interrupted it ends the process; but not if it is the same one, sent twice."""
    code = """
import os, signal, time
from runs.signals import catching_signals, uninterrupted
with catching_signals(), uninterrupted():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    child = processes.start(code, [], tmp_path, tmp_path / "output", errors=tmp_path / "errors")
    assert child.wait() == -signal.SIGTERM and (tmp_path / "output").read_text() == "still here\n"
    assert (tmp_path / "errors").read_text().count("\n") == 2  # it was told once that the step is finished first


def test_signals_are_raised_once_and_handlers_given_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    reached = []
    with pytest.raises(Interrupted, match="SIGINT") as stopped, catching_signals():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("the end of the block")
        reached.append("what is behind it")
    assert stopped.value.status == 130 and reached == ["the end of the block"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_closed_terminal_never_ends_a_step():
    reached = []
    with pytest.raises(Interrupted, match="SIGHUP"), catching_signals(), uninterrupted(), uninterrupted():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.6)
        reached.append("the end of the block")
    assert reached


@pytest.mark.parametrize("run_type", ["test", "eval", "descriptors", "proposals", "check", "train"])
def test_what_has_nothing_to_finish_stops_at_once(run, tmp_path, monkeypatch, finished, run_type):
    def read(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("readers.source.read_annotations", read)
    argv = ["--dataset_name", "Demo", "--run_type", run_type, "--exp_dir", tmp_path / "new", "--overwrite"]
    if run_type == "eval":
        argv += ["--detections", finished / "detections.json"]
    if run_type == "test":
        argv += ["--pretrained_ckpt", finished / "ckpt" / "last_model.pkl"]
    status, _, err = run(*argv)
    assert status == 143 and re.fullmatch(".*SIGTERM\n", err)
    assert not (tmp_path / "new").exists()


# -------------------------------------------------------------------------------------- one run a folder


def test_a_second_run_is_refused_while_the_first_lives(run, tmp_path):
    out = tmp_path / "run"
    with RunFolder(out):
        for run_type in ("train", "test"):
            status, _, err = run("--run_type", run_type, "--dataset_name", "Demo", "--exp_dir", out)
            assert status == 2 and re.search(f"--exp_dir {out} .*process {os.getpid()} ", err)
    assert not out.exists()  # since nothing was put there


def test_a_folder_that_is_moved_ends_the_run(run, tmp_path, monkeypatch, uninterrupted_run):
    """Else it would be made anew, and could be mixed with that of another run."""
    out = tmp_path / "run"
    end_epoch = main.Run.end_epoch

    def moving(run):
        if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") == 3:
            out.rename(tmp_path / "moved")
            out.mkdir()
        end_epoch(run)

    with monkeypatch.context() as patch:
        patch.setattr("main.Run.end_epoch", moving)
        status, _, err = run(*ARGV, "--exp_dir", out)
    assert status == 2 and re.search(f"--exp_dir {out} .*moved", err)
    assert not out.exists()  # since nothing was put there
    assert run(*ARGV, "--exp_dir", tmp_path / "moved", "--resume")[0] == 0
    assert what_is_left(tmp_path / "moved") == uninterrupted_run


RUN = "import sys, main; sys.exit(main.main(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("output", "errors"),
    [("output", "/dev/full"), ("/dev/full", "errors"), ("pipe", "pipe"), ("output", None), (None, None)],
)
def test_what_cannot_be_printed_stops_nothing(processes, demo_home, tmp_path, output, errors):
    """A full disk with the log on it, a pipe whose reader is gone, a closed terminal."""
    os.mkfifo(tmp_path / "pipe")
    argv = (*ARGV[:2], "--max_epoch", 2, "--exp_dir", tmp_path / "run")
    streams = [name and tmp_path / name for name in (output, errors)]  # an absolute name stays itself
    child = processes.start(RUN, argv, demo_home, streams[0], errors=streams[1])
    if output == "pipe":
        with open(tmp_path / "pipe", "rb", buffering=0) as pipe:
            pipe.read(10)
    assert child.wait() == 0
    assert not any("Traceback" in path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert json.loads((tmp_path / "run" / "results.json").read_text())["epoch"] == 2


def test_a_lock_of_a_process_that_died_is_none(processes, tmp_path):
    code = """
import os
from pathlib import Path
from runs.folder import RunFolder
from runs.state import TrainingState, read_resume
RunFolder(Path("run")).__enter__()
os._exit(1)
"""
    assert processes.start(code, [], tmp_path).wait() == 1
    assert (tmp_path / "run" / ".lock").exists()
    with (
        RunFolder(tmp_path / "run") as folder,
        pytest.raises(InputError, match=rf"--exp_dir {tmp_path / 'run'} .*process {os.getpid()}"),
    ):
        folder.start([], [], {})
        RunFolder(tmp_path / "run").__enter__()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"opt.txt", "options.json"}


# ------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize(
    ("limit", "file"),
    [
        (100, "opt.txt"),
        (20_000, "resume.pt"),
        (60_000, "resume.pt"),
        pytest.param(105_000, "logs", marks=pytest.mark.drawn),  # pictures take most of it
        (200_000, "detections.json"),
    ],
)
def test_a_full_disk_costs_nothing_that_was_there(run, tmp_path, uninterrupted_run, limit, file):
    """No file may become larger than the limit, which is how a disk that is full looks to a program."""
    out = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        status, _, err = run(*ARGV, "--exp_dir", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2 and re.search(rf"error: \S+/{file}: .*\(File too large\)", err), err
    assert "Traceback" not in err and not list(tmp_path.rglob(".*"))
    hint = re.search("go on with: python main.py (.*)", err)
    assert bool(hint) == (out / "ckpt" / "resume.pt").exists()
    status, _, err = run(*(shlex.split(hint[1]) if hint else (*ARGV, "--exp_dir", out)))
    assert status == 0, err
    assert what_is_left(out) == uninterrupted_run


def test_a_folder_that_becomes_read_only(processes, demo_home, tmp_path):
    """In the middle of training; a process of its own, since the superuser has to give up that it writes anywhere."""
    code = """
import ctypes, os, sys
import main

if os.geteuid() == 0:
    version_and_process, no_capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(version_and_process, no_capabilities) == 0
end_epoch, epochs = main.Run.end_epoch, []

def close_and_end(run):
    epochs.append(1)
    if len(epochs) == 3:
        os.chmod(os.path.join(sys.argv[-1], "ckpt"), 0o500)
    end_epoch(run)

main.Run.end_epoch = close_and_end
sys.exit(main.main(sys.argv[1:]))
"""
    out = tmp_path / "run"
    argv = (*ARGV, "--save_every", 0, "--exp_dir", out)
    child = processes.start(code, argv, demo_home, errors=tmp_path / "errors")
    assert child.wait() == 2
    (out / "ckpt").chmod(0o700)
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors and f"error: {out}/ckpt/resume.pt: " in errors and "Permission denied" in errors
    assert torch.load(out / "ckpt" / "resume.pt", weights_only=True)["epoch"] == 2
    assert sorted(path.name for path in (out / "ckpt").iterdir()) == [
        *(f"{name}_model.{kind}" for name in ("best", "last") for kind in ("json", "pkl")),
        "resume.pt",
    ]


# ------------------------------------------------------------------------------------------ not finite


def test_a_gradient_that_is_not_finite_is_named(run, tmp_path, monkeypatch):
    """A term that is finite and has none: sqrt at 0. The weights of the epoch before are kept."""
    out = tmp_path / "run"
    run.train(out, *ARGV[2:], "--max_epoch", 2)
    kept = {path: path.read_bytes() for path in (out / "ckpt").iterdir()}
    criterion, proposals_of_step = main.Criterion.__call__, []

    def broken(self, outputs, batch, *args):
        terms = criterion(self, outputs, batch, *args)
        proposals = batch.proposals
        proposals_of_step.append(proposals)
        if torch.equal(proposals, proposals_of_step[min(2, len(proposals_of_step) - 1)]) and len(proposals_of_step) > 2:
            terms["SC_loss"] = terms["SC_loss"] + (outputs["fused"] * 0).abs().sqrt().sum()
            terms["loss_total"] = terms["loss_total"] + terms["SC_loss"]
        return terms

    monkeypatch.setattr("main.Criterion.__call__", broken)
    status, _, err = run(*ARGV, "--exp_dir", out, "--resume")
    assert status == 2 and re.search(r"epoch 3, step 3: .*gradient .*SC_loss .*finite.* videos demo", err)
    assert err.count("demo_train_") == 10 and "Traceback" not in err
    assert {path: path.read_bytes() for path in (out / "ckpt").iterdir()} == kept


@pytest.mark.parametrize("fused", [True, False])
def test_weights_stay_as_they_were_before_a_gradient_that_is_not_finite(fused):
    """Fused optimizers see to it themselves; the weights of others are put back."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], fused=fused)
    states = []
    for factor in (1.0, torch.nan, 1.0):
        weight.grad = torch.ones(3) * factor
        step_if_finite(optimizer, weight.grad.norm())
        states.append(weight.detach().clone())
    assert not torch.equal(states[0], torch.ones(3))
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_an_lr_scheduler_goes_on_where_it_was(tmp_path):
    """What a researcher adds to a run is in `resume.pt`, and so are the optimizer's own settings."""

    def state(folder):
        model = network(4, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
        others = {"scheduler": scheduler}
        return TrainingState(
            folder / "resume.pt",
            options={},
            data="",
            terms=["a"],
            model=model,
            optimizer=optimizer,
            generator=torch.Generator(),
            others=others,
        )

    first = state(tmp_path)
    first.optimizer.step()
    first.others["scheduler"].step()
    first.save()
    second = state(tmp_path)
    second.restore(read_resume(tmp_path / "resume.pt"))
    assert second.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    for _ in range(2):
        second.optimizer.step()
        second.others["scheduler"].step()
    assert second.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


# ------------------------------------------------------------------------------------------ determinism


@pytest.fixture
def restored_settings():
    """Of PyTorch, which are those of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_command_leaves_the_same_files(run, tmp_path, restored_settings, threads):
    torch.set_num_threads(threads)
    for name in ("a", "b"):
        run.train(tmp_path / name, *ARGV[2:], "--max_epoch", 2, "--deterministic")
    hashes = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).rglob("*.pkl")}
        for name in ("a", "b")
    ]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 3
    assert what_is_left(tmp_path / "a") == what_is_left(tmp_path / "b")


def test_an_operation_without_a_deterministic_form_is_named(run, tmp_path, monkeypatch, restored_settings):
    def unpool(*_):
        return torch.nn.functional.max_unpool1d(torch.ones(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), 2)

    monkeypatch.setattr("main.training_step", unpool)
    status, _, err = run(*ARGV, "--exp_dir", tmp_path / "run", "--deterministic")
    assert status == 2 and "Traceback" not in err
    assert re.search("error: --deterministic: .*max_unpooling2d_forward_out", err)
