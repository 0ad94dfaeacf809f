"""Detection in video files: their features are made first."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from building import own_dataset

pytest.importorskip("av")
pytest.importorskip("cv2")

from videos import write_video

import main
from readers.feature_files import made_by
from runs.detection_inputs import Extraction, Inputs
from runs.detection_model import read_model
from utils import InputError

DETECT = ("--run_type", "detect", "--model", "trained", "--exp_dir", "found", "--input")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model of features that are as wide as those of I3D, and a video."""
    home = tmp_path_factory.mktemp("videos")
    own_dataset(home / "data" / "Own", feature_size=2048, num_videos=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for words in (
            ("proposals", "--proposal_epochs", 2),
            ("descriptors",),
            ("train", "--batch_size", 3, "--max_epoch", 2, "--interval", 0, "--exp_dir", "trained"),
        ):
            assert main.main([str(word) for word in ("--run_type", *words, "--dataset_name", "Own")]) == 0
    (home / "new").mkdir()
    columns = np.arange(340)[None] + np.zeros((256, 1))
    bars = [np.where(abs(columns - 60 - 4 * k) < 20, 220, 40).astype(np.uint8) for k in range(20)]
    write_video(home / "new" / "a b.mp4", [bar[..., None].repeat(3, 2) for bar in bars])
    (home / "new" / "text.mp4").write_text("no video")
    (home / "new" / "notes.txt").write_text("beside them")
    return home


def test_from_a_video_to_its_page(home, run_in):
    run = run_in(home)
    status, out, err = run(*DETECT, "new")
    assert status == 2 and "--i3d_weights FOLDER" in err and not (home / "found" / "detections.json").exists()

    status, out, err = run(*DETECT, "new", "--i3d_weights", "random")
    assert status == 1, err
    assert "text.mp4" in out and "1 videos could not be used" in out and "random" in out
    assert "centre" in out  # what is taken where the features of the training do not say what made them
    assert made_by(home / "found" / "features" / "a b-rgb.npz")["crop"] == "center"
    results = json.loads((home / "found" / "detections.json").read_text())["results"]
    assert list(results) == ["a b"] and results["a b"]
    assert (home / "found" / "subtitles" / "a b.vtt").is_file()
    assert "a%20b.mp4" in (home / "found" / "pages" / "a b.html").read_text()

    before = (home / "found" / "features" / "a b-rgb.npz").stat().st_mtime_ns
    status, out, _ = run(*DETECT, "new/a b.mp4", "--i3d_weights", "random")  # whose features are there now
    assert status == 0 and "1 already there" in out
    assert (home / "found" / "features" / "a b-rgb.npz").stat().st_mtime_ns == before

    # The features alone, and the videos elsewhere: the same detections and the same page.
    status, _, _ = run(*DETECT[:-1], "--videos", "new", "--input", "found/features")
    assert status == 0 and json.loads((home / "found" / "detections.json").read_text())["results"] == results
    assert "a%20b.mp4" in (home / "found" / "pages" / "a b.html").read_text()


def test_networks_and_widths_that_do_not_fit(home, tmp_path):
    model, cpu = read_model(home / "trained", torch.device("cpu")), torch.device("cpu")
    made = {"weights": {"rgb": "1", "flow": "2"}, "crop": "ten"}
    for other, named in (
        (replace(model, settings=replace(model.settings, features=made)), "--i3d_weights random: not the networks"),
        (replace(model, feature_size=64), "64 wide"),
    ):
        with pytest.raises(InputError, match=named):
            Inputs(other, Extraction(Path("random"), tmp_path)).add([home / "new"], cpu)
    assert not any(tmp_path.iterdir())
