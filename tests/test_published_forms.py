"""Annotations and result files as other projects publish them, against the same data in our own form."""

import gzip
import json
import math
import pickle
import re

import numpy as np
import pytest

from dataset import read_proposals
from eval.evaluation import evaluate
from eval.metrics import EvaluationInput
from eval.protocols import TIOU_PROTOCOLS
from proposals import SNIPPETS_PER_SECOND
from readers.annotations import are_doubled, read_annotations, usual_subsets
from readers.result_files import merge_results, parse_results
from runs.detections import read_detections
from utils import InputError

TRAINING, TEST = ("a_train_1", "a_train_2"), ("a_test_1", "a_test_2")
DURATIONS = {"a_train_1": 40.0, "a_train_2": 92.166667, "a_test_1": 33.73, "a_test_2": 60.0}
INSTANCES = {
    "a_train_1": [("Jump", 0.2, 1.1), ("Long jump", 18.6, 24.8)],
    "a_train_2": [("Long jump", 5.4, 11.6)],
    "a_test_1": [("Jump", 0.5, 2.2), ("Jump", 4.6, 9.0)],
    "a_test_2": [("Long jump", 12.6, 58.16)],
}
CLASSES = ["Jump", "Long jump"]


def database(training, test, annotation, entry, wrap=None):
    """A file as a project has it: names of its subsets, what it says of an instance and of a video, and what else."""
    videos = {}
    for video, instances in INSTANCES.items():
        listed = [annotation(label, start, end) for label, start, end in instances]
        subset = training if video in TRAINING else test
        videos[video] = {"subset": subset, "annotations": listed, **entry(DURATIONS[video])}
    return {"database": videos} if wrap is None else wrap(videos)


def plain(label, start, end):
    return {"label": label, "segment": [start, end]}


def numbered(label, start, end):
    return plain(label, start, end) | {"label_id": CLASSES.index(label), "segment(frames)": [30 * start, 30 * end]}


def with_ambiguous(videos):
    """OpenTAD's THUMOS14: a label, also of a video that has no other."""
    for video in ("a_test_1", "other"):
        videos.setdefault(video, {"subset": "validation", "duration": 9.0, "frame": 270, "annotations": []})
        videos[video]["annotations"].append(plain("Ambiguous", 20.0, 22.0))
    return {"database": videos}


FORMS = {
    "ours": database("training", "validation", plain, lambda seconds: {"duration": seconds}),
    "LAC, BaS-Net, G-TAD, AFSD": database(
        "train", "test", lambda label, *times: {"segment": [*map(str, times)], "label": label}, lambda seconds: {}
    ),
    "ActionFormer": database(
        "Validation",
        "Test",
        numbered,
        lambda seconds: {"duration": seconds, "fps": 30.0},
        lambda videos: {"version": "Thumos14-30fps", "database": videos},
    ),
    "OpenTAD": database(
        "training", "validation", plain, lambda seconds: {"duration": seconds, "frame": 1000}, with_ambiguous
    ),
    "ActivityNet": database(
        "training",
        "validation",
        plain,
        lambda seconds: {"duration": seconds, "resolution": "320x240", "url": "https://…"},
        lambda videos: {
            "version": "VERSION 1.3",
            "taxonomy": [{"parentName": "Sports", "nodeName": "Jump", "nodeId": 1, "parentId": 0}],
            "database": videos | {"hidden": {"subset": "testing", "duration": 12.5, "annotations": []}},
        },
    ),
    "HACS": database("training", "validation", plain, lambda seconds: {"duration": f"{seconds:.6f}", "url": "https://"}),
    "FineAction": database(
        "training",
        "validation",
        lambda *instance: numbered(*instance) | {"id": 7},
        lambda seconds: {"duration": seconds, "fps": 25.0, "filename": "v_00000000.mp4"},
    ),
    "MMAction2": database(
        "train", "val", plain, lambda seconds: {"duration_second": seconds, "fps": 30}, lambda videos: videos
    ),
    "frames": database(
        "Training", "testing", plain, lambda seconds: {"duration_frame": str(round(1e6 * seconds)), "fps": 1e6}
    ),
}  # fmt: skip


def parts_of(annotations):
    """Labels, instances and durations of the training and of the test videos, by whatever name their subsets have."""
    subsets = usual_subsets(annotations.subsets)
    row_of = {video: i for i, video in enumerate(annotations.videos)}
    found = {}
    for part, subset in subsets.items():
        videos = [video for video in annotations.videos_of(subset) if video in DURATIONS]
        rows = [row_of[video] for video in videos]
        truth = annotations.ground_truth(subset).values.tolist()
        found[part] = videos, annotations.labels[rows].tolist(), truth, annotations.durations[rows]
    return annotations.class_names, found


@pytest.mark.parametrize("project", FORMS)
def test_annotations_of_other_projects(tmp_path, project):
    annotations = {}
    for name in ("ours", project):
        path = tmp_path / f"{name.split(',')[0]}.json"
        path.write_text(json.dumps(FORMS[name]))
        annotations[name] = read_annotations(path)
    (names, expected), (found_names, found) = (parts_of(annotations[name]) for name in ("ours", project))
    assert names == found_names == CLASSES
    for part in ("train", "test"):
        *lists, durations = found[part]
        assert lists == list(expected[part][:-1])
        assert np.isnan(durations).all() or durations == pytest.approx(expected[part][-1], abs=1e-6)
    assert np.isnan(annotations[project].durations).any() == (project.startswith("LAC"))
    ambiguous = annotations[project].ambiguous
    assert {video: rows.tolist() for video, rows in ambiguous.items()} == (
        {"a_test_1": [[20.0, 22.0]], "other": [[20.0, 22.0]]} if project == "OpenTAD" else {}
    )


def arrays(folder, labels, segments, **others):
    """The same annotations as a folder of arrays, with changes."""
    folder.mkdir()
    own = {"videoname": [*DURATIONS], "subset": ["validation"] * 2 + ["test"] * 2, "classlist": CLASSES}
    listed = {"labels_all": labels, "labels": labels, "segments": segments}
    for name, values in (own | listed | others).items():
        array = np.empty(len(values), dtype=object)
        array[:] = values
        np.save(folder / f"{name}.npy", array if name in listed else np.array(values))
    return folder


def test_arrays_with_text_for_numbers_and_spellings(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(FORMS["ours"]))
    labels = [[label for label, *_ in instances] for instances in INSTANCES.values()]
    segments = [[times for _, *times in instances] for instances in INSTANCES.values()]
    changed = [[*labels[0], "ambiguous "], ["Long\u00a0jump"], *labels[2:]]
    texts = [[*segments[0], ["30", "31.5"]], np.array(segments[1], dtype="S8"), np.array(segments[2]), segments[3]]
    durations = [str(seconds) for seconds in DURATIONS.values()]
    folder = arrays(
        tmp_path / "a", changed, texts, classlist=["Ambiguous", " Jump", "Long jump"], duration=durations,
        videoname=["a_train_1\u200b", *[*DURATIONS][1:]],
    )  # fmt: skip
    (folder / "Ambiguous_test.txt").write_text("\ufeffa_train_1 3 4\n")
    annotations = read_annotations(folder)
    names, found = parts_of(annotations)
    expected = parts_of(read_annotations(tmp_path / "a.json"))[1]
    assert names == CLASSES and found["test"][:-1] == expected["test"][:-1]
    assert found["train"][:-1] == expected["train"][:-1]
    assert found["train"][-1].tolist() == [40.0, 92.166667]
    assert annotations.ambiguous["a_train_1"].tolist() == [[30.0, 31.5], [3.0, 4.0]]
    spelled, marked = annotations.notices.items()
    assert spelled[1] == ["' Jump' and 'Jump' (1 of 7)", r"'Long\xa0jump' and 'Long jump' (2 of 7)"]
    assert "Ambiguous" in marked[0] and marked[1] == ["a_train_1: 1"]


def write(folder, **videos):
    path = folder / "a.json"
    path.write_text(json.dumps({"database": videos}))
    return path


def of(*labels, subset="training", **fields):
    return {"subset": subset, "annotations": [{"label": label, **fields} for label in labels]}


def test_labels_that_look_alike_are_one_class(tmp_path):
    labels = ("Throw", "Throw ", "Thr\u00adow", "Caf\u00e9", "Cafe\u0301", "throw", "Jump\u00a0 up")
    annotations = read_annotations(write(tmp_path, v=of(*labels)))
    assert annotations.class_names == ["Caf\u00e9", "Jump up", "Throw", "throw"] and annotations.labels.tolist() == [
        [1] * 4
    ]
    ((kind, details),) = annotations.notices.items()
    assert kind.startswith("labels that differ only in blanks") and len(details) == 2
    assert details[1] == "'Caf\u00e9' and 'Cafe\\u0301' (1 of 2)"
    (tmp_path / "classes.txt").write_text("\ufeffThrow\r\nCafe\u0301\r\nthrow \r\nJump up\r\nJump\tup\r\nAMBIGUOUS\r\n")
    annotations = read_annotations(tmp_path / "a.json", tmp_path / "classes.txt")
    assert annotations.class_names == ["Throw", "Caf\u00e9", "throw", "Jump up"]
    (tmp_path / "classes.txt").write_text("Throw\nThrow\n")
    with pytest.raises(InputError, match=r"classes.txt: Throw is listed more than once; remove all but one$"):
        read_annotations(tmp_path / "a.json", tmp_path / "classes.txt")


def test_two_videos_of_one_name(tmp_path):
    with pytest.raises(InputError, match=r"a.json: v is listed more than once, as 'v' and 'v\\u200b'"):
        read_annotations(write(tmp_path, **{"v": of("Jump"), "v\u200b": of("Jump")}))
    (tmp_path / "r.json").write_text(json.dumps({"results": {"v": [], "v ": []}}))
    with pytest.raises(InputError, match=r"r.json: video v is listed more than once, as 'v' and 'v '"):
        parse_results(tmp_path / "r.json")


def test_subsets_in_any_case(tmp_path):
    subsets = ("Test", "Test", "test ", "Training")
    annotations = read_annotations(
        write(tmp_path, **{f"v{i}": of("Jump", subset=name) for i, name in enumerate(subsets)})
    )
    assert annotations.subsets == ["Test"] * 3 + ["Training"] and "subsets" in next(iter(annotations.notices))
    assert annotations.videos_of("TEST") == ["v0", "v1", "v2"] and annotations.videos_of(" training") == ["v3"]


def test_ambiguous_labels(tmp_path):
    videos = {
        "v": of("Ambiguous", segment=["1", "2"]),
        "w": of("AMBIGUOUS", "Jump"),
        "name with blanks": of("Jump", segment=[1, 2]),
    }
    path = write(tmp_path, **videos)
    (tmp_path / "Ambiguous_test.txt").write_text("v 3 4\nname with \u00a0 blanks 5 6\n")
    annotations = read_annotations(path)
    assert annotations.class_names == ["Jump"] and annotations.labels.tolist() == [[0], [1], [1]]
    assert {video: rows.tolist() for video, rows in annotations.ambiguous.items()} == {
        "v": [[1, 2], [3, 4]],
        "name with blanks": [[5, 6]],
    }
    assert [*annotations.notices.values()] == [["v: 1"], ["w"]] and "ignored" in [*annotations.notices][1]
    (tmp_path / "Ambiguous_test.txt").write_text("v 3 4 5\n")
    with pytest.raises(InputError, match=r"Ambiguous_test.txt: line 1"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("duration", "92,5", r"video v: duration '92,5' is not a number"),
        ("duration", {}, r"video v: duration {} is not a number"),
        ("annotations", [{"label": "Jump", "segment": ["1", "two"]}], r"video v: .*seconds, found .*'two'"),
        ("annotations", [{"label": "Jump", "segment": ["1"]}], r"video v: .*seconds, found"),
        ("annotations", [{"label_id": 3, "segment": [1, 2]}], r'video v: expected .*"label": text'),
        ("annotations", [{"label": "\u200b", "segment": [1, 2]}], r'video v: expected .*"label": text'),
    ],
)
def test_what_is_no_number_and_no_label(tmp_path, field, value, message):
    with pytest.raises(InputError, match=message):
        read_annotations(write(tmp_path, v={"subset": "test", field: value}, w=of("Jump")))


# -------------------------------------------------------------------------------------------- listed twice


def test_instances_that_are_listed_twice(tmp_path, caplog):
    caplog.set_level("INFO")
    times = [[1, 2], [1.0009, 2.0005], [1.0015, 2], [1, 2.5], [7, 8], ["1", "2"], [3, 3], [3, 3]]
    videos = {"v": of("Jump", subset="test"), "w": of("Dive", segment=[1, 2], subset="test")}
    videos["v"]["annotations"] = [{"label": "Jump", "segment": pair} for pair in times]
    videos["v"]["annotations"].append({"label": "Dive", "segment": [1, 2]})
    annotations = read_annotations(write(tmp_path, **videos))
    truth = annotations.ground_truth("test")
    assert truth[["start_sec", "end_sec"]].values.tolist() == [[1, 2], [1.0015, 2], [1, 2.5], [7, 8], [1, 2], [1, 2]]
    assert annotations.doubled_instances["start_sec"].tolist() == [1.0009, 1.0]
    assert len(annotations.empty_instances) == 2
    assert re.search(r"notice: left out .*: 2 instances listed twice, in v$", caplog.text, re.MULTILINE)


@pytest.mark.parametrize("seed", range(5))
def test_doubled_instances_one_by_one(tmp_path, seed):
    """The rule as it is stated, on a grid much finer than a millisecond, so that most instances are near others."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.integers(0, 2, (60, 2)), rng.integers(0, 40, 60), rng.integers(9000, 9040, 60)])
    kept, expected = [], []
    for row in rows:
        again = any((row[:2] == one[:2]).all() and (abs(row[2:] - one[2:]) <= 9).all() for one in kept)
        expected.append(again)
        kept += [] if again else [row]
    videos = {f"v{video}": {"subset": "test", "annotations": []} for video in (0, 1)}
    for video, class_idx, start, end in rows.tolist():
        segment = [start / 9500, end / 9500]  # between nine and ten of these are a millisecond
        videos[f"v{video}"]["annotations"].append({"label": f"c{class_idx}", "segment": segment})
    annotations = read_annotations(write(tmp_path, **videos))
    assert 0 < len(annotations.doubled_instances) == sum(expected)
    assert not are_doubled(annotations.instances).any()


# -------------------------------------------------------------------------------------------- result files


def as_results(entry, rename=lambda video: video, **others):
    """Detections of the test videos: the instances, with noise, as a method writes them."""
    results = {}
    for i, video in enumerate(TEST):
        listed = [(label, 0.9 - 0.1 * i, [start + 0.4, end]) for label, start, end in INSTANCES[video]]
        listed.append(("Jump", 0.95, [25.0, 26.0]))
        results[rename(video)] = [entry(*one) for one in listed]
    return {"results": results} | others


def whole(label, score, segment):
    return {"label": label, "score": score, "segment": segment}


RESULTS = {
    "ours": as_results(whole, version="SEAL 0.2.0, Demo", external_data={"video_seconds": DURATIONS}),
    "nothing but results": as_results(whole),
    "BaS-Net, LAC": as_results(whole, version="VERSION 1.3", external_data={"used": True, "details": "I3D"}),
    "external data as text": as_results(whole, version=1.3, external_data="none"),
    "scores and times as text": as_results(lambda x, score, times: whole(x, f"{score:.2f}", [f"{t}" for t in times])),
    "with v_": as_results(whole, rename=lambda video: f"v_{video}"),
    "spelled otherwise": as_results(
        lambda x, *rest: whole(x.replace(" ", "\u00a0\u00a0"), *rest), rename=lambda video: f"{video} "
    ),
    "label Ambiguous": as_results(whole),
    "further fields": as_results(lambda *one: whole(*one) | {"label_id": 3, "segment(frames)": [0, 1]}),
}  # fmt: skip
RESULTS["label Ambiguous"]["results"][TEST[0]].append(whole("ambiguous", 0.99, [1, 2]))


@pytest.mark.parametrize("form", RESULTS)
def test_result_files_of_other_methods(tmp_path, caplog, form):
    caplog.set_level("INFO")
    (tmp_path / "a.json").write_text(json.dumps(FORMS["ours"]))
    truth = read_annotations(tmp_path / "a.json").ground_truth("validation")
    figures = []
    for name in ("ours", form):
        path = tmp_path / "d.json"
        path.write_text(json.dumps(RESULTS[name]))
        detections = read_detections(path, TEST, CLASSES, SNIPPETS_PER_SECOND).detections
        inputs = EvaluationInput(detections, truth, CLASSES, TIOU_PROTOCOLS["thumos14"], SNIPPETS_PER_SECOND)
        figures.append((detections.values.tolist(), evaluate(inputs)))
    assert figures[0] == figures[1] and 0 < np.mean(figures[0][1].seconds.mAP) < 100
    expected = {
        "with v_": "v_ in front, unlike .*(2): v_a_test_1",
        "label Ambiguous": "labelled Ambiguous.*: a_test_1: 1",
    }
    said = expected.get(form)
    assert ("notice" in caplog.text) == bool(said) and re.search(
        (said or "").replace("(", r"\(").replace(")", r"\)"), caplog.text
    )


def test_v_in_front_where_two_videos_could_be_meant(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"results": {"v_x": [{"segment": [1, 2]}], "y": [], "v_z": [], "z": []}}))
    assert [*parse_results(path, videos=["x", "v_x"]).results] == ["v_x", "y", "v_z", "z"]
    assert [*parse_results(path, videos=["x", "v_y", "z"]).results] == ["x", "v_y", "v_z", "z"]
    found = read_proposals(path, ["x", "v_y"], rate=1)
    assert {video: len(listed) for video, listed in found.items()} == {"x": 1, "v_y": 1}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"segment": [1, 2], "score": "high"}, "score 'high' is not a finite number"),
        ({"segment": [1, 2], "score": "nan"}, "score 'nan' is not a finite number"),
        ({"segment": [1, 2], "score": True}, "score True is not a finite number"),
        ({"segment": [1, 2], "score": [0.5]}, r"score \[0.5\] is not a finite number"),
        ({"segment": [1, 2], "label": 7}, "label 7 is not a class name"),
        ({"segment": ["1", "two"]}, r"bad segment \['1', 'two'\]"),
        ({"segment": ["2", "1"]}, r"bad segment \['2', '1'\]"),
        ({"label": "Jump", "score": 0.5}, r"no segment in \{'label': 'Jump', 'score': 0.5\}; expected .* in seconds"),
        ([1, 2, 0.5], r"bad segment \[1, 2, 0.5\]"),
    ],
)
def test_entries_that_cannot_be_used(tmp_path, entry, message):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"results": {"v": [entry]}}))
    for read in (parse_results, lambda path: merge_results([path], 1), lambda path: read_proposals(path, ["v"], 1)):
        with pytest.raises(InputError, match=f"p.json: video v: {message}"):
            read(path)


def test_marks_and_line_ends_of_other_systems(tmp_path):
    path = tmp_path / "a.json"
    videos = {"é": {"subset": "train", "duration": math.nan, "annotations": [{"label": "Jump"}]}}
    text = json.dumps({"database": videos}, ensure_ascii=False, indent=1)
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    annotations = read_annotations(path)
    assert annotations.videos == ["é"] and np.isnan(annotations.durations).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"{}", mtime=0), "gzip: unpack it"),
        (pickle.dumps({"t-start": [1.0]}), "pickle.*as JSON"),
        (b"PK\x03\x04", "zip archive: unpack it"),
        (b"video,start,end\nv,1,2\n", r"begins with 'video,start,end', and JSON with \{"),
        (b"<!DOCTYPE html>", "begins with '<!DOCTYPE html>'"),
        ("{}".encode("utf-16"), "UTF-16: save it in UTF-8"),
        (b"", "Expecting value"),
    ],
)
def test_files_that_are_not_json_say_what_they_are(tmp_path, content, message):
    path = tmp_path / "eval_results.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"eval_results.pkl: not a readable JSON file \(.*{message}"):
        parse_results(path)


def test_proposals_with_text_for_numbers_and_labels_that_are_no_class(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "p.json"
    entries = [whole("Jump", "0.25", ["1", "2.5"]), whole("Jmp", 0.5, [2, 3]), {"segment": [4, 5], "score": None}]
    path.write_text(json.dumps({"results": {"v": entries}}))
    listed = read_proposals(path, ["v"], 1, class_names=["Jump"])["v"]
    assert listed.segments_snip.tolist() == [[1, 2.5], [2, 3], [4, 5]] and listed.class_idx.tolist() == [0, -1, -1]
    assert listed.score[:2].tolist() == [0.25, 0.5] and np.isnan(listed.score[2])
    lines = [line for line in caplog.text.splitlines() if "notice" in line]
    assert [re.search(r"no (score|label|class)", line)[1] for line in lines] == ["score", "label", "class"]
    assert "Jmp: 1" in lines[2] and all("p.json" in line and "v: 1 of 3" in line for line in lines[:2])
