"""Your own videos: feature layouts, annotations as JSON, another frame rate, making descriptors."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from descriptors import build_descriptors, pseudo_label_report, pseudo_labels
from readers.annotations import read_annotations, usual_subsets
from readers.arrays import read_array
from readers.features import Features
from utils import InputError

# ------------------------------------------------------------------------------------------ feature layouts


@pytest.fixture
def arrays():
    """RGB and flow of one video; flow is one snippet shorter, as from many extractors."""
    rng = np.random.default_rng(0)
    return rng.random((3, 7, 4), dtype=np.float32), rng.random((3, 6, 4), dtype=np.float32)  # [crops, T, D/2]


def read_one(folder, crop=None):
    return Features(folder, ["v"], crop).read(0).numpy()


def test_every_layout_of_a_folder(tmp_path, arrays):
    rgb, flow = arrays
    averaged = np.hstack([rgb.mean(0)[:6], flow.mean(0)])
    for name, array in (("rgb", rgb), ("flow", flow)):
        np.savez_compressed(tmp_path / f"v-{name}.npz", feature=array)
    assert read_one(tmp_path) == pytest.approx(averaged, rel=1e-6)
    assert (read_one(tmp_path, crop=2) == np.hstack([rgb[2, :6], flow[2]])).all()
    with pytest.raises(InputError, match=r"v-rgb.npz: .*3 crops, .*--crop .*0 .*2"):
        read_one(tmp_path, crop=3)

    apart = tmp_path / "apart"
    for name, array in (("rgb", rgb), ("flow", flow)):
        (apart / name).mkdir(parents=True)
        np.save(apart / name / "v.npy", array.mean(0))
    assert read_one(apart) == pytest.approx(averaged, rel=1e-6)

    named = tmp_path / "named"  # as ActivityNet's often are
    (named / "rgb").mkdir(parents=True)
    (named / "flow").mkdir()
    for name, array in (("rgb", rgb), ("flow", flow)):
        np.save(named / name / "v_v.npy", array.mean(0))
    assert read_one(named) == pytest.approx(averaged, rel=1e-6)
    with pytest.raises(InputError, match=r"1 of 1 .*: v; "):
        Features(named, ["v", "v_v"]).require([0])  # what is another video's own file is not taken

    np.save(tmp_path / "v.npy", averaged)  # one file goes before two
    (tmp_path / "v-rgb.npz").unlink()
    assert (read_one(tmp_path) == averaged).all()


def test_an_extractors_file_without_crops(tmp_path, arrays):
    for name, array in zip(("rgb", "flow"), arrays, strict=True):
        np.savez(tmp_path / f"v-{name}.npz", feature=array[0])
    assert (read_one(tmp_path, crop=1) == np.hstack([arrays[0][0, :6], arrays[1][0]])).all()


def test_half_precision_crops_are_averaged_in_single(tmp_path, arrays):
    halves = [array.astype(np.float16) for array in arrays]
    for name, array in zip(("rgb", "flow"), halves, strict=True):
        np.savez(tmp_path / f"v-{name}.npz", feature=array)
    exact = np.hstack([array.astype(np.float64).mean(0)[:6] for array in halves])
    assert read_one(tmp_path) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("rgb", "flow", "message"),
    [
        ({"feature": np.ones((2, 5, 4))}, None, r"v-flow.npz: no such file; .*RGB"),
        ({"feature": np.ones((5, 4))}, {"feature": np.ones((5, 3))}, r"video v: .*RGB and flow .*width"),
        (
            {"a": np.ones((5, 4)), "b": np.ones((5, 4))},
            {"feature": np.ones((5, 4))},
            r"v-rgb.npz: .*array .*feature\b.* a, b",
        ),
        ({"feature": np.ones((5, 4))}, {"feature": np.full((5, 4), "x")}, r"v-flow.npz: .*numbers, .*<U1"),
        (
            {"feature": np.array([None])},
            {"feature": np.ones((5, 4))},
            r"v-rgb.npz: .*readable",
        ),
        ({"feature": np.full((2, 5, 4), np.nan)}, {"feature": np.ones((5, 4))}, r"video v: snippet 0 .*finite"),
        ({"feature": np.ones((0, 5, 4))}, {"feature": np.ones((0, 5, 4))}, r"video v: .*RGB and flow"),
    ],
)
def test_bad_pairs(tmp_path, rgb, flow, message):
    for name, content in (("rgb", rgb), ("flow", flow)):
        if content is not None:
            np.savez(tmp_path / f"v-{name}.npz", **content)
    with pytest.raises(InputError, match=message):
        read_one(tmp_path)


def test_a_truncated_archive(tmp_path, arrays):
    for name, array in zip(("rgb", "flow"), arrays, strict=True):
        np.savez_compressed(tmp_path / f"v-{name}.npz", feature=array)
    path = tmp_path / "v-flow.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"v-flow.npz: .*readable"):
        read_one(tmp_path)
    path.write_text("nothing of the kind")
    with pytest.raises(InputError, match=r"v-flow.npz: .*readable"):
        read_one(tmp_path)


def test_rows_and_columns_exchanged(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((8, 6), np.float32))
    with pytest.raises(InputError, match=r"features .*6 .*--feature_size .*8; rows and columns"):
        Features(tmp_path, ["v"], feature_size=8).read(0)
    np.save(tmp_path / "w.npy", np.ones((8, 7), np.float32))  # both are [D, T]
    features = Features(tmp_path, ["v", "w"])
    features.read(0)
    with pytest.raises(InputError, match=r"video w: features are 7 wide, .* v are 6; rows and columns .* \[T, D\]"):
        features.read(1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "the folder is empty"),
        (("v.pt",), r"the folder has v\.pt: rename or convert"),
        (("v_i3d.npy",), r"the folder has v_i3d\.npy"),
    ],
)
def test_features_in_files_of_other_names(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"1 of 1 videos have no file: v; expected .*; {message}"):
        Features(tmp_path, ["v"]).require([0])


def test_features_that_are_objects_or_none(tmp_path):
    objects = np.array([{"rgb": 1}], dtype=object)
    np.save(tmp_path / "v.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "w.npz", feats=objects)
    np.save(tmp_path / "x.npy", np.ones((0, 8)))
    messages = ["v.npy: .*could run code: save the array of", "w.npz: .*could run code", "video x: .*missing_features"]
    for i, message in enumerate(messages):
        with pytest.raises(InputError, match=message):
            Features(tmp_path, ["v", "w", "x"]).read(i)


# --------------------------------------------------------------------------------------- annotations as JSON


def write_database(folder, database):
    path = folder / "annotations.json"
    path.write_text(json.dumps({"database": database}))
    return path


DATABASE = {
    "t": {"subset": "training", "duration": 10, "annotations": [{"label": "Jump"}, {"label": "Dive", "segment": []}]},
    "v": {
        "subset": "validation",
        "duration": 12.5,
        "annotations": [{"label": "Jump", "segment": [1, 2.5]}, {"label": "Jump", "segment": [4, 4]}],
    },
    "n": {"subset": "testing"},
}


def test_annotations_from_json(tmp_path):
    annotations = read_annotations(write_database(tmp_path, DATABASE))
    assert annotations.class_names == ["Dive", "Jump"] and annotations.videos == ["t", "v", "n"]
    assert annotations.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert annotations.instances.values.tolist() == [["v", 1, 1.0, 2.5]]
    assert annotations.empty_instances.values.tolist() == [["v", 1, 4.0, 4.0]]
    assert annotations.durations.tolist()[:2] == [10, 12.5] and np.isnan(annotations.durations[2])
    assert annotations.ambiguous == {}

    (tmp_path / "classes.txt").write_text("Jump\nDive\n\nSwim\n")
    (tmp_path / "Ambiguous_test.txt").write_text("v 3 4\n")
    annotations = read_annotations(tmp_path / "annotations.json", tmp_path / "classes.txt")
    assert annotations.class_names == ["Jump", "Dive", "Swim"] and annotations.labels[0].tolist() == [1, 1, 0]
    assert list(annotations.ambiguous) == ["v"]


def test_empty_instances_are_left_out_with_a_notice(tmp_path, caplog):
    caplog.set_level("INFO")
    truth = read_annotations(write_database(tmp_path, DATABASE)).ground_truth("validation")
    assert len(truth) == 1 and re.search(r"1 instance .*length.* v\b", caplog.text)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("text", r"video bad: .*\{\"subset\""),
        ({"subset": 3}, r"video bad: .*\{\"subset\""),
        ({"subset": "validation", "duration": "long"}, r"video bad: .*duration 'long'"),
        ({"subset": "validation", "annotations": {"label": "x"}}, r"video bad: .*\"annotations\""),
        ({"subset": "validation", "annotations": {}}, r"video bad: .*\"annotations\""),
        ({"subset": "validation", "annotations": [{"label": ""}]}, r"video bad: .*\"annotations\""),
        ({"subset": "validation", "annotations": [{"label": "x" * 201}]}, r"video bad: .*at most 200 characters"),
        ({"subset": "validation", "annotations": [{"segment": [0, 1]}]}, r"video bad: .*\"annotations\""),
        (
            {"subset": "validation", "annotations": [{"label": "Jump", "segment": [1]}]},
            r"annotations.json: video bad: .*\[start, end\].*\[\[1\]\]",
        ),
    ],
)
def test_bad_entries_of_a_database(tmp_path, entry, message):
    path = write_database(tmp_path, DATABASE | {"bad": entry})
    with pytest.raises(InputError, match=message):
        read_annotations(path)
    errors = []
    annotations = read_annotations(path, on_error=errors.append)  # and all others are read
    assert len(errors) == 1 and len(annotations.instances) == 1 and {"t", "v", "n"} <= set(annotations.videos)


def test_bad_databases(tmp_path):
    for content in ("[]", "{}", '{"database": {}}', '{"database": [1]}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(InputError, match=r"a.json: .*\{\"database\""):
            read_annotations(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"annotations.json: .*no class"):
        read_annotations(write_database(tmp_path, {"n": {"subset": "testing"}}))
    path = write_database(tmp_path, DATABASE)
    (tmp_path / "classes.txt").write_text("Jump\nJump\n")
    with pytest.raises(InputError, match=r"classes.txt: Jump .*more than once"):
        read_annotations(path, tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("Jump\n")
    with pytest.raises(InputError, match=r"annotations.json: video t: .*classes.txt.*Dive"):
        read_annotations(path, tmp_path / "classes.txt")


def test_duplicate_names(tmp_path):
    """Python's JSON reader would keep the last one silently."""
    (tmp_path / "a.json").write_text('{"database": {"v": {"subset": "training"}, "v": {"subset": "testing"}}}')
    with pytest.raises(InputError, match=r"a.json: .*JSON .*'v' .*more than once"):
        read_annotations(tmp_path / "a.json")


def test_a_class_list_is_for_json(demo_home, tmp_path):
    (tmp_path / "classes.txt").write_text("Jump\n")
    with pytest.raises(InputError, match=r"classes.txt: .*Demo-Annotations"):
        read_annotations(demo_home / "data/Demo/Demo-Annotations", tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["validation", "test"], ("validation", "test")),
        (["training", "validation", "testing"], ("training", "validation")),
        (["training", "testing"], ("training", "testing")),
        (["training", "test"], ("training", "test")),
    ],
)
def test_usual_subsets(present, expected):
    assert tuple(usual_subsets(present).values()) == expected


def test_arrays_without_any_instance(demo_home, tmp_path):
    shutil.copytree(demo_home / "data/Demo/Demo-Annotations", tmp_path / "a")
    for name in ("labels", "segments"):
        np.save(tmp_path / "a" / f"{name}.npy", np.array([[]] * 140, dtype=object))  # which has the shape [140, 0]
    annotations = read_annotations(tmp_path / "a")
    assert annotations.instances.empty and annotations.labels.any(1).all()


# --------------------------------------------------------------------------------------------- whole runs


def copy_demo(demo_home, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(demo_home, home)
    return home


def test_a_json_and_a_folder_give_the_digits_of_the_demo(demo_home, run_in, tmp_path):
    """The demo rewritten as own data, under another name, in the extractor's layout."""
    home = copy_demo(demo_home, tmp_path)
    annotations = read_annotations(home / "data/Demo/Demo-Annotations")
    arrays = read_array(home / "data/Demo/Demo-I3D-JOINTFeatures.npy")
    own = home / "data" / "Own"
    (own / "features").mkdir(parents=True)
    database = {}
    for i, (video, array) in enumerate(zip(annotations.videos, arrays, strict=True)):
        for name, half in zip(("rgb", "flow"), np.hsplit(array, 2), strict=True):
            np.savez(own / "features" / f"{video}-{name}.npz", feature=half[None])
        rows = annotations.instances[annotations.instances["video"] == video]
        training = annotations.subsets[i] == "validation"
        database[video] = {
            "subset": "training" if training else "validation",
            "annotations": [{"label": annotations.class_names[c]} for c in np.flatnonzero(annotations.labels[i])]
            if training  # with video-level labels alone
            else [
                {"label": annotations.class_names[row.class_idx], "segment": [row.start_sec, row.end_sec]}
                for row in rows.itertuples()
            ],
        }
    write_database(own, database)
    (home / "classes.txt").write_text("\n".join(annotations.class_names))
    shutil.copy(home / "data/Demo/Demo-Annotations/Ambiguous_test.txt", own)
    for part in ("train", "test"):
        proposals = home / "proposals4Thumos14" / f"Proposals_Demo_{part}.json"
        shutil.copy(proposals, proposals.with_name(f"Proposals_Own_{part}.json"))

    same = ("--batch_size", 8, "--max_epoch", 1, "--lr", 1e-4, "--sc_epochs", 35, "--recipe", "paper")
    run = run_in(home)
    status, out, err = run("--run_type", "descriptors", "--dataset_name", "Own", "--class_list", "classes.txt")
    assert status == 0 and re.search("pseudo-labels of 80 ", out), err
    results = []
    for name, more in (("Demo", ("--sme_epochs", 160, "--sc_decay", 8)), ("Own", ("--class_list", "classes.txt"))):
        status, _, err = run("--dataset_name", name, "--exp_dir", tmp_path / name, *same, *more)
        assert status == 0, err
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert results[0]["snippet"]["mAP"] == pytest.approx(results[1]["snippet"]["mAP"], abs=1e-6)
    assert results[0]["seconds"]["mAP"] == pytest.approx(results[1]["seconds"]["mAP"], abs=1e-6)


def test_annotations_in_other_places(demo_home, run, tmp_path):
    """As a folder that holds annotations.json, or as a file of any name."""
    names = [f"demo_{part}_{i:04d}" for part, count in (("train", 80), ("test", 60)) for i in range(1, count + 1)]
    path = write_database(tmp_path, {name: {"subset": name.split("_")[1], "annotations": []} for name in names})
    path.with_name("other.txt").write_bytes(path.read_bytes())
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for annotations in (tmp_path, path, tmp_path / "other.txt"):
        argv = ("--train_subset", "train", "--test_subset", "test", "--class_list", tmp_path / "classes.txt")
        status, out, _ = run("--run_type", "check", "--dataset_name", "Demo", "--annotations", annotations, *argv)
        assert status == 1 and re.search(r"\ntrain +train +80 +\d+ +0 +0 +\d+\n", out), out


def test_a_mistyped_path_does_not_make_the_demo_again(demo_home, run):
    path = demo_home / "data/Demo/Demo-I3D-JOINTFeatures.npy"
    before = path.stat().st_mtime_ns
    status, out, _ = run("--run_type", "check", "--dataset_name", "Demo", "--features", "typo.npy")
    assert status == 1 and re.search(r"typo\.npy: .*features", out) and path.stat().st_mtime_ns == before


def test_a_video_whose_outputs_are_not_finite(demo_home, run_in, tmp_path):
    home = copy_demo(demo_home, tmp_path)
    path = home / "data/Demo/Demo-I3D-JOINTFeatures.npy"
    arrays = read_array(path)
    arrays[100] = arrays[100] + np.float32(3e38) * np.sign(arrays[100] - 0.5)
    np.save(path, arrays)
    run, argv = run_in(home), ("--dataset_name", "Demo", "--exp_dir", tmp_path / "run", "--max_epoch", 1)
    status, _, err = run(*argv)
    assert status == 2 and re.search("outputs .*network .*finite .*demo_test_0021", err)
    status, _, err = run("--run_type", "proposals", *argv, "--overwrite", "--proposal_epochs", 1)
    assert status == 2 and re.search("video demo_test_0021: .*snippet network.* outputs .*finite", err)


def test_another_frame_rate_changes_only_the_times(demo_home, run_in, tmp_path):
    """Every time halved and the rate doubled: the same snippets, so the same figures to the bit."""
    home = copy_demo(demo_home, tmp_path)
    folder = home / "data/Demo/Demo-Annotations"
    segments = read_array(folder / "segments.npy")
    halved = np.empty(len(segments), dtype=object)
    halved[:] = [[[start / 2, end / 2] for start, end in own] for own in segments]
    np.save(folder / "segments.npy", halved)
    lines = [line.split() for line in (folder / "Ambiguous_test.txt").read_text().splitlines()]
    assert lines
    ambiguous = [f"{video} {float(start) / 2} {float(end) / 2}" for video, start, end in lines]
    (folder / "Ambiguous_test.txt").write_text("\n".join(ambiguous))
    for part in ("train", "test"):
        path = home / "proposals4Thumos14" / f"Proposals_Demo_{part}.json"
        content = json.loads(path.read_text())
        content["external_data"]["feature_fps"] = 50
        for entries in content["results"].values():
            for entry in entries:
                entry["segment"] = [time / 2 for time in entry["segment"]]
        path.write_text(json.dumps(content))
    descriptors = home / "descriptors/Demo/classes.json"
    descriptors.write_text(descriptors.read_text().replace('"feature_fps": 25.0', '"feature_fps": 50'))
    results, detections = [], []
    for where, more in ((demo_home, ()), (home, ("--feature_fps", 50))):
        out = tmp_path / f"run{len(results)}"
        run_in(where).train(out, "--max_epoch", 1, *more)
        results.append(json.loads((out / "results.json").read_text()))
        detections.append(json.loads((out / "detections.json").read_text())["results"])
    assert results[0]["snippet"] == results[1]["snippet"] and results[0]["seconds"] == results[1]["seconds"]
    for video, found in detections[0].items():
        assert [entry["segment"][1] for entry in found] == [2 * entry["segment"][1] for entry in detections[1][video]]
    argv = ("--run_type", "eval", "--dataset_name", "Demo", "--exp_dir", tmp_path / "eval", "--snippet_frames", 8)
    status, _, err = run_in(home)(*argv, "--detections", tmp_path / "run1" / "detections.json")
    assert status == 0, err
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["snippet"] == results[0]["snippet"]


# --------------------------------------------------------------------------------------------- descriptors


def test_descriptors_are_those_the_demo_comes_with(demo_home, run, tmp_path):
    argv = ("--run_type", "descriptors", "--dataset_name", "Demo", "--descriptors_root")
    status, out, err = run(*argv, tmp_path)
    assert status == 0 and re.search("pseudo-labels of 80 ", out), err
    for name in ("appearance", "motion"):
        made, given = (
            np.load(root / "Demo" / f"general_{name}_descriptors.npy") for root in (tmp_path, demo_home / "descriptors")
        )
        assert made.dtype == np.float32 and made == pytest.approx(given, abs=1e-5)
    status, _, err = run(*argv, tmp_path)
    assert status == 2 and re.search(r"general_appearance_descriptors\.npy.* --overwrite", err)
    status, _, err = run(*argv, tmp_path, "--overwrite", "--descriptor_pooling", "snippet")
    pooled = np.load(tmp_path / "Demo" / "general_motion_descriptors.npy")
    assert status == 0 and not np.allclose(pooled, made, atol=1e-4), err


def test_pooling_over_snippets_by_hand():
    means = torch.tensor([[1.0, 10.0], [4.0, 40.0]])
    labels = torch.tensor([[1.0, 0], [1, 1]])
    appearance, motion = build_descriptors(means, labels, torch.tensor([1, 2]))
    assert appearance.flatten().tolist() == [3, 4] and motion.flatten().tolist() == pytest.approx([30, 40])


def test_a_class_without_a_training_video(demo_home, run_in, tmp_path):
    home = copy_demo(demo_home, tmp_path)
    path = home / "data/Demo/Demo-Annotations/classlist.npy"
    np.save(path, np.append(read_array(path), b"Nothing"))
    status, _, err = run_in(home)(
        "--run_type", "descriptors", "--dataset_name", "Demo", "--descriptors_root", tmp_path / "made"
    )
    assert status == 2 and re.search(r"training video .*label Nothing\b", err)
    assert not (tmp_path / "made").exists()


def test_report_of_pseudo_labels():
    descriptors = torch.eye(3).expand(2, 3, 3)
    means = torch.eye(3)[[0, 0, 1, 0, 2]].repeat(1, 2)
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 0]])  # the last has no label
    text = pseudo_label_report(pseudo_labels(means, descriptors), labels, ["a", "b", "c"])
    assert re.search(r"\b4 .*videos: 2 .*true label \(50\.0%\); 4 .*consistent", text)
    assert text.splitlines()[1:] == ["  2 x b taken for a"]
    perfect = pseudo_label_report(pseudo_labels(means[:1], descriptors), labels[:1], ["a", "b", "c"])
    assert re.search(r"\b1 .*true label \(100\.0%\)", perfect) and "\n" not in perfect
