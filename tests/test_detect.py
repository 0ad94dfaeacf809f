"""Detection in new videos: the same as in testing; inputs, files and errors."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from building import own_dataset

from prepare.kept_network import network_that_made
from prepare.lac import LacNetwork
from readers.feature_files import FeatureFolder
from runs.detect import detect, open_detector
from runs.detected import DetectedVideo
from runs.detection_inputs import Extraction, Inputs
from runs.detection_model import read_model, write_model
from runs.subtitles import write_subtitles
from utils import InputError

OWN = ("--dataset_name", "Own", "--feature_fps", 2, "--snippet_frames", 1)
PARTS = ("detections.json", "detections.csv")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which a model was trained on own data and tested; `new` has the features of the test videos."""
    import main

    home = tmp_path_factory.mktemp("own")
    own_dataset(home / "data" / "Own")
    for file in (home / "data" / "Own" / "features").iterdir():
        features = np.load(file)
        np.save(file, np.stack([features - 0.1, features, features + 0.1], axis=1))  # [T, 3, D]
    (home / "new").mkdir()
    for file in (home / "data" / "Own" / "features").glob("b*.npy"):
        shutil.copy(file, home / "new")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for words in (
            ("proposals", "--proposal_epochs", 20),
            ("descriptors",),
            ("train", "--batch_size", 3, "--max_epoch", 5, "--exp_dir", "trained"),
            ("test", "--exp_dir", "tested", "--pretrained_ckpt", "trained/ckpt/last_model.pkl"),
        ):
            argv = ["--run_type", *words, *OWN]
            assert main.main([str(word) for word in argv]) == 0
    return home


def entries(file):
    return json.loads(file.read_text())


def test_detections_are_those_of_testing(home, run_in, tmp_path):
    (tmp_path / "results.json").write_text("{}")  # of other detections
    status, out, err = run_in(home)(
        "--run_type", "detect", "--model", "trained", "--input", "new", "--exp_dir", tmp_path
    )
    assert status == 0 and "x real time" in out and "detecting" in err
    ours, theirs = (entries(folder / "detections.json") for folder in (tmp_path, home / "tested"))
    assert ours["results"] == theirs["results"] and len(ours["results"]) == 6
    assert ours["external_data"]["class_names"] == ["Dive", "Jump"]
    assert (tmp_path / "detections.csv").read_bytes() == (home / "tested" / "detections.csv").read_bytes()
    assert sorted(file.stem for file in (tmp_path / "pages").glob("*.html")) == [*(f"b{i}" for i in range(6)), "index"]
    assert sorted(file.name for file in (tmp_path / "subtitles").iterdir()) == [f"b{i}.vtt" for i in range(6)]
    assert not (tmp_path / "results.json").exists() and (tmp_path / "results.1.json").exists()
    run = run_in(home)
    argv = ("--run_type", "eval", "--detections", tmp_path / "detections.json", "--exp_dir", tmp_path / "eval")
    assert run(*argv, *OWN)[0] == 0
    figures = [entries(folder / "results.json") for folder in (tmp_path / "eval", home / "tested")]
    assert figures[0]["snippet"] == figures[1]["snippet"] and figures[0]["seconds"] == figures[1]["seconds"]


def test_the_model_can_be_moved(home, tmp_path, monkeypatch):
    shutil.copytree(home / "trained" / "model", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    found = list(detect(tmp_path / "copy", home / "new" / "b1.npy", device="cpu"))
    (video,) = found
    assert video.name == "b1" and video.seconds == 15.0
    assert (
        list(video.detections.columns[:2]) == ["label", "video"] and video.detections["score"].is_monotonic_decreasing
    )
    assert len(video.attention) == len(video.proposals)


def test_proposals_from_files_need_the_network_of_lac(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    shutil.copytree(home / "trained" / "model", tmp_path / "model")
    for name in ("proposals.pkl", "proposals.json"):
        (tmp_path / "model" / name).unlink()
    with pytest.raises(InputError, match="--lac_ckpt"):
        list(detect(tmp_path / "model", "new"))
    torch.manual_seed(0)
    network = LacNetwork(feature_size=6, num_class=2, hidden=4)
    torch.save(network.state_dict(), tmp_path / "lac.pkl")
    found = list(detect(tmp_path / "model", home / "new" / "b0.npy", lac_ckpt=f"{tmp_path / 'lac.pkl'}"))
    assert len(found) == 1 and found[0].detections["label"].isin(["Dive", "Jump"]).all()


def test_a_network_that_did_not_make_the_proposals_is_not_kept(home, tmp_path):
    files = {part: home / "proposals4Thumos14" / f"Proposals_Own_{part}" for part in ("train.json", "network.pkl")}
    assert network_that_made(files["train.json"], files["network.pkl"]) is not None
    other = tmp_path / "other.json"
    other.write_text(files["train.json"].read_text().replace("Jump", "Dive"))
    assert network_that_made(other, files["network.pkl"]) is None
    assert network_that_made(other, tmp_path / "none.pkl") is None


# ---------------------------------------------------------------------------------------- bad input


def broken(home, folder):
    """A copy of the model whose files a test damages."""
    return shutil.copytree(home / "trained" / "model", folder / "model")


def damage(name, old=None, new=None):
    def change(model):
        path = model / name
        path.unlink() if old is None else path.write_text(path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (damage("network.json"), "network.json.*--resume"),
        (damage("network.pkl"), "network.pkl"),
        (damage("proposals.json"), "proposals.json.*train --resume"),
        (damage("detection.json", '"soft"', '"none"'), "detection.json: damaged"),
        (damage("detection.json", '"crop": null', '"crop": "x"'), "detection.json: damaged"),
        (damage("detection.json", '"features": null', '"features": {"crop": "ten"}'), "detection.json: damaged"),
        (damage("detection.json", "{", "["), "detection.json"),
        (damage("network.json", '"roi_size": 12', '"roi_size": 3'), "network.json: damaged: roi_size is 3"),
        (damage("network.json", '"epoch": 5', '"epoch": "x"'), "network.json: damaged.*copy the folder again"),
        (damage("proposals.pkl"), "proposals.pkl: no such file.*copy the folder again"),
        (damage("network.json", '"roi_size"', '"roi"'), "network.json.*incomplete"),
        (damage("network.json", '"Dive"', '"Leap"'), "proposals.json.*Dive"),
    ],
)
def test_a_damaged_model(home, tmp_path, change, named):
    model = broken(home, tmp_path)
    change(model)
    with pytest.raises(InputError, match=named):
        list(detect(model, home / "new"))


def test_a_model_of_an_earlier_epoch_than_its_run(home, tmp_path, caplog):
    model = broken(home, tmp_path)
    shutil.copytree(home / "trained" / "ckpt", tmp_path / "ckpt")
    for epoch in (5, 9):
        assert not caplog.messages
        damage("last_model.json", '"epoch": 5', f'"epoch": {epoch}')(tmp_path / "ckpt")
        read_model(model.parent, torch.device("cpu"))
    assert "of epoch 5, and the run went on to 9" in caplog.text


def test_folders_without_a_model(home, tmp_path):
    for path, named in (
        (tmp_path / "none", "no such folder"),
        (home / "tested", "name the folder of a training run"),
        (home / "trained" / "ckpt", "name the folder of a training run"),
    ):
        with pytest.raises(InputError, match=named):
            list(detect(path, home / "new"))
    (tmp_path / "seeds" / "seed_1").mkdir(parents=True)
    broken(home, tmp_path / "seeds" / "seed_1")
    with pytest.raises(InputError, match=r"--model \S*seed_1"):
        list(detect(tmp_path / "seeds", home / "new"))


def test_inputs_that_cannot_be_used_are_named_and_the_others_go_on(home, run_in, tmp_path):
    shutil.copytree(home / "new", tmp_path / "new")
    np.save(tmp_path / "new" / "b1.npy", np.ones((30, 8), np.float32))
    (tmp_path / "new" / "b2.npy").write_bytes(b"no array")
    (tmp_path / "new" / "b\n9.npy").write_bytes(b"")
    (tmp_path / "new" / "c.npy").mkdir()
    np.save(tmp_path / "new" / "b3.npy", np.full((30, 6), np.nan, np.float32))
    np.save(tmp_path / "new" / "b4.npy", np.full((30, 6), 3e38, np.float32))
    run = run_in(home)
    argv = ("--run_type", "detect", "--model", "trained", "--exp_dir", tmp_path / "out", "--input")
    status, out, _ = run(*argv, tmp_path / "new")
    assert status == 1 and "6 videos could not be used" in out
    lines = [line for line in out.splitlines() if line.startswith("error: ")]
    expected = (
        ("b\\n9", "cannot be the name"),
        ("c", "not a file"),
        ("b1.npy", "8 wide"),
        ("b2.npy", ""),
        ("b3.npy", "not finite"),
        ("b4.npy", "not finite"),
    )
    assert all(name in line and what in line for line, (name, what) in zip(lines, expected, strict=True))
    assert sorted(entries(tmp_path / "out" / "detections.json")["results"]) == ["b0", "b5"]

    (tmp_path / "T-I3D-JOINTFeatures.npy").touch()
    before = (tmp_path / "out" / "detections.json").read_bytes()
    for inputs, named in (
        ([tmp_path / "nothing"], "nothing"),
        ([tmp_path / "new" / "b2.npy"], "none of the 1 videos could be used"),
        ([tmp_path / "new", home / "new"], "two videos are named b0"),
        ([home / "data" / "Own"], f"name the folder that has them: {home / 'data' / 'Own' / 'features'}"),
        ([tmp_path / "T-I3D-JOINTFeatures.npy"], "prepare.split_features --dataset_name T "),
        ([home / "new", "--videos", tmp_path / "none"], "--videos"),
        ([home / "new", "--exp_dir", home / "trained"], "holds a training run"),
    ):
        status, out, err = run(*argv, *inputs)
        assert status == 2 and named in err, err
    assert (tmp_path / "out" / "detections.json").read_bytes() == before


def test_inputs_may_overlap_and_a_folder_is_listed_once(home, monkeypatch, caplog):
    monkeypatch.chdir(home)
    detector = open_detector(home / "trained")
    inputs = Inputs(detector.model, Extraction())
    paths = [*map(Path, ("new/b3.npy", "new/b1.npy", "new")), home / "new" / "b1.npy"]
    inputs.add(paths, torch.device("cpu"))
    assert not caplog.messages
    assert [*inputs.videos] == ["b3", "b1", "b0", "b2", "b4", "b5"]
    assert len({id(video.features) for video in inputs.videos.values()}) == 1


def test_videos_beside_features_that_have_none_are_named(home, tmp_path, caplog):
    shutil.copy(home / "new" / "b0.npy", tmp_path)
    for name in ("b0.mp4", "b7.mp4"):
        (tmp_path / name).touch()
    inputs = Inputs(open_detector(home / "trained").model, Extraction())
    inputs.add([tmp_path], torch.device("cpu"))
    assert [video.media for video in inputs.videos.values()] == [tmp_path / "b0.mp4"]
    assert "1 videos in it that have none are left out: b7.mp4" in caplog.text


def test_crops_are_those_of_the_training(home, tmp_path):
    crops = np.load(home / "new" / "b0.npy")[8:11]  # [T, 3, D] with T = 3 does not tell the crops
    np.save(tmp_path / "b0.npy", crops)
    np.save(tmp_path / "mean.npy", crops.mean(1))
    found = list(detect(home / "trained", [tmp_path / "b0.npy", tmp_path / "mean.npy"]))
    columns = ["label", "score", "start_sec", "end_sec"]
    pd.testing.assert_frame_equal(found[0].detections[columns], found[1].detections[columns])


def test_what_is_missing_in_the_folder_is_written_again(home, tmp_path):
    folder = broken(home, tmp_path)
    model = read_model(folder, torch.device("cpu"))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    record = replace(model.record, checksum=None)
    for name in ("proposals.json", "proposals.pkl", "network.json", "network.pkl", "detection.json"):
        (folder / name).write_bytes(b"x")
        write_model(folder, model.network, record, model.settings, model.proposals)
        assert {file.name for file in folder.iterdir()} == before.keys()
        assert read_model(folder, torch.device("cpu")).settings == model.settings, name
    (folder / "proposals.json").unlink()
    write_model(folder, model.network, record, model.settings, model.proposals)
    assert (folder / "proposals.json").is_file()


def test_features_that_were_made_in_another_way(home, tmp_path):
    made = {"feature_fps": 2.0, "snippet_frames": 1, "crop": "center", "weights": {"rgb": "a", "flow": "b"}}
    model = broken(home, tmp_path)
    settings = entries(model / "detection.json")
    (model / "detection.json").write_text(json.dumps(settings | {"features": made}))
    folder = shutil.copytree(home / "new", tmp_path / "new")
    for name, other in (("b0", {}), ("b1", {"crop": "ten"}), ("b2", {"feature_fps": 4.0}), ("b3", {"weights": {}})):
        (folder / f"{name}.json").write_text(json.dumps({"made_by": made | other}))
    detector = open_detector(model)
    inputs = Inputs(detector.model, Extraction())
    inputs.add([folder], torch.device("cpu"))
    assert [video.name for video in detector(inputs.videos.values())] == ["b0", "b4", "b5"]  # the last two do not say
    assert "crop" in detector.failed["b1"] and "weights" in detector.failed["b3"]
    assert "4 snippets a second" in detector.failed["b2"]
    assert detector.failed["b2"].endswith("--run_type features --overwrite --feature_fps 2 --snippet_frames 1")


def test_options_that_the_model_decides(run):
    status, _, err = run("--run_type", "detect", "--model", "m", "--input", "x", "--nms", "soft")
    assert status == 2 and "--nms: --run_type detect takes this from --model" in err
    status, _, err = run("--run_type", "detect", "--model", "m")
    assert status == 2 and "--input" in err


# ------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.npy", "b.npz"], ["a", "b"]),
        (["a-rgb.npz", "a-flow.npz", "b_rgb.npy", "b_flow.npy"], ["a", "b"]),
        (["rgb/a.npy", "flow/a.npy"], ["a"]),
        (["rgb/a-rgb.npy", "flow/a-flow.npy"], ["a"]),
        (["train/a.npy", "test/b.npy"], ["a", "b"]),
        (["night_rgb.npy"], ["night_rgb"]),  # no flow: a name that happens to end so
        (["notes.txt"], []),
    ],
)
def test_the_videos_in_a_folder_of_features(tmp_path, files, names):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    folder = FeatureFolder(tmp_path, [])
    assert sorted(folder.names()) == names
    found = FeatureFolder(tmp_path, names)
    assert all(file.is_file() for name in names for file in found.find(name))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a-rgb.npz", "b-rgb.npz"], ["a", "b"]),
        (["rgb/a_rgb.npy", "rgb/b_rgb.npy"], ["a", "b"]),
        (["night_rgb.npy", "b.npy"], ["b", "night_rgb"]),
    ],
)
def test_videos_of_one_modality_are_named_without_it(tmp_path, files, names):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    folder = FeatureFolder(tmp_path, [])
    assert sorted(folder.names(alone=True)) == names
    assert all(folder.find(name, alone=True) for name in names)


# ---------------------------------------------------------------------------------------- subtitles


def test_subtitles(tmp_path, monkeypatch):
    table = pd.DataFrame(
        [
            ("Jump", 1.06, 3661.0, 3662.5),
            ("A --> <b>\n& c", 0.53, -0.2, 1.0),
            ("weak", 0.39, 0.0, 1.0),
            ("no", 0.7, 2.0, 2.0),
        ],
        columns=["label", "score", "start_sec", "end_sec"],
    )
    video = DetectedVideo("clip", 4000.0, table, np.zeros((0, 2)), np.zeros(0))
    monkeypatch.setattr(os, "fsync", None)  # many small files that can be made again are not flushed to the disk
    write_subtitles(tmp_path / "s" / "clip.vtt", video)
    assert (tmp_path / "s" / "clip.vtt").read_text() == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.000\nA --&gt; &lt;b&gt; &amp; c (0.53)\n\n"
        "01:01:01.000 --> 01:01:02.500\nJump (1.1)\n"
    )
    write_subtitles(tmp_path / "none.vtt", DetectedVideo("none", 1.0, table[:0], np.zeros((0, 2)), np.zeros(0)))
    assert (tmp_path / "none.vtt").read_text() == "WEBVTT\n"
