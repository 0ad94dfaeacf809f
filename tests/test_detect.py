"""Detection in new videos: the same as in testing; inputs, files and errors."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from building import own_dataset

from readers.feature_files import FeatureFolder
from runs.detect import detect
from runs.detected import DetectedVideo
from runs.subtitles import write_subtitles

OWN = ("--dataset_name", "Own", "--feature_fps", 2, "--snippet_frames", 1)
PARTS = ("detections.json", "detections.csv")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which a model was trained on own data and tested; `new` has the features of the test videos."""
    import main

    home = tmp_path_factory.mktemp("own")
    own_dataset(home / "data" / "Own")
    (home / "new").mkdir()
    for file in (home / "data" / "Own" / "features").glob("b*.npy"):
        shutil.copy(file, home / "new")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for words in (
            ("proposals",),
            ("descriptors",),
            ("train", "--batch_size", 3, "--max_epoch", 20, "--exp_dir", "trained"),
            ("test", "--exp_dir", "tested", "--pretrained_ckpt", "trained/ckpt/last_model.pkl"),
        ):
            argv = ["--run_type", *words, *OWN]
            assert main.main([str(word) for word in argv]) == 0
    return home


def entries(file):
    return json.loads(file.read_text())


def test_detections_are_those_of_testing(home, run_in, tmp_path):
    status, out, _ = run_in(home)("--run_type", "detect", "--model", "trained", "--input", "new", "--exp_dir", tmp_path)
    assert status == 0 and "x real time" in out
    ours, theirs = (entries(folder / "detections.json") for folder in (tmp_path, home / "tested"))
    assert ours["results"] == theirs["results"] and len(ours["results"]) == 6
    assert ours["external_data"]["class_names"] == ["Dive", "Jump"]
    assert (tmp_path / "detections.csv").read_bytes() == (home / "tested" / "detections.csv").read_bytes()
    assert sorted(file.stem for file in (tmp_path / "pages").glob("*.html")) == [*(f"b{i}" for i in range(6)), "index"]
    assert sorted(file.name for file in (tmp_path / "subtitles").iterdir()) == [f"b{i}.vtt" for i in range(6)]
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


# ---------------------------------------------------------------------------------------- subtitles


def test_subtitles(tmp_path):
    table = pd.DataFrame(
        [
            ("Jump", 0.8, 3661.0, 3662.5),
            ("A --> <b>\n& c", 0.5, -0.2, 1.0),
            ("weak", 0.39, 0.0, 1.0),
            ("no", 0.7, 2.0, 2.0),
        ],
        columns=["label", "score", "start_sec", "end_sec"],
    )
    video = DetectedVideo("clip", 4000.0, table, np.zeros((0, 2)), np.zeros(0))
    write_subtitles(tmp_path / "s" / "clip.vtt", video)
    assert (tmp_path / "s" / "clip.vtt").read_text() == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.000\nA --&gt; &lt;b&gt; &amp; c 50%\n\n"
        "01:01:01.000 --> 01:01:02.500\nJump 80%\n"
    )
    write_subtitles(tmp_path / "none.vtt", DetectedVideo("none", 1.0, table[:0], np.zeros((0, 2)), np.zeros(0)))
    assert (tmp_path / "none.vtt").read_text() == "WEBVTT\n"
