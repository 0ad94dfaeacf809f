"""Detection mAP, its ties, post-processing and classification figures."""

import json

import numpy as np
import pandas as pd
import pytest
from building import proposals_of

from eval.classification import classification_accuracy, classification_figures, classification_map
from eval.detection import average_precision, detection_map, match_detections
from eval.evaluation import evaluate
from eval.metrics import EvaluationInput
from eval.nms import SoftNms
from eval.postprocess import PostProcess, VideoDetections, overlaps_ambiguous
from eval.protocols import TIOU_PROTOCOLS
from eval.segments import Detections, Segments, order_by
from eval.tables import detection_table, rows_as_table
from options import build_parser
from proposals import SNIPPETS_PER_SECOND, tiou
from runs.detections import read_detections, write_detection_csv, write_detections
from utils import InputError

PROTOCOL = TIOU_PROTOCOLS["thumos14"]
THUMOS = PROTOCOL.thresholds
POST_PROCESS = PostProcess(threshold_cls=0.25, rate=SNIPPETS_PER_SECOND)


def table(rows, with_score):
    rows = np.array(rows, dtype=np.float64).reshape(-1, 5 if with_score else 4)
    columns = rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2:4]
    return Detections(*columns, rows[:, 4]) if with_score else Segments(*columns)


def matches_one_by_one(ranked, truth, threshold):
    """The rule as SPEC section 7 states it, one detection after another."""
    taken = np.zeros(len(truth), dtype=bool)
    matched = []
    for video, class_idx, segment in zip(ranked.video, ranked.class_idx, ranked.segment, strict=True):
        best, best_tiou = None, -1.0
        for j in range(len(taken)):
            if not taken[j] and truth.video[j] == video and truth.class_idx[j] == class_idx:
                overlap = tiou(segment, truth.segment[j])
                if overlap >= threshold and overlap >= best_tiou:  # of equal ones the later
                    best, best_tiou = j, overlap
        matched.append(-1 if best is None else best)
        if best is not None:
            taken[best] = True
    return matched


@pytest.mark.parametrize("seed", range(20))
def test_matching_equals_one_by_one(seed):
    """Integer boundaries on a short axis, so that thresholds are met exactly and instances tie all the time."""
    rng = np.random.default_rng(seed)

    def segments(n):
        start = rng.integers(0, 20, n)
        return np.column_stack([start, start + rng.integers(0, 12, n)])

    def rows(n):
        return np.column_stack([rng.integers(0, 3, n), rng.integers(0, 2, n), segments(n)])

    truth = table(rows(40), with_score=False)
    ranked = table(np.column_stack([rows(150), np.arange(150)[::-1]]), with_score=True)
    found = match_detections(ranked, truth, THUMOS)
    for k, threshold in enumerate(THUMOS):
        assert found[:, k].tolist() == matches_one_by_one(ranked, truth, threshold)


def test_average_precision_by_hand():
    hits = np.array([[True], [False], [True], [False]])
    # precision 1 at recall 1/3, then 2/3 at recall 2/3; the third instance is never found
    assert average_precision(hits, 3)[0] == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(np.array([[False], [True]]), 1)[0] == 0.5
    assert average_precision(np.zeros((0, 1), dtype=bool), 1)[0] == 0


def test_interpolated_precision_looks_ahead():
    hits = np.array([[False], [True], [True]])  # precision 0, 1/2, 2/3: the first hit counts 2/3
    assert average_precision(hits, 2)[0] == pytest.approx(2 / 3)


def test_threshold_is_met_by_equality():
    truth = table([[0, 0, 0, 10]], with_score=False)
    found = table([[0, 0, 0, 7, 0.9]], with_score=True)
    assert detection_map(found, truth, 1, THUMOS)[0].tolist() == [1, 1, 1, 1, 1, 1, float(THUMOS[6] <= 0.7)]


def test_equal_scores_keep_their_order():
    truth = table([[0, 0, 0, 10]], with_score=False)
    hit, miss = [0, 0, 0, 10, 0.5], [0, 0, 50, 60, 0.5]
    assert detection_map(table([hit, miss], True), truth, 1, THUMOS)[0, 0] == 1
    assert detection_map(table([miss, hit], True), truth, 1, THUMOS)[0, 0] == 0.5


def test_of_equal_instances_the_later_is_taken():
    # The first detection lies between both instances; taking the later leaves the earlier for the second.
    truth = table([[0, 0, 0, 10], [0, 0, 10, 20]], with_score=False)
    found = table([[0, 0, 5, 15, 0.9], [0, 0, 0, 10, 0.8]], with_score=True)
    assert match_detections(found, truth, np.array([0.3]))[:, 0].tolist() == [1, 0]
    found = table([[0, 0, 5, 15, 0.9], [0, 0, 10, 20, 0.8]], with_score=True)
    assert match_detections(found, truth, np.array([0.3]))[:, 0].tolist() == [1, -1]


def test_other_videos_and_classes_do_not_count():
    truth = table([[0, 0, 0, 10]], with_score=False)
    assert detection_map(table([[1, 0, 0, 10, 1]], True), truth, 2, THUMOS)[0, 0] == 0
    assert detection_map(table([[0, 1, 0, 10, 1]], True), truth, 2, THUMOS)[0, 0] == 0


def test_class_without_ground_truth_is_nan_and_without_detections_zero():
    truth = table([[0, 1, 0, 10]], with_score=False)
    precision = detection_map(table([[0, 0, 0, 10, 1]], True), truth, 3, THUMOS)
    assert np.isnan(precision[[0, 2]]).all() and (precision[1] == 0).all()


def test_no_detections_at_all():
    precision = detection_map(table([], True), table([[0, 0, 0, 10]], False), 1, THUMOS)
    assert (precision == 0).all()


def frame(rows, columns):
    return pd.DataFrame(rows, columns=columns)


def test_evaluate_leaves_out_classes_without_ground_truth(caplog):
    truth = frame([("v", 0, 0.0, 6.4)], ["video", "class_idx", "start_sec", "end_sec"])
    rows = [("v", 0, 0.9, 0.0, 10.0, 0.0, 6.4), ("v", 1, 0.9, 0.0, 10.0, 0.0, 6.4)]
    columns = ["video", "class_idx", "score", "start_snip", "end_snip", "start_sec", "end_sec"]
    with caplog.at_level("INFO"):
        results = evaluate(EvaluationInput(frame(rows, columns), truth, ["a", "b"], PROTOCOL, SNIPPETS_PER_SECOND))
    assert results.snippet.average == results.seconds.average == 100
    assert "b" in caplog.text and "ground truth" in caplog.text


def test_snippet_protocol_rounds_half_to_even():
    # 2.5 and 3.5 snippets are 2 and 4; rounding half up would give [3, 4], half down [2, 3], not rounding [2.5, 3.5]:
    # each overlaps the detection [2, 4] by one half at most.
    truth = frame([("v", 0, 1.6, 2.24)], ["video", "class_idx", "start_sec", "end_sec"])
    columns = ["video", "class_idx", "score", "start_snip", "end_snip", "start_sec", "end_sec"]
    found = frame([("v", 0, 0.9, 2.0, 4.0, 1.28, 2.56)], columns)
    results = evaluate(EvaluationInput(found, truth, ["a"], PROTOCOL, SNIPPETS_PER_SECOND))
    assert results.snippet.mAP == (100,) * 7
    assert results.seconds.mAP == (100,) * 5 + (0,) * 2


def test_averages():
    means = PROTOCOL.means_of([70, 60, 50, 40, 30, 20, 10])
    assert means == {"0.1 : 0.5": 50, "0.3 : 0.7": 30, "0.1 : 0.7": 40} and [*means][-1] == PROTOCOL.headline
    assert TIOU_PROTOCOLS["activitynet"].means_of(range(10)) == {"0.5 : 0.95": 4.5}


def test_choices_of_tiou_are_the_tables_keys():
    action = next(action for action in build_parser()._actions if action.dest == "tiou")
    assert set(action.choices) == set(TIOU_PROTOCOLS)


# ----------------------------------------------------------------------------------- post-processing


def test_soft_nms_one_by_one():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 30, 40).astype(float)
    segments = np.column_stack([start, start + rng.integers(0, 10, 40)])
    scores = rng.integers(0, 5, 40) / 4  # many ties, and zeros
    decay = np.exp(-np.square(tiou(segments[:, None], segments[None], closed=True)) / 0.1)
    [(order, kept)] = SoftNms()(segments, scores[:, None])

    left = dict(enumerate(scores))
    for expected in zip(order, kept, strict=True):
        best = max(left, key=lambda i: (left[i], -i))
        assert (best, left.pop(best)) == expected
        left = {i: s * decay[best, i] for i, s in left.items()}
    assert sorted(order) == list(range(40))


def logits_of(probs):
    return np.log(np.array(probs, dtype=np.float64))


def test_reported_classes():
    high = np.full(2, 50.0)
    segments = np.array([[0.0, 4.0], [8.0, 12.0]])
    both = POST_PROCESS.detect(
        logits_of([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3]]),
        high,
        high,
        proposals_of(segments),
    )
    assert both.reported.tolist() == [True, True] and both.class_idx.tolist() == [0, 0, 1, 1]
    best_alone = POST_PROCESS.detect(logits_of([[0.1, 0.2, 0.7]] * 2), high, high, proposals_of(segments))
    assert best_alone.reported.tolist() == [False, True]
    assert best_alone.score == pytest.approx([0.2, 0.2])


def test_one_proposal_of_no_length():
    found = POST_PROCESS.detect(
        logits_of([[0.6, 0.4]]),
        np.zeros(1),
        np.zeros(1),
        proposals_of(np.zeros((1, 2))),
    )
    assert found.segment_snip.tolist() == [[0.0, 0.0]] and found.score == pytest.approx([0.6 / 4])


def test_extreme_logits_stay_finite():
    extreme = np.array([[1e4, -1e4, 0.0]])
    found = POST_PROCESS.detect(extreme, np.array([-1e4]), np.array([1e4]), proposals_of([[0.0, 1.0]]))
    assert np.isfinite(found.video_score).all() and np.isfinite(found.score).all()


def test_ambiguous_segments():
    segments = np.array([[3.9, 5.2], [4.0, 5.9], [5.99, 6.01], [10.0, 10.0]])
    # Seconds [3.2, 6.4] are snippets [5, 10): int() of the first two ends is 5, so they stop before it.
    dropped = overlaps_ambiguous(segments, np.array([[3.2, 6.4]]), SNIPPETS_PER_SECOND)
    assert dropped.tolist() == [False, False, True, False]
    assert not overlaps_ambiguous(segments, None, SNIPPETS_PER_SECOND).any()


# ---------------------------------------------------------------------------------------- detections on disk


def test_detections_survive_the_file_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    segments = np.sort(rng.integers(0, 200_000, (5000, 2)) / 100, axis=1)
    found = PostProcess(threshold_cls=0.1, rate=SNIPPETS_PER_SECOND).detect(
        rng.standard_normal((300, 4)),
        rng.standard_normal(300),
        rng.standard_normal(300),
        proposals_of(segments[:300]),
    )
    before = detection_table(["v"], [found], SNIPPETS_PER_SECOND)
    write_detections(tmp_path / "d.json", before, ["a", "b", "c"], "test")
    after = read_detections(tmp_path / "d.json", ["v"], ["a", "b", "c"], SNIPPETS_PER_SECOND).detections
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    write_detection_csv(tmp_path / "d.csv", before, ["a", "b", "c"], {"v": np.nan})
    read = pd.read_csv(tmp_path / "d.csv", float_precision="round_trip")
    same = ["score", "start_sec", "end_sec", "start_snip", "end_snip"]
    pd.testing.assert_frame_equal(read[same], before[same], check_exact=True)
    assert read["outside_sec"].isna().all()  # how long the video is, is not known


def test_the_csv_changes_nothing_and_says_so(tmp_path, caplog):
    """Segments in snippets of a second; the video has 20, of which 5 to 7 are ambiguous."""
    segments = np.array([[0, 3], [4, 6], [-2, 3], [15, 24], [25, 30], [18, 20]], dtype=float)
    found = PostProcess(threshold_cls=0.25, rate=1.0).detect(
        np.tile([2.0, -2.0], (6, 1)),
        np.linspace(3, 0, 6),
        np.zeros(6),
        proposals_of(segments),
        ambiguous_sec=np.array([[5.0, 7.0]]),
    )
    table = detection_table(["a,b"], [found], 1.0)
    with caplog.at_level("INFO"):
        write_detection_csv(tmp_path / "d.csv", table, ['say "hi"'], {"a,b": 20.0})
    read = pd.read_csv(tmp_path / "d.csv").set_index(["start_sec", "end_sec"])
    assert set(read.index) == set(map(tuple, segments))
    assert set(read["video"]) == {"a,b"} and set(read["label"]) == {'say "hi"'}
    assert read["ambiguous"].sum() == 1 and read.loc[(4, 6), "ambiguous"] == 1
    outside = {(0, 3): 0, (4, 6): 0, (-2, 3): 2, (15, 24): 4, (25, 30): 5, (18, 20): 0}
    assert read["outside_sec"].to_dict() == outside
    assert "1 of 6 detections overlap an ambiguous segment" in caplog.text
    assert "3 of 6 detections reach beyond the ends of their video" in caplog.text

    write_detections(tmp_path / "d.json", table, ['say "hi"'], "test")
    again = read_detections(tmp_path / "d.json", ["a,b"], ['say "hi"'], 1.0).detections
    assert len(again) == 5 and (4, 6) not in set(zip(again["start_sec"], again["end_sec"], strict=True))


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"w": []}, r"unknown videos, 1 that are not in the evaluated subset: w; .* or remove them"),
        ({"v.mp4": []}, r"subset: v\.mp4 \(did you mean v\?\); check"),
        ({"v": [{"segment": [0, 1], "label": "A", "score": 1}]}, r"list: A \(did you mean a\?\); the first"),
        (
            {"v": [{"segment": [0, 1], "label": "z", "score": 1}]},
            r"unknown classes, 1 that .* class list: z; .*video v",
        ),
        ({"v": [{"segment": [0, 1], "label": ["a"], "score": 1}]}, r"video v: label \['a'\]"),
        ({"v": [{"segment": [0, 1], "label": "a"}]}, r"video v: score None"),
        ({"v": [{"segment": [0, 1], "label": "a", "score": float("nan")}]}, r"video v: score nan"),
        ({"v": [{"segment": [0, 1], "label": "a", "score": True}]}, r"video v: score True"),
        ({"v": [{"segment": [0, 1], "label": "a", "score": 10**400}]}, r"video v: score 1000"),
        ({"v": [{"segment": [0, 10**400], "label": "a", "score": 1}]}, r"video v: bad segment"),
    ],
)
def test_bad_detections(tmp_path, results, message):
    (tmp_path / "d.json").write_text(json.dumps({"results": results}))
    with pytest.raises(InputError, match=message):
        read_detections(tmp_path / "d.json", ["v"], ["a"], SNIPPETS_PER_SECOND)


def test_a_video_has_as_many_detections_as_proposals_in_each_class(tmp_path, monkeypatch):
    """The limit is one of proposals: a run that reports every class of a video writes a detection of each for each."""
    monkeypatch.setattr("runs.detections.MAX_PER_VIDEO", 3)
    table = rows_as_table("v", [0, 1] * 3, np.linspace(0, 1, 6), *[np.tile([0.0, 1.0], (6, 1))] * 2)
    write_detections(tmp_path / "d.json", table, ["a", "b"], "", {})
    assert len(read_detections(tmp_path / "d.json", ["v"], ["a", "b"], 1.0).detections) == 6
    monkeypatch.setattr("runs.detections.MAX_PER_VIDEO", 2)
    with pytest.raises(InputError, match="video v: 6 segments; at most 4 are allowed"):
        read_detections(tmp_path / "d.json", ["v"], ["a", "b"], 1.0)


def test_empty_detections(tmp_path):
    (tmp_path / "d.json").write_text('{"results": {}}')
    found = read_detections(tmp_path / "d.json", ["v"], ["a"], SNIPPETS_PER_SECOND).detections
    truth = frame([("v", 0, 0.0, 6.4)], ["video", "class_idx", "start_sec", "end_sec"])
    inputs = EvaluationInput(found, truth, ["a"], PROTOCOL, SNIPPETS_PER_SECOND)
    assert evaluate(inputs).snippet.average == 0


# ------------------------------------------------------------------------------------- classification


def test_classification():
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.6, 0.0], [0.7, 0.5, 0.0]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    # class 0: hits at ranks 1 and 3; class 1: rank 1; class 2 has no positive video
    assert classification_map(scores, labels) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert classification_map(scores, np.zeros((3, 3))) is None
    assert classification_accuracy(scores >= 0.6, labels) == pytest.approx(2 / 3)  # the second reports two
    nothing = [np.empty(0)] * 6
    videos = [VideoDetections(score, score >= 0.8, *nothing) for score in scores]  # all three report class 0 or nothing
    figures = classification_figures(videos, labels)
    assert (figures.num_reported, figures.num_labels, figures.recall) == (1, 3, pytest.approx(100 / 3))
    assert classification_figures(videos, np.zeros((3, 3))).recall is None


@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_a_sort_with_ties_is_that_of_lexsort(levels):
    random = np.random.default_rng(0)
    key, tie, last = (random.integers(0, n, 500) for n in (levels, 4, 4))
    expected = np.lexsort((np.arange(500), -last, tie, key))
    assert np.array_equal(order_by(key, tie, -last, np.arange(500)), expected)
    assert order_by(key[:0], tie[:0]).tolist() == [] and order_by(key[:1], tie[:1]).tolist() == [0]
