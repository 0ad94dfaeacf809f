"""The simulated datasets."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from prepare import make_demo as demo
from proposals import tiou
from readers.annotations import read_annotations
from readers.arrays import read_array
from readers.result_files import parse_results


def test_the_same_seed_makes_the_same_files(demo_home, tmp_path):
    demo.make_demo(
        tmp_path / "data" / "Demo", tmp_path / "proposals4Thumos14", tmp_path / "descriptors", feature_size=32
    )
    for path in demo_home.rglob("*"):
        other = tmp_path / path.relative_to(demo_home)
        if path.name.endswith("JOINTFeatures.npy"):
            assert all((a == b).all() for a, b in zip(read_array(path), read_array(other), strict=True))
        elif path.is_file() and "outputs" not in path.parts:
            assert path.read_bytes() == other.read_bytes(), path


def test_the_demo_is_in_the_real_formats(demo_home):
    folder = demo_home / "data" / "Demo" / "Demo-Annotations"
    assert read_array(folder / "videoname.npy").dtype.kind == "S"
    annotations = read_annotations(folder)
    assert len(annotations.videos_of("validation")) == 80 and len(annotations.videos_of("test")) == 60
    assert (annotations.labels.sum(1) == 2).any() and (annotations.labels.sum(1) >= 1).all()
    assert annotations.ambiguous and set(annotations.ambiguous) <= set(annotations.videos_of("test"))
    features = read_array(demo_home / "data" / "Demo" / "Demo-I3D-JOINTFeatures.npy")
    durations = read_array(folder / "duration.npy").ravel()
    assert [len(video) for video in features] == pytest.approx(durations * 25 / 16)
    assert all(video.dtype == np.float32 and video.min() >= 0 for video in features)


def test_proposals_are_over_and_under_complete(demo_home):
    annotations = read_annotations(demo_home / "data" / "Demo" / "Demo-Annotations")
    results = parse_results(demo_home / "proposals4Thumos14" / "Proposals_Demo_test.json").results
    good = under = over = missed = 0
    for video, truth in annotations.ground_truth("test").groupby("video"):
        instances = truth[["start_sec", "end_sec"]].to_numpy()
        for start, end in (entry["segment"] for entry in results[video]):
            overlap = tiou(np.array([start, end]), instances)
            near_start, near_end = instances[overlap.argmax()]
            good += overlap.max() >= 0.7
            missed += overlap.max() == 0
            under += 0 < overlap.max() < 0.7 and near_start <= start and end <= near_end
            over += 0 < overlap.max() < 0.7 and start <= near_start and near_end <= end
    assert min(good, under, over, missed) > 100


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--name", "X"], "go together"),
        (["--name", "../X", "--annotations", "a", "--proposals", "p"], "plain name"),
        (["--feature_size", "7"], "--feature_size must be even"),
        (["--seed", "-1"], "--seed not negative"),
    ],
)
def test_bad_command_lines(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["make_demo", *argv])
    assert demo.main() == 2 and message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_features_over_given_annotations(thumos, tmp_path, monkeypatch, capsys):
    """The command line, for the real annotations of a few videos."""
    source = tmp_path / "given" / "Thumos14reduced-Annotations"
    shutil.copytree(thumos / "Thumos14reduced-Annotations", source)
    keep = np.r_[0:12, 200:212]
    for path in source.glob("*.npy"):
        array = read_array(path)
        np.save(path, array if path.name == "classlist.npy" else array[keep])
    monkeypatch.chdir(tmp_path)
    argv = [
        "make_demo",
        "--annotations",
        str(source),
        "--proposals",
        str(thumos),
        "--name",
        "Few",
        "--feature_size",
        "16",
    ]
    monkeypatch.setattr("sys.argv", argv)
    assert demo.main() == 0
    features = read_array(tmp_path / "data" / "Few" / "Few-I3D-JOINTFeatures.npy")
    durations = read_array(source / "duration.npy").ravel()
    assert [video.shape for video in features] == [(round(d * 25 / 16), 16) for d in durations]
    assert (tmp_path / "data" / "Few" / "Few-Annotations" / "Ambiguous_test.txt").is_file()
    assert json.loads((tmp_path / "proposals4Thumos14" / "Proposals_Few_test.json").read_text())["results"]

    # nothing that is there already is replaced, be it the descriptors alone
    shutil.rmtree(tmp_path / "data")
    path = Path("descriptors") / "Few"
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.npy")}
    assert demo.main() == 2 and f"{path} exists" in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.npy")}
