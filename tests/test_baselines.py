"""What stands beside the mAP of the network: its proposals by themselves, whole videos, and warnings."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from building import proposals_of

from dataset import read_proposals
from eval.baselines import as_detections, warnings_of, whole_videos
from eval.evaluation import detection_results
from eval.metrics import EvaluationInput
from eval.postprocess import VideoDetections
from eval.protocols import TIOU_PROTOCOLS
from eval.results import BASELINES, Classification, ProtocolResult, Results
from proposals import SNIPPETS_PER_SECOND
from readers.annotations import Annotations, read_annotations, uninformative_labels


def test_proposals_as_detections():
    proposals = {
        "v": proposals_of([[0, 2], [0, 2], [4, 8], [5, 9]], [0.5, 0.75, np.nan, 0.25], [1, 0, 0, -1]),
        "w": proposals_of([[0, 2], [4, 8]], [-3, 0], [1, 1]),
    }
    table = as_detections(proposals, {"w": np.array([[2.5, 3.0]])}, rate=2.0)
    assert table["video"].tolist() == ["v", "v", "w"]  # without nan, without -1, without what is ambiguous
    assert table["class_idx"].tolist() == [1, 0, 1] and table["score"].tolist() == [0.5, 0.75, -3]
    assert table[["start_snip", "end_snip"]].values.tolist() == [[0, 2]] * 3
    assert table[["start_sec", "end_sec"]].values.tolist() == [[0, 1]] * 3


def test_whole_videos_have_the_reported_classes():
    nothing = [np.empty(0)] * 6
    video = VideoDetections(np.array([0.1, 0.5, 0.3]), np.array([False, True, True]), *nothing)
    whole = whole_videos({"v": 10.0}, [video], rate=2.0)["v"]
    assert whole.segments_snip.tolist() == [[0, 20]] * 2
    assert whole.class_idx.tolist() == [1, 2] and whole.score.tolist() == [0.5, 0.3]


def test_the_public_base_detections(thumos):
    """The figures of SPEC section 7, with boundaries rounded to hundredths of a snippet."""
    annotations = read_annotations(thumos / "Thumos14reduced-Annotations")
    videos, names, rate = annotations.videos_of("test"), annotations.class_names, SNIPPETS_PER_SECOND
    path = thumos / "Proposals_Thumos14reduced_test.json"
    detections = as_detections(read_proposals(path, videos, rate, class_names=names), annotations.ambiguous, rate)
    truth, protocol = annotations.ground_truth("test"), TIOU_PROTOCOLS["thumos14"]
    results = detection_results(EvaluationInput(detections, truth, names, protocol, rate))
    assert results.snippet.average == pytest.approx(43.621, abs=5e-4)
    assert results.seconds.average == pytest.approx(42.428, abs=5e-4)


def results_with(average, **more):
    protocol = ProtocolResult((0.5,), (average,), average)
    return Results(protocol, protocol, **more)


def test_warnings_only_where_a_baseline_is_better():
    def warnings(average, **baselines):
        of_baselines = {name: results_with(value) for name, value in baselines.items()}
        return warnings_of(results_with(average, baselines=of_baselines))

    assert warnings(50.0) == warnings(50.0, proposals=50.01, whole_videos=49.0) == []  # equal as printed
    (line,) = warnings(41.0, proposals=54.4, whole_videos=30.0)
    assert line.startswith("warning: ") and BASELINES["proposals"] in line and "41.0 against 54.4" in line
    (line,) = warnings(20.0, whole_videos=30.0)
    assert BASELINES["whole_videos"] in line and "20.0 against 30.0" in line


@pytest.mark.parametrize(("reported", "named"), [(79, True), (80, False)])
def test_the_warning_names_the_labels_that_were_not_reported(reported, named):
    found = Classification(50.0, 50.0, num_labels=100, num_reported=reported)
    (line,) = warnings_of(results_with(1.0, classification=found, baselines={"proposals": results_with(2.0)}))
    assert (f"{reported} of 100" in line and "--threshold_cls" in line) == named


def annotated(demo_home, labels) -> Annotations:
    """Annotations with some labels, of which all videos are training videos."""
    read = read_annotations(demo_home / "data" / "Demo" / "Demo-Annotations")
    videos, names = [f"v{i}" for i in range(len(labels))], [f"class{i}" for i in range(len(labels[0]))]
    return replace(read, videos=videos, class_names=names, labels=np.array(labels, np.float32))


def test_labels_of_nearly_all_training_videos(demo_home):
    annotations = annotated(demo_home, [[1, 1, 0]] * 9 + [[0, 1, 0], [0, 0, 1]])
    videos = annotations.videos
    text = uninformative_labels(annotations, videos)
    assert "class1" in text and "class0" not in text and "class2" not in text  # of 11 videos: 9, 10 and 1
    assert "class0, class1" in uninformative_labels(annotations, videos[:10])  # of 10: 9 and 10
    assert uninformative_labels(annotations, videos[8:]) is None and uninformative_labels(annotations, []) is None

    alone = annotated(demo_home, [[1]] * 9 + [[0]])
    assert "only class" in uninformative_labels(alone, alone.videos) and "9 of 10" in uninformative_labels(
        alone, alone.videos
    )
    assert uninformative_labels(alone, alone.videos[5:]) is None


def test_a_run_says_what_its_proposals_are_worth(demo_home, run_in, tmp_path):
    """As proposals, the instances in whole snippets: nearly perfect detections, which one epoch does not reach."""
    home = tmp_path / "home"
    shutil.copytree(demo_home, home)
    folder = home / "data" / "Demo" / "Demo-Annotations"
    (folder / "Ambiguous_test.txt").unlink()  # `eval` takes detections as they are
    annotations = read_annotations(folder)
    path = home / "proposals4Thumos14" / "Proposals_Demo_test.json"
    results = {video: [] for video in json.loads(path.read_text())["results"]}
    for i, row in enumerate(annotations.ground_truth("test").itertuples()):
        segment = [round(time / 0.64) * 0.64 for time in (row.start_sec, row.end_sec)]
        label = annotations.class_names[row.class_idx if i % 4 else 0]
        results[row.video].append({"segment": segment, "score": (i * 37) % 101, "label": label})
    path.write_text(json.dumps({"results": results}))

    run, demo = run_in(home), ("--dataset_name", "Demo")
    status, out, err = run(*demo, "--max_epoch", 1, "--exp_dir", tmp_path / "run")
    assert status == 0, err
    status, _, err = run(*demo, "--run_type", "eval", "--detections", path, "--exp_dir", tmp_path / "eval")
    assert status == 0, err
    trained, alone = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "eval"))
    baseline = trained["baselines"]["proposals"]
    assert baseline["snippet"]["mAP"] == pytest.approx(alone["snippet"]["mAP"])
    assert baseline["seconds"]["mAP"] == pytest.approx(alone["seconds"]["mAP"])
    assert baseline["snippet"]["average"] > 50 > trained["snippet"]["average"]
    assert trained["best"]["baselines"]["proposals"] == baseline  # the same in every epoch
    assert f"warning: these detections are worse than {BASELINES['proposals']}" in out

    weights = ("--pretrained_ckpt", tmp_path / "run" / "ckpt" / "last_model.pkl")
    status, again, err = run(*demo, "--run_type", "test", *weights, "--exp_dir", tmp_path / "test")
    assert status == 0, err
    assert json.loads((tmp_path / "test" / "results.json").read_text())["baselines"] == trained["baselines"]
    assert [line for line in again.splitlines() if line.startswith("warning")] == out.splitlines()[-1:]
