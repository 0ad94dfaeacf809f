"""What a researcher adds to the evaluation is one entry in a table: a tIoU protocol, an NMS, a metric."""

import json
from dataclasses import replace

import numpy as np
import pytest
from building import proposals_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.classification import classification_figures
from eval.metrics import METRICS
from eval.nms import NMS
from eval.postprocess import PostProcess
from eval.protocols import TIOU_PROTOCOLS
from eval.results import DAMAGED, Results
from runs.log import read_metrics
from runs.results import RunResults, read_results
from utils import InputError

DEMO = ("--dataset_name", "Demo")


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr("report.page.as_files", lambda figure: (b"", b""))
    for name in ("class_bars", "precision_recall", "confusion", "training_curves"):
        monkeypatch.setattr(f"report.pictures.{name}", lambda *_, **__: None)
    for name in ("error_shares", "error_gains", "error_buckets"):
        monkeypatch.setattr(f"report.pictures.{name}", lambda *_, **__: None)
    monkeypatch.setattr("report.run_page.timelines", lambda *_, **__: None)


def detections_of_first_class(inputs):
    """A metric that needs nothing but the detections."""
    return (inputs.detections["class_idx"] == 0).mean()


def mean_attention(inputs):
    """A metric of what the network says, undefined for detections of a file."""
    return np.mean([video.attention.mean() for video in inputs.videos]) if inputs.videos else np.nan


class HardNms:
    """Keeps the best proposal alone, so that a class has a single detection in a video."""

    def __call__(self, segments_snip, scores):
        best = scores.argmax(0)
        return [(np.array([i]), scores[[i], k]) for k, i in enumerate(best)]


def test_a_protocol_a_metric_and_an_nms_are_one_entry_each(run, tmp_path, monkeypatch, without_pictures):
    """All through training, evaluating a file, a report on each; then the files without the metrics."""
    coarse = replace(
        TIOU_PROTOCOLS["thumos14"],
        name="coarse",
        thresholds=np.array([0.25, 0.5, 0.75]),
        means=((0.25, 0.5), (0.25, 0.75)),
        curve_tiou=(0.25, 0.75),
        published=(),
    )
    monkeypatch.setitem(TIOU_PROTOCOLS, "coarse", coarse)
    monkeypatch.setitem(NMS, "hard", HardNms)
    run_folder, options = tmp_path / "run", (*DEMO, "--tiou", "coarse")
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, "first class", detections_of_first_class)
        patch.setitem(METRICS, "attention", mean_attention)
        lines = run.train(run_folder, "--tiou", "coarse", "--nms", "hard", "--max_epoch", 1, "--interval", 1)
        status, out, err = run("--run_type", "report", *options, "--exp_dir", run_folder)
        assert status == 0, err
        file = ("--detections", run_folder / "detections.json")
        status, out, err = run("--run_type", "eval", *options, *file, "--exp_dir", tmp_path / "eval")
        assert status == 0 and "first class" in out and "attention n/a" in out, err

    results = json.loads((run_folder / "results.json").read_text())
    assert results["snippet"]["tiou"] == [0.25, 0.5, 0.75] and len(results["error_analysis"]["mAP_N"]) == 3
    assert set(results["extra"]) == {"first class", "attention"} and results["best"]["extra"] == results["extra"]
    assert next(line for line in lines if "evaluation" in line)["evaluation"]["extra"] == results["extra"]
    of_file = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert of_file["snippet"] == results["snippet"] and of_file["extra"]["attention"] is None
    page = (run_folder / "report" / "report.html").read_text()
    assert f"first class {results['extra']['first class']:.3f}" in page and "0.25 : 0.75" in page
    board = EventAccumulator(str(run_folder / "logs")).Reload()
    assert board.Scalars("test/attention")[0].value == pytest.approx(results["extra"]["attention"])
    assert board.Scalars("test_mAP/Detection mAP @ IoU = 0.25 : 0.75")[0].step == 1
    columns = (run_folder / "mAP-results.log").read_text().split()
    assert len(columns) == 1 + 3 + 2 + 2  # epoch, thresholds, means, classification: no further metric
    rows = (run_folder / "detections.csv").read_text().splitlines()[1:]
    assert len(rows) == len({tuple(row.split(",")[:2]) for row in rows})  # one for each class of a video

    # Files with metrics that the program does not compute (any more) are read.
    assert set(read_results(run_folder / "results.json").results.extra) == {"first class", "attention"}
    status, out, err = run("--run_type", "report", *options, "--exp_dir", run_folder)
    assert status == 0, err


PROTOCOL = {"tiou": TIOU_PROTOCOLS["thumos14"].reported, "mAP": [40.0] * 7, "average": 40.0}
COARSER = {"tiou": TIOU_PROTOCOLS["activitynet"].reported, "mAP": [40.0] * 10, "average": 40.0}
RESULTS = {
    "snippet": PROTOCOL,
    "seconds": PROTOCOL,
    "classification_mAP": 10.0,
    "classification_accuracy": 20.0,
}


def test_results_of_earlier_runs_have_no_further_metrics(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "first class", detections_of_first_class)
    assert Results.from_json(RESULTS).to_json() == RESULTS
    (tmp_path / "results.json").write_text(json.dumps(RESULTS | {"checkpoint": "x.pkl", "epoch": 3}))
    read = read_results(tmp_path / "results.json")
    assert read.epoch == 3 and read.results.classification.accuracy == 20 and read.results.extra == {}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "evaluation": RESULTS}) + "\n")
    assert read_metrics(tmp_path / "metrics.jsonl").evaluations[1] == read.results


def test_results_are_what_was_written():
    detections_alone = {"snippet": PROTOCOL, "seconds": PROTOCOL}
    results = RESULTS | {"classification_labels": 3, "classification_labels_reported": 2}
    results |= {"extra": {"a": 1.5, "b": None}}
    results |= {"baselines": {"proposals": detections_alone, "whole_videos": detections_alone}}
    train = results | {"checkpoint": "last", "epoch": 4, "best": results | {"epoch": 2, "checkpoint": "best"}}
    of_file = {"snippet": PROTOCOL, "seconds": PROTOCOL, "detections": "d.json"}
    for content in (train, results | {"checkpoint": "x", "epoch": None}, of_file):
        written = RunResults.from_json(content | {"simulated": True}).to_json()
        assert written == content | {"simulated": True} and [*written] == [*content, "simulated"]


@pytest.mark.parametrize(
    "damage",
    [
        {"snippet": None},
        {"snippet": PROTOCOL | {"mAP": [40.0] * 6}},
        {"snippet": PROTOCOL | {"mAP": [40.0] * 6 + [float("nan")]}},
        {"snippet": PROTOCOL | {"mAP": [40.0] * 6 + [float("inf")]}},
        {"snippet": PROTOCOL | {"mAP": [40.0] * 6 + [True]}},
        {"snippet": PROTOCOL | {"mAP": [40.0] * 6 + ["40"]}},
        {"snippet": PROTOCOL | {"average": 101.0}},
        {"snippet": PROTOCOL | {"average": -1.0}},
        {"snippet": PROTOCOL | {"average": 10**400}},
        {"snippet": PROTOCOL | {"tiou": [0.1] * 7}},
        {"snippet": {"tiou": [], "mAP": [], "average": 40.0}},
        {"classification_accuracy": float("nan")},
        {"classification_mAP": 200.0},
        {"extra": [1]},
        {"extra": {"a": "1"}},
        {"extra": {"a": float("inf")}},
        {"classification_labels": 1.5},
        {"baselines": {"proposals": None}},
        {"baselines": {"proposals": dict.fromkeys(("snippet", "seconds"), COARSER)}},
        {"epoch": -1},
        {"epoch": 1.5},
        {"best": None},
        {"best": RESULTS},
        {"best": RESULTS | {"epoch": 0}},
        {"best": RESULTS | {"epoch": True}},
    ],
    ids=str,
)
def test_damaged_results(tmp_path, damage):
    content = RESULTS | {"epoch": 2} | damage
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"results\.json"):
        read_results(path)
    for content in ([], None, "x", 1):
        with pytest.raises(DAMAGED):
            Results.from_json(content)


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": np.array([0.5, 0.3])},
        {"thresholds": np.array([0.5, 1.5])},
        {"thresholds": np.array([])},
        {"means": ()},
        {"means": ((0.8, 0.9),)},
        {"buckets": {}},
    ],
    ids=str,
)
def test_a_protocol_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match="thumos14"):
        replace(TIOU_PROTOCOLS["thumos14"], **change)


def test_an_nms_may_drop_proposals():
    rng = np.random.default_rng(0)
    segments = np.sort(rng.uniform(0, 50, (6, 2)), axis=1)
    logits = rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=6)
    found = PostProcess(threshold_cls=0, rate=1.0, nms=HardNms()).detect(*logits, proposals_of(segments))
    soft = PostProcess(threshold_cls=0, rate=1.0).detect(*logits, proposals_of(segments))
    assert found.class_idx.tolist() == [0, 1] and len(found.attention) == 6
    assert [score in soft.score for score in found.score] == [True, True]
    assert classification_figures([found], np.array([[1, 1]])).accuracy == 100
