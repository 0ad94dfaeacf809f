"""`--run_type check` finds each kind of defect, alone and all together, and runs stop with the same message."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from prepare.split_features import split_features
from readers.arrays import read_array

ANNOTATIONS = Path("data/Demo/Demo-Annotations")
FEATURES = Path("data/Demo/features")
DESCRIPTORS = Path("descriptors/Demo")


def change_array(home, path, change):
    array = read_array(home / path)
    change(array)
    np.save(home / path, array)


def change_features(home, video, change):
    path = home / FEATURES / f"{video}.npy"
    np.save(path, change(np.load(path)))


def change_proposals(home, part, change):
    path = home / f"proposals4Thumos14/Proposals_Demo_{part}.json"
    content = json.loads(path.read_text())
    change(content["results"])
    path.write_text(json.dumps(content))


def put(array, index, value):
    array[index] = value


def renamed(old, new):
    """Changes a class name in an array of names, or of lists of names."""

    def change(array):
        for i, value in enumerate(array):
            array[i] = [new if name == old else name for name in value] if isinstance(value, list) else value
        array[[not isinstance(value, list) and value == old for value in array]] = new

    return change


def with_nan(array):
    array[3, 1] = np.nan
    return array


# How the demo is damaged, what `check` says, and the run types that stop with the same message.
# demo_train_0001 is of class HighJump, 0002 of LongJump, and so on.
LEARNING = ("train", "descriptors")
ERRORS = {
    "features missing": (
        lambda home: (home / FEATURES / "demo_train_0001.npy").unlink(),
        r"features: 1 of (140|80|60) .*: demo_train_0001; .*<video>.npy",
        ("train", "descriptors", "proposals"),
    ),
    "features misshapen": (
        lambda home: change_features(home, "demo_train_0002", lambda array: array[0]),
        r"features/demo_train_0002.npy: video demo_train_0002: .*\[T, D\]",
        ("train", "descriptors", "proposals"),
    ),
    "features of another width": (
        lambda home: change_features(home, "demo_train_0003", lambda array: array[:, :30]),
        r"video demo_train_0003: features .*30 .*demo_train_000[1-6] .*32",
        ("train", "descriptors", "proposals"),
    ),
    "features not finite": (
        lambda home: change_features(home, "demo_train_0004", with_nan),
        r"video demo_train_0004: snippet 3 .*finite",
        ("train", "descriptors", "proposals"),
    ),
    "features damaged": (
        lambda home: (home / FEATURES / "demo_train_0005.npy").write_text("nothing"),
        r"features/demo_train_0005.npy: not .*\.npy",
        ("train", "descriptors", "proposals"),
    ),
    "test features not finite": (
        lambda home: change_features(home, "demo_test_0002", with_nan),
        r"video demo_test_0002: snippet 3 .*finite",
        ("train", "test", "proposals"),
    ),
    "video-level label unknown": (
        lambda home: change_array(home, ANNOTATIONS / "labels_all.npy", lambda array: put(array, 6, [b"Swim"])),
        r"labels_all.npy: video demo_train_0007: .*classlist.npy.*Swim",
        ("train", "test", "eval", "descriptors", "proposals"),
    ),
    "instance label unknown": (
        lambda home: change_array(home, ANNOTATIONS / "labels.npy", lambda array: put(array, 7, [b"Swim"])),
        r"labels.npy: video demo_train_0008: .*classlist.npy.*Swim",
        ("train", "test", "eval", "descriptors", "proposals"),
    ),
    "instance that is no segment": (
        lambda home: change_array(home, ANNOTATIONS / "segments.npy", lambda array: put(array, 8, [[1.0]])),
        r"segments.npy: video demo_train_0009: .*\[start, end\].*\[\[1.0\]\]",
        ("train", "test", "eval", "descriptors", "proposals"),
    ),
    "proposals missing": (
        lambda home: change_proposals(home, "test", lambda results: results.pop("demo_test_0010")),
        r"Proposals_Demo_test.json: 1 of 60 .*: demo_test_0010; .*--missing_proposals",
        ("train", "test"),
    ),
    "proposal backwards": (
        lambda home: change_proposals(
            home, "test", lambda results: results["demo_test_0011"][2].update(segment=[9, 8])
        ),
        r"Proposals_Demo_test.json: video demo_test_0011: .*segment \[9, 8\]",
        ("train", "test"),
    ),
    "proposals in milliseconds": (
        lambda home: change_proposals(
            home, "test", lambda results: results["demo_test_0012"][0].update(segment=[1000, 9000])
        ),
        r"proposals .*demo_test_0012: \[1000, 9000\] s .*outside",
        ("train", "test"),
    ),
    "descriptors misshapen": (
        lambda home: (
            change_array(home, DESCRIPTORS / "general_motion_descriptors.npy", lambda array: None)
            or np.save(home / DESCRIPTORS / "general_appearance_descriptors.npy", np.ones((5, 16)))
        ),
        r"general_appearance_descriptors.npy: .*\[6, 16\].* 6 classes",
        ("train",),
    ),
}
WARNINGS = {
    "length and duration": (
        lambda home: change_features(home, "demo_train_0020", lambda array: array[:-2]),
        r"features .*duration.* \(1\):\n  demo_train_0020: \d+ snippets .*[\d.]+ s",
    ),
    "video-level labels differ": (
        lambda home: change_array(home, ANNOTATIONS / "labels_all.npy", lambda array: array[20].append(b"Spin")),
        r"video-level labels .*\(\d\):(\n  .*)*\n  demo_train_0021: Throw, Spin",
    ),
    "video without a label": (
        lambda home: change_array(home, ANNOTATIONS / "labels_all.npy", lambda array: put(array, 21, [])),
        r"videos without .*label \(1\):\n  demo_train_0022 \(train\)",
    ),
    "instance past the end": (
        lambda home: change_array(home, ANNOTATIONS / "segments.npy", lambda array: put(array[22][-1], 1, 500.0)),
        r"instances outside .*\(1\):\n  demo_train_0023: 1 of \d, .*\[[\d.]+, 500.0\] s",
    ),
    "empty instance": (
        lambda home: change_array(home, ANNOTATIONS / "segments.npy", lambda array: put(array[23], 0, [4.0, 4.0])),
        r"instances .*<= 0 \(1\):\n  demo_train_0024: 1 of \d, .*\[4.0, 4.0\] s",
    ),
    "doubled instance": (
        lambda home: [
            change_array(home, ANNOTATIONS / f"{name}.npy", lambda array: array[24].append(array[24][0]))
            for name in ("labels", "segments")
        ],
        r"duplicate instances \(1\):\n  demo_train_0025: 1 of \d",
    ),
    "proposal past the end": (
        lambda home: change_proposals(
            home, "train", lambda results: results["demo_train_0026"][0].update(segment=[5, 200])
        ),
        r"proposals outside .*\(1\):\n  demo_train_0026: 1 of \d+, .*\[5.0, 200.0\] s",
    ),
    "empty proposal": (
        lambda home: change_proposals(
            home, "train", lambda results: results["demo_train_0027"][0].update(segment=[5, 5])
        ),
        r"proposals .*<= 0 \(1\):\n  demo_train_0027: 1 of \d+, .*\[5.0, 5.0\] s",
    ),
    "doubled proposal": (
        lambda home: change_proposals(
            home, "train", lambda results: results["demo_train_0028"].append(results["demo_train_0028"][0])
        ),
        r"duplicate proposals \(1\):\n  demo_train_0028: 1 of \d+",
    ),
    "no proposals": (
        lambda home: change_proposals(home, "train", lambda results: results["demo_train_0029"].clear()),
        r"videos without proposals \(1\):\n  .*Proposals_Demo_train.json: demo_train_0029",
    ),
    "proposals of another video": (
        lambda home: change_proposals(home, "train", lambda results: results.update(other=[])),
        r"unused proposals.* \(1\):\n  .*Proposals_Demo_train.json: other",
    ),
}


@pytest.fixture(scope="module")
def split_home(demo_home, tmp_path_factory):
    """The demo with a file of features per video, and a checkpoint for it."""
    home = tmp_path_factory.mktemp("split") / "home"
    shutil.copytree(demo_home, home)
    split_features("Demo", home / "data/Demo", np.dtype("f4"))
    (home / "data/Demo/Demo-I3D-JOINTFeatures.npy").unlink()
    return home


@pytest.fixture
def home(split_home, tmp_path):
    shutil.copytree(split_home, tmp_path / "home")
    return tmp_path / "home"


def check(run, *argv):
    status, out, err = run("--run_type", "check", "--dataset_name", "Demo", *argv)
    assert "Traceback" not in err
    return status, out


def test_the_demo_is_sound(home, run_in):
    run = run_in(home)
    status, out = check(run)
    assert status == 0 and "\nerrors: 0, warnings: 0; " in out
    assert re.search(r"train  validation +80 +\d+ +6 +\d+ +\d+\ntest +test +60 ", out)
    assert re.search("recall .*train", out) and re.search("recall .*test", out)
    assert check(run, "--dataset_root", "data/Demo", "--num_class", 7)[0] == 1
    status, out = check(run, "--feature_size", 64, "--batch_size", 81)
    assert (
        status == 1
        and re.search(r"features .*32 .*--feature_size .*64", out)
        and re.search(r"--batch_size 81: .* 80 training", out)
    )


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_stops_runs_with_the_same_message(home, run_in, tmp_path, name):
    defect, message, run_types = ERRORS[name]
    defect(home)
    run = run_in(home)
    status, out = check(run)
    errors = [line.removeprefix("error: ") for line in out.splitlines() if line.startswith("error: ")]
    assert status == 1 and len(errors) == 1 and re.search(message, errors[0]), out

    checkpoint = home / "weights.pkl"
    torch.save({}, checkpoint)
    (home / "found.json").write_text('{"results": {}}')
    more = {
        "train": (),
        "test": ("--pretrained_ckpt", checkpoint),
        "eval": ("--detections", home / "found.json"),
        "descriptors": ("--descriptors_root", tmp_path / "made"),
        "proposals": ("--proposals_root", tmp_path / "made"),
    }
    for run_type in run_types:
        argv = ("--run_type", run_type, "--dataset_name", "Demo", "--exp_dir", tmp_path / "run", *more[run_type])
        status, _, err = run(*argv)
        assert status == 2 and re.search(message, err) and "Traceback" not in err, (run_type, err)
        if "1 of " not in message:  # the counts are of the videos that the run type reads
            assert f"error: {errors[0]}\n" in err
    assert not (tmp_path / "run").exists() and not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning(home, run_in, name):
    defect, message = WARNINGS[name]
    defect(home)
    status, out = check(run_in(home))
    assert status == 0 and re.search(f"warning: {message}", out) and "\nerrors: 0, " in out, out


def test_warnings_do_not_stop_training(home, run_in, tmp_path):
    for defect, _ in WARNINGS.values():
        defect(home)
    run_in(home).train(tmp_path / "run", "--max_epoch", 1)


def test_everything_at_once(home, run_in):
    for defect, *_ in (ERRORS | WARNINGS).values():
        defect(home)
    status, out = check(run_in(home))
    assert status == 1
    for name, (_, message, *_) in (ERRORS | WARNINGS).items():
        assert re.search(message.replace(r"\(1\)", r"\(\d+\)").replace(r":\n  ", r":(?:\n  .*)*?\n  "), out), name
    assert f"\nerrors: {len(ERRORS)}, " in out


def test_classes_without_training_video(home, run_in):
    path = home / ANNOTATIONS / "classlist.npy"
    np.save(path, np.append(read_array(path), b"Nothing"))
    _, out = check(run_in(home))
    assert re.search(r"classes without .*\n  Nothing", out)


def test_labels_of_all_training_videos(home, run_in, tmp_path):
    change_array(home, ANNOTATIONS / "labels_all.npy", lambda array: [labels.append(b"Spin") for labels in array[:80]])
    run, says = run_in(home), r"warning: .*training videos.*: Spin; "
    assert re.search(says, check(run)[1].replace("\n", " "))
    status, out, err = run("--dataset_name", "Demo", "--max_epoch", 1, "--interval", 0, "--exp_dir", tmp_path / "run")
    assert status == 0 and re.search(says, out), err


def test_missing_files_are_listed_and_the_rest_is_checked(home, run_in):
    shutil.rmtree(home / DESCRIPTORS)
    (home / "proposals4Thumos14/Proposals_Demo_test.json").unlink()
    change_features(home, "demo_train_0004", with_nan)
    status, out = check(run_in(home), "--pretrained_ckpt", "none.pkl")
    assert status == 1 and re.search("4 files .*missing", out)
    assert re.search("demo_train_0004: snippet 3 .*finite", out)
    assert "--run_type proposals" in out and "--run_type descriptors" in out
    shutil.rmtree(home / ANNOTATIONS)
    status, out = check(run_in(home))
    assert status == 1 and re.search(r"Demo-Annotations: .*annotations\.json", out)


def test_it_continues_after_unusable_entries(home, run_in):
    """A video name that cannot be a file name, bad lines, a subset without videos: later errors are found, too."""
    change_array(home, ANNOTATIONS / "videoname.npy", lambda array: put(array, 10, b"x/y"))
    change_features(home, "demo_train_0004", with_nan)
    (home / ANNOTATIONS / "Ambiguous_test.txt").write_text("one line\n\nanother\n")
    status, out = check(run_in(home), "--test_subset", "nothing")
    assert status == 1 and re.search("video 'x/y' .*file name", out)
    assert re.search("demo_train_0004: snippet 3 .*finite", out)
    assert "Ambiguous_test.txt: line 1" in out and "Ambiguous_test.txt: line 3" in out
    assert re.search("error: .*subset 'nothing'", out) and "\nerrors: 6, " in out  # and the proposals of x/y


def test_the_most_frequent_width_is_right(home, run_in, tmp_path):
    """Whichever video `check` reads first; a run compares with the first video."""
    change_features(home, "demo_train_0001", lambda array: array[:, :30])
    run = run_in(home)
    status, out = check(run)
    assert status == 1 and re.search("demo_train_0001: features .*30 .*demo_train_0002 .*32", out)
    assert "errors: 1," in out
    status, _, err = run("--dataset_name", "Demo", "--exp_dir", tmp_path / "run")
    assert status == 2 and re.search("features .*32 .*demo_train_0001 .*30", err)


def test_test_videos_without_instances(home, run_in):
    for name in ("labels", "segments"):
        change_array(home, ANNOTATIONS / f"{name}.npy", lambda array: array[80:].fill([]))
    status, out = check(run_in(home))
    assert status == 0 and re.search(r"mAP .*\(1\):\n  .* 60 test videos .*instance", out)
    assert re.search("recall .*train", out) and not re.search("recall .*test", out)


def test_missing_proposals_may_be_empty(home, run_in):
    change_proposals(home, "test", lambda results: [results.pop(f"demo_test_{i:04d}") for i in range(1, 61)])
    status, out = check(run_in(home), "--missing_proposals", "empty")
    assert status == 0 and "videos without proposals (60)" in out


def test_a_proposal_file_of_other_videos_is_refused(home, run_in, tmp_path):
    change_proposals(home, "test", lambda results: (results.clear(), results.update(other=[])))
    run = run_in(home)
    status, out = check(run, "--missing_proposals", "empty")
    message = "Proposals_Demo_test.json: none .* 60 .*: other; check whose"
    assert status == 1 and re.search(message, out)
    status, _, err = run("--dataset_name", "Demo", "--missing_proposals", "empty", "--exp_dir", tmp_path / "run")
    assert status == 2 and re.search(message, err)


def test_rgb_and_flow_of_different_length(home, run_in):
    array = np.load(home / FEATURES / "demo_train_0001.npy")
    (home / FEATURES / "demo_train_0001.npy").unlink()
    for name, half in (("rgb", array[:, :16]), ("flow", array[:-20, 16:])):
        np.savez(home / FEATURES / f"demo_train_0001-{name}.npz", feature=half)
    _, out = check(run_in(home))
    count = len(array)
    assert re.search(rf"RGB and flow .*\(1\):\n  demo_train_0001: {count} .*{count - 20} snippets", out)


def test_hints_at_the_likely_cause(home, run_in):
    """Another rate, descriptors of other classes, a class written in two ways, a test video without instances."""
    run = run_in(home)
    _, out = check(run, "--feature_fps", 50)
    assert re.search(r"most videos .*1\.5", out) and re.search("--feature_fps .*--snippet_frames", out)
    assert all(re.search(rf"{name}: .*--feature_fps 25 ", out) for name in (r"Demo_train\.json", r"classes\.json"))
    for name in ("classlist", "labels", "labels_all"):
        change_array(home, ANNOTATIONS / f"{name}.npy", renamed(b"Dive", b"Vault"))
    status, out = check(run)
    assert status == 1 and re.search(r"classes\.json: .*other classes.*Dive.*Vault", out)
    assert re.search(r"Proposals_Demo_test\.json: .*other classes.*Dive.*Vault", out)
    for name in ("labels", "segments"):
        change_array(home, ANNOTATIONS / f"{name}.npy", lambda array: put(array, 139, []))
    _, out = check(run)
    assert re.search(r"wrong \(1\):\n  demo_test_0060", out)
    change_array(home, ANNOTATIONS / "classlist.npy", lambda array: put(array, 0, b"VAULT"))
    _, out = check(run)
    assert re.search(r"differ only in case, .* \(2\):\n  VAULT\n  Vault", out)


def test_a_bad_checkpoint_is_found(home, run_in):
    torch.save({"x": torch.ones(1)}, home / "weights.pkl")
    status, out = check(run_in(home), "--pretrained_ckpt", "weights.pkl")
    assert status == 1 and re.search(r"weights\.pkl: .*parameters .*prop_fused_backbone", out)


def test_many_missing_videos_are_all_named(home, run_in):
    for i in range(1, 9):
        (home / FEATURES / f"demo_test_{i:04d}.npy").unlink()
    _, out = check(run_in(home))
    error = next(line for line in out.splitlines() if line.startswith("error: "))
    assert all(f"demo_test_{i:04d}" in error for i in range(1, 9)) and "…" not in error


def test_real_thumos_annotations(thumos, run_in, tmp_path):
    """With features of the right lengths, and the real proposals."""
    home = tmp_path
    shutil.copytree(thumos / "Thumos14reduced-Annotations", home / "data/Thumos14reduced/Thumos14reduced-Annotations")
    (home / "data/Thumos14reduced/features").mkdir()
    names = [name.decode() for name in read_array(thumos / "Thumos14reduced-Annotations/videoname.npy")]
    durations = read_array(thumos / "Thumos14reduced-Annotations/duration.npy").ravel()
    for name, duration in zip(names, durations, strict=True):
        array = np.ones((round(duration * 25 / 16), 2), np.float16)
        np.save(home / f"data/Thumos14reduced/features/{name}.npy", array)
    (home / "descriptors/Thumos14reduced").mkdir(parents=True)
    for name in ("appearance", "motion"):
        np.save(home / f"descriptors/Thumos14reduced/general_{name}_descriptors.npy", np.ones((20, 1)))
    status, out, err = run_in(home)("--run_type", "check", "--proposals_root", thumos)
    assert status == 0, err
    assert re.search(r"warning: video-level labels .*\(28\):", out)
    assert re.search(r"videos without .*label \(1\):\n  video_test_0000270 \(test\)", out)
    outside = out.split("instances outside the video (5):\n")[1].split("warning")[0]
    assert re.findall(r"video_(\w+): ", outside) == [
        "validation_0000364", "validation_0000856", "test_0000270", "test_0000814", "test_0001081"
    ]  # fmt: skip
    assert not re.search("warning: (features .*duration|instances .*<= 0)", out)
    recall = re.findall(r"^(50|100|all) +([\d.]+) +([\d.]+) +([\d.]+)", out, re.MULTILINE)
    assert recall[3:] == [
        ("50", "72.0", "53.2", "29.6"),
        ("100", "77.8", "60.0", "36.1"),
        ("all", "80.3", "63.7", "41.5"),
    ]


@pytest.mark.parametrize(("year", "empty"), [("1.2", 10), ("1.3", 11)])
def test_real_activitynet_annotations(activitynet, run_in, tmp_path, year, empty):
    """Instances of zero length and missing files are reported."""
    name = f"ActivityNet{year}"
    (tmp_path / "data").mkdir()
    shutil.copytree(activitynet / f"{name}-Annotations", tmp_path / "data" / name / f"{name}-Annotations")
    (tmp_path / "data" / name / f"{name}-Annotations").chmod(0o755)
    (tmp_path / "data" / name / f"{name}-Annotations" / "Ambiguous_test.txt").write_text("")
    status, out, _ = run_in(tmp_path)("--run_type", "check", "--dataset_name", name)
    counts = re.search(r"train +training +(\d+) .*\ntest +validation +(\d+) ", out).groups()
    assert status == 1 and counts == {"1.2": ("4819", "2383"), "1.3": ("9337", "4575")}[year]
    assert re.search(rf"instances .*<= 0 \({empty}\):", out) and re.search("5 files .*missing", out)
