"""`--missing_features skip`: videos without features are left out, counted and named; and one subset used twice."""

import json
import re
import shutil
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from building import own_dataset

from eval.evaluation import evaluate
from eval.metrics import EvaluationInput, LeftOut
from eval.protocols import TIOU_PROTOCOLS
from eval.results import Results, summary
from eval.tables import rows_as_table
from readers.features import Features
from readers.source import DatasetFiles, ReadingSettings, Source
from runs.folder import RunFolder
from utils import InputError

DATA = ("--dataset_name", "Own", "--feature_fps", 2, "--snippet_frames", 1, "--batch_size", 3)
SKIP = ("--missing_features", "skip")
LEFT_OUT = {"train": "1 of 6 training videos have no features and are left out .*: a1", "test": "1 of 6 test .*: b2"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Own data; `a1` of the training and `b2` of the test videos have no features."""
    home = tmp_path_factory.mktemp("missing")
    own_dataset(home / "data" / "Own")
    for video in ("a1", "b2"):
        (home / "data/Own/features" / f"{video}.npy").unlink()
    return home


def test_every_command_names_the_remedy_and_takes_it(home, run_in):
    run = run_in(home)
    train = ("--run_type", "train", "--exp_dir", "run", "--max_epoch", 2, "--interval", 1)
    commands = {
        ("--run_type", "proposals", "--proposal_epochs", 1): ("train", "test"),
        ("--run_type", "descriptors"): ("train",),
        train: ("train", "test"),
        ("--run_type", "test", "--exp_dir", "test", "--pretrained_ckpt", "run/ckpt/last_model.pkl"): ("test",),
    }
    for words, parts in commands.items():
        status, out, err = run(*words, *DATA)
        assert status == 2 and re.search(r"\d of \d+ videos have no file: .*--missing_features skip\n", err), words
        status, out, err = run(*words, *DATA, *SKIP)
        assert status == 0, err
        for part, message in LEFT_OUT.items():
            assert len(re.findall(message, out)) == (part in parts), (words, part)
    assert "over 5 of 6 test videos; without features: b2" in out

    tested, trained = (json.loads((home / run / "results.json").read_text()) for run in ("test", "run"))
    assert tested["left_out"]["videos"] == ["b2"] and tested["left_out"]["num_videos"] == 6
    assert trained["training_videos_left_out"] == ["a1"] and trained["best"]["left_out"]["videos"] == ["b2"]
    assert tested["snippet"]["average"] > tested["left_out"]["as_missed"]["snippet"]["average"] > 0

    status, out, _ = run("--run_type", "check", *DATA, *SKIP)
    assert status == 0 and re.search(r"without features.* \(2\):\n  a1 \(train\): no features\n  b2 \(test\)", out)
    status, out, _ = run("--run_type", "eval", "--detections", "test/detections.json", "--exp_dir", "eval", *DATA)
    found = json.loads((home / "eval/results.json").read_text())
    assert status == 0 and [found[name] for name in ("snippet", "seconds", "left_out")] == [
        tested[name] for name in ("snippet", "seconds", "left_out")
    ]


def test_pages_say_over_how_many_videos(home, run_in, monkeypatch):
    """Also a comparison with a run on other videos, which takes those that both have."""
    for name in ("run_page.pictures", "run_page.timelines", "comparison_page.pictures", "page.Page.picture"):
        monkeypatch.setattr(f"report.{name}", MagicMock())  # what takes time, and is not looked at here
    run = run_in(home)
    shutil.copytree(home / "test", home / "other")
    content = json.loads((home / "test/detections.json").read_text())
    content["external_data"]["videos_left_out"] = ["b0"]
    content["results"] |= {"b2": content["results"].pop("b0")}
    (home / "all.json").write_text(json.dumps(content))
    status, _, err = run("--run_type", "eval", "--detections", "all.json", "--exp_dir", "other", *DATA)
    assert status == 0, err
    shutil.copy(home / "all.json", home / "other/detections.json")
    results = json.loads((home / "other/results.json").read_text())
    (home / "other/results.json").write_text(json.dumps(results | {"detections": None, "checkpoint": "w", "epoch": 1}))
    assert run("--run_type", "report", "--exp_dir", "test", *DATA)[0] == 0
    page = re.sub("<[^>]+>", " ", (home / "test/report/report.html").read_text())
    assert "All figures are over 5 of 6 test videos; without features: b2." in page and "as missed" in page
    status, _, err = run("--run_type", "report", "--compare", "test", "other", "--exp_dir", "both", *DATA)
    page = re.sub("<[^>]+>", " ", (home / "both/comparison/comparison.html").read_text())
    assert status == 0 and "on the same 4 test videos" in page and "in some run: b0, b2." in page, err


def test_what_counts_as_missed_by_hand():
    """Two videos of a class with an instance each; the second has no features, so half of the instances are missed."""
    truth = pd.DataFrame({"video": ["a", "b"], "class_idx": 0, "start_sec": 1.0, "end_sec": 5.0})
    found = rows_as_table(["a"], np.array([0]), np.array([0.9]), np.array([[1.0, 5.0]]), np.array([[1.0, 5.0]]))
    protocol = TIOU_PROTOCOLS["thumos14"]
    left_out = LeftOut.of(["b"], 1, truth[1:])
    results = evaluate(EvaluationInput(found, truth[:1], ["x"], protocol, 1.0, left_out=left_out))
    assert results.snippet.average == pytest.approx(100)
    assert results.left_out.as_missed.seconds.average == results.left_out.as_missed.snippet.average == pytest.approx(50)
    assert Results.from_json(json.loads(json.dumps(results.to_json()))) == results
    assert re.search(
        r"over 1 of 2 test videos; without features: b\n(.*\n)+seconds +50\.000", summary(results, protocol)
    )


def read_source(folder, **settings):
    files = DatasetFiles("Own", folder / "features", folder / "annotations.json", folder, {})
    return Source.read(files, ReadingSettings(missing_features="skip", **settings))


def test_one_modality_of_two_is_missing(tmp_path):
    own_dataset(tmp_path)
    for video in ("a0", "b0"):
        array = np.load(tmp_path / f"features/{video}.npy")
        np.save(tmp_path / f"features/{video}_rgb.npy", array[:, :3])
        (tmp_path / f"features/{video}.npy").unlink()
    np.save(tmp_path / "features/b0_flow.npy", array[:, 3:])
    source = read_source(tmp_path)
    assert source.left_out("train") == {"a0": "no a0_flow.npy"} and not source.left_out("test")
    assert source.videos("train") == [f"a{i}" for i in range(1, 6)] and len(source.videos("test")) == 6
    assert not read_source(tmp_path, modalities=1).left_out("train")


@pytest.mark.parametrize("absent", [None, np.empty((0, 6), np.float32), np.empty(0)])
def test_entries_of_the_array_of_all_videos(tmp_path, absent):
    own_dataset(tmp_path)
    source = read_source(tmp_path)
    array = np.empty(12, dtype=object)
    array[:] = [source.features().read(i).numpy() for i in range(12)]
    array[4] = absent
    shutil.rmtree(tmp_path / "features")
    np.save(tmp_path / "features", array)
    (tmp_path / "features.npy").rename(tmp_path / "features")
    missing = source.annotations.videos[4]
    assert read_source(tmp_path).without_features == {missing: "no features"}
    with pytest.raises(InputError, match=f"1 of 12 videos have no features: {missing}; .*--missing_features skip"):
        Features(tmp_path / "features", source.annotations.videos).require(range(12))


def test_no_features_at_all(tmp_path):
    own_dataset(tmp_path)
    for i in range(6):
        (tmp_path / f"features/a{i}.npy").unlink()
    source = read_source(tmp_path)
    assert len(source.videos("test")) == 6
    with pytest.raises(InputError, match=r"features: none of the 6 videos of subset 'training' has features: a0, a1, "):
        source.videos("train")


# --------------------------------------------------------------------------------------- one subset twice


def test_each_part_has_its_own_proposals(run_in, tmp_path):
    own_dataset(tmp_path / "data" / "Own")
    run, twice = run_in(tmp_path), (*DATA, "--test_subset", "training")
    assert run("--run_type", "proposals", "--proposal_epochs", 1, *twice)[0] == 0
    files = [tmp_path / f"proposals4Thumos14/Proposals_Own_{part}.json" for part in ("train", "test")]
    made = [json.loads(file.read_text()) for file in files]
    assert made[0]["results"].keys() == made[1]["results"].keys()
    for content, segments in zip(made, ([[0, 5], [5, 10], [10, 15]], [[1, 2]]), strict=True):
        content["results"] = {video: [{"segment": one} for one in segments] for video in content["results"]}
    for file, content in zip(files, made, strict=True):
        file.write_text(json.dumps(content))
    assert run("--run_type", "descriptors", *twice)[0] == 0
    status, out, err = run("--run_type", "train", "--max_epoch", 1, "--interval", 0, "--exp_dir", "run", *twice)
    assert status == 0, err
    assert re.search(r"train \(subset training\): 6 videos, 180 snippets, 18 proposals\n", out)
    assert re.search(r"test \(subset training\): 6 videos, 180 snippets, 6 proposals\n", out)
    assert out.count("notice: training and test videos are the same, subset 'training'; ") == 1
    assert "training and test videos are the same" in run("--run_type", "check", *twice)[1]


# ------------------------------------------------------------------------------------ two roles, two places


def test_files_of_others_in_the_folder_of_a_run(tmp_path):
    """`--overwrite` removes a training run, and nothing where there is none; weights to start from are not replaced."""
    folder, weights = RunFolder(tmp_path), tmp_path / "ckpt" / "best_model.pkl"
    weights.parent.mkdir()
    for path in (weights, tmp_path / "detections.json"):
        path.write_text("of another method")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"would replace .*best_model\.pkl: .*another --exp_dir"):
            folder.require_free(overwrite, weights)
    folder.clear()
    assert weights.exists() and (tmp_path / "detections.json").exists()
    (tmp_path / "metrics.jsonl").write_text("")
    folder.clear()
    assert not weights.exists() and not (tmp_path / "detections.json").exists()
