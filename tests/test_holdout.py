"""`--holdout`: the number of epochs is chosen on held-out training videos, then all are trained on."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

import main
from eval.results import ChosenEpoch
from options import parse_options
from readers.arrays import read_array
from runs.holdout import choose_videos, hold_out
from runs.inputs import Data, load_data
from runs.results import read_results
from utils import InputError

PLAIN = ("--dataset_name", "Demo", "--max_epoch", 2, "--interval", 1, "--max_proposal", 20, "--batch_size", 9)
ARGV = (*PLAIN, "--holdout", 0.25)
STEPS = 4  # of the first phase: 18 videos, two epochs


def weights(folder, name="last"):
    return torch.load(folder / "ckpt" / f"{name}_model.pkl", weights_only=True)


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def evaluations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["epoch"]: line["evaluation"] for line in lines if "evaluation" in line}


def names(videos):
    return [video.name for video in videos]


# ------------------------------------------------------------------------------------- the held-out videos


@pytest.mark.parametrize("seed", range(20))
def test_every_class_keeps_a_video(seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random((30, 6)) < generator.random(6) / 2).astype(np.float32)
    chosen = choose_videos(labels, 0.6, seed)
    assert chosen.sum() <= 18 and (labels[~chosen].any(0) == labels.any(0)).all()
    assert (chosen == choose_videos(labels, 0.6, seed)).all()


def test_classes_have_the_same_share():
    labels = np.zeros((120, 4), dtype=np.float32)  # 20 without a label
    for i, size in enumerate((50, 25, 15, 10)):
        labels[np.flatnonzero(~labels.any(1))[:size], i] = 1
    chosen = choose_videos(labels, 0.2, 0)
    assert labels[chosen].sum(0).tolist() == [10, 5, 3, 2] and chosen.sum() == 24
    assert (chosen != choose_videos(labels, 0.2, 1)).any()


def test_a_class_of_few_videos_that_have_another_label_too():
    labels = np.ones((20, 2), dtype=np.float32)
    labels[4:, 1] = 0
    assert labels[choose_videos(labels, 0.25, 0)].sum(0).tolist() == [5, 1]


@pytest.fixture(scope="module")
def home(demo_home, tmp_path_factory):
    """The demo with 24 of its training and 6 of its test videos."""
    home = tmp_path_factory.mktemp("small") / "home"
    shutil.copytree(demo_home, home, ignore=shutil.ignore_patterns("outputs*"))
    path = home / "data" / "Demo" / "Demo-Annotations" / "subset.npy"
    subsets = read_array(path)
    for kept in (slice(24, 80), slice(86, None)):
        subsets[kept] = b"not used"[: subsets.dtype.itemsize]
    np.save(path, subsets)
    return home


@pytest.fixture
def run(home, run_in):
    return run_in(home)


@pytest.fixture(scope="module")
def data(home) -> Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return load_data(parse_options(["--dataset_name", "Demo"]), torch.device("cpu"))


def test_the_data_of_the_first_phase(data):
    held = hold_out(data, 0.25, 3, 10)
    assert len(held.test) == 6 and len(held.train) == 18 and held.held_out
    assert sorted(names(held.test) + names(held.train)) == sorted(names(data.train))
    assert not set(names(data.test)) & {*names(held.test), *names(held.train), *held.truth["video"]}
    assert set(held.truth["video"]) == set(names(held.test))  # every demo video has instances
    position = names(data.train).index(held.train[7].name)
    assert held.pseudo.label[7] == data.pseudo.label[position]
    assert torch.stack([video.labels for video in held.train]).any(0).all()


def test_a_label_without_times_leaves_the_labels_alone(data):
    video = hold_out(data, 0.25, 3, 10).test[0].name
    instances = data.annotations.instances
    without = replace(data.annotations, instances=instances[instances["video"] != video])
    assert hold_out(replace(data, annotations=without), 0.25, 3, 10).truth.empty
    empty = replace(without, empty_instances=instances[instances["video"] == video])  # these are times, too
    assert not hold_out(replace(data, annotations=empty), 0.25, 3, 10).truth.empty


def test_too_few_videos(data):
    with pytest.raises(InputError, match=r"--holdout 0\.25: .*18 of 24 .*--batch_size .*19"):
        hold_out(data, 0.25, 0, 19)
    alone = [replace(video, labels=row) for video, row in zip(data.train, torch.eye(6), strict=False)]
    with pytest.raises(InputError, match=r"--holdout 0\.25: no .*class"):
        hold_out(replace(data, train=alone), 0.25, 0, 1)


# ------------------------------------------------------------------------------------------- both phases


@pytest.fixture
def falling(monkeypatch):
    """Evaluations get worse with every epoch, so the first is the best; returns the videos of each."""
    evaluated, evaluate = [], main.Evaluator.__call__

    def worse(self, network):
        evaluated.append(names(self.data.test))
        evaluation = evaluate(self, network)
        worse = replace(evaluation.results.snippet, average=50.0 - len(evaluated))
        return evaluation._replace(results=replace(evaluation.results, snippet=worse))

    monkeypatch.setattr("main.Evaluator.__call__", worse)
    return evaluated


def test_the_best_epoch_is_trained_as_in_a_run_of_full_length(run, tmp_path, falling, data):
    plain, out = tmp_path / "plain", tmp_path / "run"
    assert run(*PLAIN, "--exp_dir", plain)[0] == 0
    falling.clear()
    status, printed, err = run(*ARGV, "--exp_dir", out)
    assert status == 0, err
    assert not set(names(data.test)) & {*falling[0], *falling[1]} and falling[2] == names(data.test)
    assert len(falling) == 3  # two epochs of the first phase, one of the second

    results = read_results(out / "results.json")
    assert results.epoch == 1 and results.chosen == ChosenEpoch(1, "mAP", 49.0)
    assert json.loads((out / "results.json").read_text())["holdout"] == {"epoch": 1, "by": "mAP", "figure": 49.0}
    assert f"last checkpoint, {results.chosen.text}" in printed
    assert same_weights(weights(out), weights(plain, "best")) and not same_weights(weights(out), weights(plain))
    assert evaluations(out / "holdout").keys() == {1, 2} and not (out / "holdout" / "results.json").exists()

    # One more epoch of the first phase, which is not the best either, so the second phase is left as it is.
    status, printed, err = run("--exp_dir", out, "--resume", "--max_epoch", 3)
    assert status == 0 and "--max_epoch was 2" in printed, err
    assert evaluations(out / "holdout").keys() == {1, 2, 3}
    assert same_weights(weights(out), weights(plain, "best")) and read_results(out / "results.json").epoch == 1


@pytest.fixture(scope="module")
def finished(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("holdout") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("report.dashboard.NUM_VIDEOS", 0)
        assert main.main([str(word) for word in (*ARGV, "--exp_dir", folder)]) == 0
    return folder


def stopping(monkeypatch, name, number):
    """Have the n-th call of a function of `main` receive a signal."""
    function, count = getattr(main, name), 0

    def called(*args):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args)

    monkeypatch.setattr(f"main.{name}", called)


@pytest.mark.parametrize(("name", "number"), [("training_step", 3), ("load_data", 2), ("training_step", STEPS + 1)])
def test_a_stopped_run_goes_on_in_its_phase(run, tmp_path, monkeypatch, finished, name, number):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stopping(patch, name, number)
        status, _, err = run(*ARGV, "--exp_dir", out)
    assert status == 143 and err.rstrip().endswith(f"--exp_dir {out} --resume")
    assert not (out / "results.json").exists() and not (out / ".lock").exists()

    with monkeypatch.context() as patch:
        steps = []
        step = main.training_step
        patch.setattr("main.training_step", lambda *args: steps.append(1) or step(*args))
        status, _, err = run("--exp_dir", out, "--resume")
    assert status == 0, err
    chosen = read_results(out / "results.json").chosen
    assert chosen == read_results(finished / "results.json").chosen
    assert len(steps) == STEPS + 2 * chosen.epoch - (STEPS if name == "load_data" else number)
    for phase in (".", "holdout"):
        assert same_weights(weights(out / phase), weights(finished / phase))
        assert evaluations(out / phase) == evaluations(finished / phase)


def test_by_labels_alone(home, run_in, tmp_path):
    home, out = shutil.copytree(home, tmp_path / "home"), tmp_path / "run"
    for name in ("labels", "segments"):
        path = home / "data" / "Demo" / "Demo-Annotations" / f"{name}.npy"
        array = read_array(path)
        array[:80] = [[] for _ in array[:80]]
        np.save(path, array)
    status, printed, err = run_in(home)(*ARGV, "--exp_dir", out)
    assert status == 0 and "labels alone" in printed, err
    found = evaluations(out / "holdout")
    assert [found[epoch]["snippet"]["average"] for epoch in (1, 2)] == [None, None]
    figures = {epoch: of_epoch["classification_mAP"] for epoch, of_epoch in found.items()}
    chosen = read_results(out / "results.json").chosen
    assert chosen == ChosenEpoch(max(figures, key=figures.get), "labels", max(figures.values()))
    assert evaluations(out)[1]["snippet"]["average"] is not None  # the test videos have times


def test_each_seed_has_its_own_choice(run, tmp_path):
    argv = (*ARGV, "--max_epoch", 1, "--seeds", 0, 1, "--exp_dir", tmp_path)
    assert run(*argv)[0] == 0
    for seed in (0, 1):
        assert read_results(tmp_path / f"seed_{seed}" / "results.json").chosen.epoch == 1
    shutil.rmtree(tmp_path / "seed_1")
    first = (tmp_path / "seed_1" / "holdout", tmp_path / "seed_0" / "holdout")
    shutil.copytree(first[1], first[0])
    status, _, err = run(*argv)
    assert status == 2 and "seed_0 holds a training run" in err
    shutil.rmtree(tmp_path / "seed_0")
    status, _, err = run(*argv)
    assert status == 2 and f"{first[0]} holds a training run" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--interval", 0), "--interval 0: --holdout .*--interval"),
        (("--run_type", "test"), "--holdout .*--run_type train"),
        (("--holdout", 1), r"--holdout: 1 .*\(0, "),
        (("--batch_size", 20), r"--holdout 0\.25: .*18 of 24 .*--batch_size"),
    ],
)
def test_what_cannot_be(run, tmp_path, argv, message):
    status, _, err = run(*ARGV, *argv, "--exp_dir", tmp_path / "run")
    assert status == 2 and re.search(message, err) and not (tmp_path / "run").exists()


def test_runs_with_and_without_are_not_mixed(run, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    status, _, err = run("--exp_dir", out, "--resume", "--holdout", 0.5)
    assert status == 2 and re.search(r"--holdout 0\.5 .*0\.25", err)
    shutil.rmtree(out / "ckpt")
    (out / "metrics.jsonl").unlink()  # now the first phase is all there is
    status, _, err = run(*PLAIN, "--exp_dir", out)
    assert status == 2 and "holdout holds a training run" in err
    status, _, err = run(*PLAIN, "--max_epoch", 1, "--exp_dir", out, "--overwrite")
    assert status == 0 and not (out / "holdout" / "ckpt" / "resume.pt").exists(), err
    status, _, err = run("--exp_dir", out, "--resume", "--holdout", 0.25)
    assert status == 2 and re.search(r"--holdout 0\.25 .*none", err)
    status, _, err = run(*ARGV, "--max_epoch", 1, "--exp_dir", out, "--overwrite")
    assert status == 0 and read_results(out / "results.json").chosen is not None, err
    (out / "holdout" / "ckpt" / "resume.pt").unlink()
    status, _, err = run("--exp_dir", out, "--resume")
    assert status == 2 and re.search("holdout/ckpt/resume.pt: missing", err)
