"""What `check` and the runs notice: units of time, rounding, features, ambiguous segments; and how they say it."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from building import own_dataset, proposals_of

from eval.baselines import as_detections, warnings_of
from eval.evaluation import detection_results
from eval.exchanged import exchanged_text
from eval.metrics import EvaluationInput
from eval.protocols import TIOU_PROTOCOLS
from eval.results import ChosenEpoch, EpochResults, ProtocolResult, Results
from eval.segments import Rounding, rounding
from proposals import SNIPPETS_PER_SECOND
from readers.annotations import read_annotations
from readers.feature_checks import FeatureCheck
from readers.features import Features
from readers.findings import USELESS, Findings
from readers.plausible import (
    check_ambiguous,
    check_lengths,
    check_rounding,
    check_scores,
    check_segments,
    likely_name,
    segment_table,
)

THUMOS = TIOU_PROTOCOLS["thumos14"]


def table_of(rows):
    return pd.DataFrame(rows, columns=["video", "start_sec", "end_sec"]).astype({"start_sec": float, "end_sec": float})


def video_names(count):
    return [f"v{i}" for i in range(count)]


def spread(count=4, length=25.6):
    """Two segments of each video, one in each half."""
    starts = [(0.1 + 0.05 * (i % 3), 0.55 + 0.05 * (i % 3)) for i in range(count)]
    rows = [
        (video, s * length, (s + 0.3) * length)
        for video, both in zip(video_names(count), starts, strict=True)
        for s in both
    ]
    return table_of(rows)


def kinds_of(table, *, length=25.6, rate=SNIPPETS_PER_SECOND, instances=None):
    findings = Findings()
    check_segments("detections", table, dict.fromkeys(video_names(100), length), rate, findings, instances)
    return findings.warnings


UNITS = {
    "frames": 25,
    "frames of 60 a second": 60,
    "milliseconds": 1000,
    "hundredths of a second": 100,
    "snippets": SNIPPETS_PER_SECOND,
    "shares of the video": 1 / 25.6,
    "minutes": 1 / 60,
}


@pytest.mark.parametrize("unit", UNITS)
def test_times_in_another_unit(unit):
    """Four videos with two segments each are enough; the likely unit is named, and how to convert it."""
    table = spread()
    table[["start_sec", "end_sec"]] *= UNITS[unit]
    (kind, problem), *others = kinds_of(table).items()
    assert kind == f"detections look like {unit.split(' of 60')[0]}, not seconds" and not others
    (detail,) = problem.details
    assert re.search(r"\d of 8 end after|all 8 end by", detail) and detail.endswith("which has 25.60 s"), detail
    assert re.match(r"convert the detections to seconds \((divide|multiply) by ", problem.remedy)


def test_percent_and_what_no_unit_explains():
    table = spread(length=1)
    table[["start_sec", "end_sec"]] *= 100
    assert "detections look like percent of the video, not seconds" in kinds_of(
        table, length=600.0, instances=spread(length=600)
    )
    table[["start_sec", "end_sec"]] *= 1e6
    assert "detections are not in seconds" in kinds_of(table)


def test_snippets_of_less_than_one_a_second():
    """They are noticed where the ground truth reaches farther; actions may all be at the beginning of their videos."""
    early = spread(length=0.25 * 160)
    assert "detections look like snippets, not seconds" in kinds_of(
        early, length=160.0, rate=0.25, instances=spread(length=160)
    )
    assert not kinds_of(early, length=160.0, rate=0.25, instances=early)
    assert not kinds_of(early, length=160.0, rate=0.25)


def test_seconds_are_no_other_unit():
    assert not kinds_of(spread())
    past = spread()
    past.loc[past.index % 2 == 1, "end_sec"] = 25.6 + 0.6  # a snippet past the end
    assert not kinds_of(past)
    wrong = spread(20)
    wrong.loc[5, "end_sec"] = 500.0  # one that is wrong is one that is outside
    assert [*kinds_of(wrong)] == ["detections outside the video"]
    wrong.loc[::4, "end_sec"] = 999.0  # a mark, in every other video
    assert [*kinds_of(wrong)] == ["detections outside the video"]
    late = spread(20)
    late["end_sec"] *= 1.2  # durations are too short, or detections a little late
    assert [*kinds_of(late)] == ["detections outside the video"]
    assert not kinds_of(spread(), length=np.nan)
    assert not kinds_of(table_of([("v0", 0.1, 0.9)]), length=1.2)  # of short videos
    assert not kinds_of(table_of([]))


def test_proposals_that_differ_in_their_label_are_no_duplicates():
    entries = [{"segment": [1, 2], "label": "a"}, {"segment": [1, 2], "label": "b"}, {"segment": [1, 2], "label": "b"}]
    findings = Findings()
    check_segments("proposals", segment_table({"v0": entries}), {}, 1.0, findings)
    assert findings.warnings["duplicate proposals"].details == ["v0: 1 of 3, the first [1.0, 2.0] s"]


@pytest.mark.parametrize(
    ("unit", "factor"), [("frames", 25), ("frames", 30), ("milliseconds", 1000), ("minutes", 1 / 60)]
)
def test_durations_in_another_unit(tmp_path, unit, factor):
    annotations = read_annotations(own_dataset(tmp_path / "own") / "annotations.json")
    annotations.durations[:] = 15.0 * factor
    findings = Findings()
    lengths = check_lengths(annotations, dict.fromkeys(annotations.videos, 30), 2.0, findings)
    assert [*findings.warnings] == [f"durations look like {unit}, not seconds"]
    assert set(lengths.values()) == {15.0}  # those of the features: the times of instances are compared with them


def test_lengths_of_features_stand_in_for_durations(tmp_path):
    annotations = read_annotations(own_dataset(tmp_path / "own") / "annotations.json")
    annotations.durations[:] = np.nan
    findings = Findings()
    lengths = check_lengths(annotations, dict.fromkeys(annotations.videos, 30), 2.0, findings)
    assert not findings.warnings and set(lengths.values()) == {15.0}
    frames = annotations.instances.assign(start_sec=100.0, end_sec=200.0)
    check_segments("instances", frames, lengths, 2.0, findings)
    assert [*findings.warnings] == ["instances look like frames, not seconds"]
    # Durations that are 10% off, and a forgotten --snippet_frames, are what they were.
    annotations.durations[:] = 16.5
    check_lengths(annotations, dict.fromkeys(annotations.videos, 60), 2.0, findings := Findings())
    assert [*findings.warnings] == ["features and duration disagree", "features do not have 2 snippets a second"]
    # All of one length: rows and columns may be exchanged.
    assert "[D, T]" in findings.warnings["features do not have 2 snippets a second"].details[0]


# ------------------------------------------------------------------------------------------ rounding


def truth_of(lengths):
    rows = [("v", 0, 10.0 * i, 10.0 * i + length) for i, length in enumerate(lengths)]
    return pd.DataFrame(rows, columns=["video", "class_idx", "start_sec", "end_sec"])


def test_short_instances_are_counted():
    """In snippets they are [0, 0.475], [2.5, 3.25], [5, 5.475] and [7.5, 9.5]: halves go to the even one."""
    assert rounding(truth_of([1.9, 3, 1.9, 8]), 0.25) == Rounding(nothing=2, one=1, total=4)
    findings = Findings()
    check_rounding(findings, 0, 0, 4, chosen_by="snippet")
    assert not findings.warnings
    check_rounding(findings, 2, 1, 4, chosen_by="seconds")
    (problem,) = findings.warnings.values()
    assert "2 of 4 become nothing" in problem.details[0] and "seconds protocol" in problem.remedy


def test_more_than_one_in_a_hundred_choose_by_seconds():
    assert Rounding(1, 19, 100).chosen_by == "snippet" and Rounding(2, 0, 100).chosen_by == "seconds"
    assert Rounding(0, 21, 100).chosen_by == "seconds"
    assert Rounding(0, 0, 0).chosen_by == "snippet"


def result_of(snippet, seconds, chosen_by):
    return Results(
        *(ProtocolResult(tuple(THUMOS.reported), (value,) * 7, value) for value in (snippet, seconds)),
        chosen_by=chosen_by,
    )


def test_what_epochs_are_compared_by():
    old, new = result_of(20.0, 60.0, "snippet"), result_of(0.0, 50.0, "seconds")
    assert old.score == 20.0 and new.score == 50.0
    assert not new.is_better_than(old)  # of a run that an earlier version began: both by seconds
    assert result_of(0.0, 61.0, "seconds").is_better_than(old)
    again = Results.from_json(new.to_json())
    assert again == new and new.to_json()["chosen_by"] == "seconds" and "chosen_by" not in old.to_json()
    with pytest.raises(ValueError, match="frames"):
        Results.from_json(new.to_json() | {"chosen_by": "frames"})
    chosen = ChosenEpoch.of(EpochResults(new, 4))
    assert chosen.figure == 50.0 and chosen.text.endswith("(by mAP of the seconds protocol)")
    assert ChosenEpoch.from_json(vars(chosen)) == chosen


def test_perfect_detections_of_coarse_snippets():
    truth = truth_of([1.2] * 3)
    detections = truth.assign(score=0.9, start_snip=truth["start_sec"] / 10, end_snip=truth["end_sec"] / 10)
    results = detection_results(EvaluationInput(detections, truth, ["a"], THUMOS, 0.1))
    assert (results.snippet.average, results.seconds.average, results.chosen_by) == (0.0, 100.0, "seconds")
    worse = Results(results.snippet, results.snippet, baselines={"proposals": results}, chosen_by="seconds")
    assert "average mAP 0.0 against 100.0" in warnings_of(worse)[0]


def test_real_thumos_is_chosen_by_snippets(thumos):
    annotations = read_annotations(thumos / "Thumos14reduced-Annotations")
    truth = annotations.instances[annotations.instances["video"].isin(annotations.videos_of("test"))]
    found = rounding(truth, SNIPPETS_PER_SECOND)
    assert found == Rounding(nothing=17, one=229, total=3358) and found.chosen_by == "snippet"


# ------------------------------------------------------------------------------------------ features


def features_noticed(videos, modalities=None):
    check, findings = FeatureCheck(modalities), Findings()
    for name, features in videos.items():
        check.add(name, features)
        check.add(name, features)  # reading a video twice is no second video
    check.report(findings)
    assert all(problem.weight == USELESS for problem in findings.warnings.values())
    return [detail for problem in findings.warnings.values() for detail in problem.details]


def test_features_that_do_not_vary():
    varying = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    half = varying.clone()
    half[:, 2:] = 3.0
    assert features_noticed({"a": torch.zeros(20, 4)}) == ["a: all zero"]
    assert features_noticed({"a": varying[:1].expand(20, 4)}) == ["a: the same in all 20 snippets"]
    assert features_noticed({"a": half}) == ["a: flow the same in all 20 snippets"]
    between = varying.clone()
    between[1] += 1  # a row that is not looked at
    assert features_noticed({"a": varying, "b": between}) == []
    assert features_noticed({"a": half}, modalities=1) == []
    assert features_noticed({"a": torch.zeros(1, 3)}) == ["a: all zero"]
    assert features_noticed({"a": varying[:1]}) == []  # of one snippet, nothing can vary
    late = torch.zeros(20, 4)
    late[13] = torch.arange(4)
    assert features_noticed({"a": late}) == []


def test_equal_features_of_different_videos():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, 4, generator=generator), torch.rand(50, 4, generator=generator)
    assert features_noticed({"a": a, "b": b, "c": a.clone(), "d": a[:49]}) == ["a, c"]


def test_features_notice_what_they_read(tmp_path):
    folder = own_dataset(tmp_path / "own") / "features"
    np.save(folder / "a1.npy", np.zeros((30, 6), np.float32))
    np.save(folder / "a2.npy", np.load(folder / "a0.npy"))
    features, findings = Features(folder, ["a0", "a1", "a2", "a3"]), Findings()
    for i in range(4):
        features.read(i)
    features.report(findings)
    assert [problem.details for problem in findings.warnings.values()] == [["a1: all zero"], ["a0, a2"]]


# ---------------------------------------------------------------------------------- ambiguous segments


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Own data, of which a file of detections is perfect but for two within ambiguous segments."""
    monkeypatch.chdir(tmp_path)
    folder = own_dataset(tmp_path / "data/Own")
    database = json.loads((folder / "annotations.json").read_text())["database"]
    results = {
        video: [one | {"score": 0.5} for one in entry["annotations"]]
        for video, entry in database.items()
        if entry["subset"] == "validation"
    }
    for video in ("b0", "b1"):
        results[video].append({"label": "Jump", "score": 0.9, "segment": [10.0, 12.0]})
    (tmp_path / "found.json").write_text(json.dumps({"results": results}))
    return tmp_path


OWN = ("--dataset_name", "Own", "--feature_fps", 30, "--snippet_frames", 15)


def average_of(home, run, *argv):
    status, out, err = run("--run_type", "eval", *OWN, "--detections", home / "found.json", "--exp_dir", "ev", *argv)
    assert status == 0, err
    return json.loads((home / "ev/results.json").read_text())["snippet"]["average"], out


def test_eval_leaves_out_detections_in_ambiguous_segments(own, run_in):
    run = run_in(own)
    assert average_of(own, run)[0] < 100
    (own / "data/Own/Ambiguous_test.txt").write_text("b0 11.5 20\nb1 9 10.5\nb2.mp4 1 2\n")
    average, out = average_of(own, run)
    assert average == 100 and re.search(r"notice: 2 of 8 detections overlap an ambiguous segment", out)
    assert re.search(r"notice: ambiguous segments of videos .*: Ambiguous_test.txt: b2\.mp4 \(did you mean b2\?\)", out)
    assert re.search("notice: ambiguous segments outside the video: b0", out)
    (own / "data/Own/Ambiguous_test.txt").write_text("b0 12 13\nb1 9 10\n")  # they only touch
    assert average_of(own, run)[0] < 100


def test_eval_says_what_the_figures_hide(own, run_in):
    results = json.loads((own / "found.json").read_text())["results"]
    for entry in (entry for entries in results.values() for entry in entries):
        entry["segment"] = [30 * time for time in entry["segment"]]
    (own / "found.json").write_text(json.dumps({"results": results}))
    _, out = average_of(own, run_in(own))
    assert re.search(r"notice: detections look like frames, not seconds: 8 of 8 end after .*; convert", out)


def test_baselines_leave_them_out_likewise():
    proposals = {"v": proposals_of([[0, 10], [20.004, 30]], 0.5, 0), "w": proposals_of([[0, 10]], 0.5, 0)}
    left = as_detections(proposals, {"v": np.array([[15.0, 20.0]]), "x": np.array([[0.0, 90.0]])}, 1.0)
    assert left[["video", "start_snip"]].values.tolist() == [["v", 0.0], ["v", 20.004], ["w", 0.0]]
    left = as_detections(proposals, {"v": np.array([[15.0, 21.0]])}, 1.0)
    assert left["video"].tolist() == ["v", "w"]


def test_ambiguous_segments_are_checked(tmp_path):
    folder = own_dataset(tmp_path / "own")
    lines = ["b0 5 4", "b1 100 110", "b2 6 6", *(f"b{i} {30 * i + 60} {30 * i + 400}" for i in range(6))]
    (folder / "Ambiguous_test.txt").write_text("\n".join(lines))
    annotations = read_annotations(folder / "annotations.json")
    findings = Findings()
    check_ambiguous(annotations, annotations.videos_of("validation"), annotations.duration_of(), 2.0, findings)
    assert [*findings.warnings] == [
        "ambiguous segments look like frames, not seconds",
        "ambiguous segments of length <= 0",
    ]


@pytest.mark.parametrize(
    ("name", "known", "likely"),
    [
        ("clip_8.mp4", ["clip_7", "clip_8"], "clip_8"),
        ("v_abc", ["abc"], "abc"),
        ("videos/Clip_8.avi", ["clip_8"], "clip_8"),
        ("video_test_0000001", ["video_test_0000002"], None),
        ("archery", ["Archery"], "Archery"),
        ("Ａrchery.", ["Archery"], "Archery"),
        ("HighJump", ["High_Jump", "Long_Jump"], "High_Jump"),
        ("long jump 3", ["long_jump_3", "high_jump_3"], "long_jump_3"),
        ("something", ["else"], None),
    ],
)
def test_likely_names(name, known, likely):
    assert likely_name(name, known) == likely


def test_exchanged_class_names():
    """Of three classes two are exchanged; nothing is said where they are right, or where only one is mistaken."""
    rows = [(f"v{i}", i % 3, 2.0 + i, 6.0 + i) for i in range(9)]
    truth = pd.DataFrame(rows, columns=["video", "class_idx", "start_sec", "end_sec"])
    found = truth.assign(score=0.9, start_snip=truth["start_sec"], end_snip=truth["end_sec"])

    def text(place):
        detections = found.assign(class_idx=found["class_idx"].map(place))
        return exchanged_text(EvaluationInput(detections, truth, ["a", "b", "c"], THUMOS, 1.0))

    assert text({0: 1, 1: 0, 2: 2}) == (
        "names of classes seem to be exchanged (a for b, b for a): put right, the average mAP is 100.0, not 33.3"
    )
    assert "a for b, b for c, c for a" in text({0: 2, 1: 0, 2: 1})
    assert text({0: 0, 1: 1, 2: 2}) is None and text({0: 1, 1: 1, 2: 2}) is None


# -------------------------------------------------------------------------------------------- saying it


def filled(count):
    findings = Findings()
    for i in range(count):
        findings.warn("odd videos", f"video_{i}: odd", "look at them")
        findings.error(f"data/features/v{i}.npy: video v{i}: snippet {i} is not finite; extract this video again")
    findings.warn("useless things", "all of them", weight=USELESS)
    return findings


def test_ten_lines_a_problem():
    text = filled(500).report()
    assert len(text.splitlines()) == 1 + 10 + 1 + 2 + 10 + 2
    assert "  … and 491 more like these (--verbose)" in text and "error: … and 491 more like these (--verbose)" in text
    assert "errors: 500, warnings: 501; a run would stop" in text
    assert text.splitlines()[-1].startswith("to do first: this error, and 499 more like it: data/features/v0.npy")
    assert len(filled(500).report(verbose=True).splitlines()) > 1000
    assert "…" not in filled(10).report()


def test_equal_modalities_are_noticed():
    half = torch.rand(5, 4)
    for features, modalities, count in ((half.repeat(1, 2), 2, 1), (half.repeat(1, 2), 1, 0), (torch.rand(5, 8), 2, 0)):
        check, findings = FeatureCheck(modalities), Findings()
        check.add("v", features)
        check.report(findings)
        assert len(findings.warnings) == count


def test_durations_of_nothing_are_unknown(tmp_path, caplog):
    """Unknown, as if they were not there, with a notice; times that end before they start are said to be so."""
    segments = [{"label": "a", "segment": [3.0, 2.0]}, {"label": "a", "segment": [1.0, 2.0]}]
    entry = {"subset": "test", "annotations": segments}
    database = {f"v{i}": entry | {"duration": duration} for i, duration in enumerate((0, -1, "0", 5))}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"database": database}))
    annotations = read_annotations(path)
    assert np.isnan(annotations.durations[:3]).all() and annotations.durations[3] == 5
    assert annotations.notices == {"videos with a duration of 0 or less, which is taken as unknown": ["v0", "v1", "v2"]}
    assert len(annotations.ground_truth("test")) == 4


def test_what_to_do_first():
    findings = Findings()
    assert findings.report() == "errors: 0, warnings: 0; a run would accept this dataset"
    findings.warn("odd videos", "a", "look at them")
    assert findings.report().endswith("to do first: odd videos: look at them")
    read_as_meant = Findings()
    read_as_meant.notice({"labels taken as one": ["a and b"]})
    assert read_as_meant.report().endswith("warnings: 1; a run would accept this dataset")
    findings.warn("useless things", "all of them", weight=USELESS)
    assert findings.report().endswith("to do first: useless things: all of them")
    findings.error("2 files are missing (from /x):\n  a.json: annotations\n  b.json: proposals")
    assert findings.report().endswith("to do first: this error: 2 files are missing (from /x): a.json: annotations")


def test_long_errors_are_cut_in_the_middle():
    findings = Findings()
    findings.error(f"features: 900 of 900 videos have no file: {', '.join(video_names(900))}; add them")
    error = findings.report().splitlines()[0]
    assert len(error) < 1100 and error.startswith("error: features: 900 of") and error.endswith("; add them")
    assert "v450," in findings.report(verbose=True)


def test_runs_say_a_line_for_each_kind(capsys, run_in, own):
    """`check` lists them, `train` says them in a line with the count: of features, labels, proposals and instances."""
    run = run_in(own)
    for run_type in ("proposals", "descriptors"):
        assert run("--run_type", run_type, *OWN, "--proposal_epochs", 1)[0] == 0
    database = json.loads((own / "data/Own/annotations.json").read_text())["database"]
    database["b0"]["annotations"][0]["segment"] = [4.1, 4.2]
    database["b1"]["annotations"][0]["segment"] = [4.1, 99.0]
    database["a0"]["annotations"] = []
    database["b2"]["annotations"] = []
    (own / "data/Own/annotations.json").write_text(json.dumps({"database": database}))
    for video in ("a1", "a3"):
        np.save(own / f"data/Own/features/{video}.npy", np.zeros((30, 6), np.float32))
    _, checked, _ = run("--run_type", "check", *OWN, "--batch_size", 4)
    status, out, err = run(*OWN, "--batch_size", 4, "--max_epoch", 1, "--weight_sme", 1, "--exp_dir", "run")
    assert status == 0, err
    for word, kind, count in (
        ("warning", "features that do not vary over time, so nothing can be found in them", 2),
        ("notice", "videos without a label", 2),
        ("notice", "test videos without an instance, so every detection in them counts as wrong", 1),
        ("notice", "instances outside the video", 1),
        ("notice", "instances that the snippet protocol rounds to nothing or to one snippet", 1),
    ):
        assert f"warning: {kind} ({count}):\n" in checked
        (line,) = (line for line in out.splitlines() if kind in line)
        assert line.startswith(f"{word}: {kind}{f' ({count})' if count > 1 else ''}: ")
    assert "2 training videos have no pseudo-label, since two classes resemble them alike: a1, a3" in out
    assert "chosen on the test set by the seconds protocol: run/ckpt/best_model.pkl" in out
    assert json.loads((own / "run/results.json").read_text())["best"]["chosen_by"] == "seconds"


def test_eval_compares_with_features_where_there_are_no_durations(own, run_in):
    path = own / "data/Own/annotations.json"
    content = json.loads(path.read_text())
    for entry in content["database"].values():
        entry.pop("duration")
    path.write_text(json.dumps(content))
    results = json.loads((own / "found.json").read_text())["results"]
    for entry in (entry for entries in results.values() for entry in entries):
        entry["segment"] = [time / 15 for time in entry["segment"]]
    (own / "found.json").write_text(json.dumps({"results": results}))
    (own / "data/Own/features/b0.npy").write_text("damaged")  # which is no matter for eval
    _, out = average_of(own, run_in(own))
    assert re.search(r"notice: detections look like shares of the video, not seconds: all 6 end by .* 15.00 s", out)


def test_negative_scores_of_proposals():
    findings = Findings()
    check_scores({"logits": [-2.0, 0.5, -1], "unknown": [None, float("nan")], "fine": [0, 0.3, 70]}, findings)
    assert [problem.details for problem in findings.warnings.values()] == [["logits: 2 of 3"]]
