"""What lies behind a mAP: curves, classes, videos, labels; and what the bootstrap makes of two runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval.bootstrap import MIN_VIDEOS, bootstrap, differences, draw_videos, num_draws, rejected
from eval.curves import RECALL, label_confusion, mean_curve, pooled_counts, video_precision
from eval.detection import Matched, detection_map
from eval.protocols import TIOU_PROTOCOLS
from eval.segments import Detections, Segments
from report.timelines import lanes, timeline_detections, timeline_truth

THUMOS = TIOU_PROTOCOLS["thumos14"].thresholds
NUM_VIDEOS, NUM_CLASS = 8, 3


def invented(seed, detections=300, instances=40):
    """Detections and ground truth, most detections near an instance."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 50, instances)
    truth = Segments(
        video=rng.integers(0, NUM_VIDEOS, instances),
        class_idx=rng.integers(0, NUM_CLASS, instances),
        segment=np.column_stack([start, start + rng.uniform(2, 10, instances)]),
    )
    near = truth[rng.integers(0, instances, detections)]
    segment = np.sort(near.segment + rng.normal(0, 2, (detections, 2)), axis=1)
    class_idx = np.where(rng.random(detections) < 0.8, near.class_idx, 0)
    return Detections(near.video, class_idx, segment, rng.random(detections)), truth


def scored(segments, score):
    return Detections(segments.video, segments.class_idx, segments.segment, np.array(score))


def test_the_curve_has_the_area_of_the_map():
    matched = Matched(*invented(0), NUM_CLASS, THUMOS)
    curve, mean = mean_curve(matched), np.nanmean(matched.class_precision(), axis=0)
    assert curve.shape == (len(RECALL), len(THUMOS))
    assert (np.diff(curve, axis=0) <= 1e-12).all()
    fine = np.trapezoid(curve, RECALL, axis=0)
    assert fine == pytest.approx(mean, abs=0.02)


def test_curve_by_hand():
    # One class, two instances; a hit, a miss, a hit: precision 1 up to recall 1/2, then 2/3.
    truth = Segments(np.zeros(2, int), np.zeros(2, int), np.array([[0.0, 1], [5, 6]]))
    segment = np.array([[0.0, 1], [8, 9], [5, 6]])
    found = Detections(np.zeros(3, int), np.zeros(3, int), segment, np.array([0.75, 0.5, 0.25]))
    matched = Matched(found, truth, 2, np.array([0.5]))
    curve = mean_curve(matched)[:, 0]
    assert (curve[RECALL <= 0.5] == 1).all() and curve[RECALL > 0.5] == pytest.approx(2 / 3)
    true, false, missed = pooled_counts(matched, 0, num_scores=5)  # scores from 0, 0.25, 0.5, 0.75, 1
    assert true.tolist() == [2, 2, 1, 1, 0]
    assert false.tolist() == [1, 1, 1, 0, 0]
    assert missed.tolist() == [0, 0, 1, 1, 2]


def test_a_video_counts_as_if_there_were_no_other():
    found, truth = invented(2)
    own = video_precision(Matched(found, truth, NUM_CLASS, THUMOS))
    assert set(own) == set(truth.video.tolist())
    for video, value in own.items():
        alone = [part[part.video == video] for part in (found, truth)]
        assert value == pytest.approx(np.nanmean(detection_map(*alone, NUM_CLASS, THUMOS)))


def test_label_confusion_by_hand():
    labels = pd.DataFrame([[1, 1, 0], [1, 0, 0], [0, 0, 1]], index=["u", "v", "w"], columns=["a", "b", "c"])
    rows = [("u", 0), ("u", 1), ("u", 2), ("v", 1), ("v", 1), ("w", 2)]
    detections = pd.DataFrame(rows, columns=["video", "class_idx"])
    # u has a and b, and is reported with c too: wrong for both. v has a, and is reported with b alone. w is right.
    assert label_confusion(detections, labels).to_numpy().tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


# ------------------------------------------------------------------------------------------- two runs


@pytest.mark.parametrize("draw", range(5))
def test_a_draw_is_an_evaluation_of_copies_of_videos(draw):
    found, truth = invented(3)
    drawn = draw_videos(NUM_VIDEOS, seed=0, draws=5)
    precision = bootstrap(Matched(found, truth, NUM_CLASS, THUMOS), drawn)
    assert precision.shape == (5, NUM_CLASS, len(THUMOS)) and (drawn.sum(1) == NUM_VIDEOS).all()

    def copies(part):
        rows = [
            (np.flatnonzero(part.video == video), copy * NUM_VIDEOS + video)
            for video, times in enumerate(drawn[draw])
            for copy in range(times)
        ]
        index = np.concatenate([own for own, _ in rows])
        return replace(part[index], video=np.concatenate([np.full(len(own), name) for own, name in rows]))

    expected = 100 * detection_map(copies(found), copies(truth), NUM_CLASS, THUMOS)
    np.testing.assert_allclose(precision[draw], expected, atol=1e-9)


def test_a_run_does_not_differ_from_itself():
    run = Matched(*invented(4), NUM_CLASS, THUMOS)
    for table in differences(run, run, draw_videos(NUM_VIDEOS, 0, 500), ["a", "b", "c"]):
        assert (table[["difference", "low", "high"]] == 0).all(axis=None) and (table["p"] == 1).all()
        assert not table["more_than_noise"].any()


def test_a_better_run_is_more_than_noise():
    found, truth = invented(5)
    perfect = scored(truth, np.linspace(1, 0.5, len(truth)))
    runs = [Matched(part, truth, NUM_CLASS, THUMOS) for part in (found, perfect)]
    by_threshold, by_class = differences(*runs, draw_videos(NUM_VIDEOS, 0, 500), ["a", "b", "c"])
    assert list(by_threshold.index) == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "average"]
    assert (by_threshold["second"] == 100).all() and (by_class["second"] == 100).all()
    assert by_threshold.loc["average", "difference"] == pytest.approx(by_threshold["difference"].iloc[:-1].mean())
    assert by_threshold["more_than_noise"].all() and by_class["more_than_noise"].all()
    assert (by_threshold["low"] <= by_threshold["difference"]).all()
    turned, _ = differences(*runs[::-1], draw_videos(NUM_VIDEOS, 0, 500), ["a", "b", "c"])
    np.testing.assert_allclose(turned["difference"], -by_threshold["difference"])
    assert turned["more_than_noise"].all()


def test_few_videos_tell_nothing():
    """Of a perfect run and one that finds nothing, on one video, and on as many as are enough."""
    for videos in (1, MIN_VIDEOS - 1, MIN_VIDEOS):
        count = np.arange(videos)
        segment = np.tile([[0.0, 5.0]], (videos, 1))
        truth = Segments(count, np.zeros(videos, int), segment)
        perfect = scored(truth, np.ones(videos))
        nothing = perfect[:0]
        runs = [Matched(part, truth, 1, THUMOS) for part in (nothing, perfect)]
        by_threshold, by_class = differences(*runs, draw_videos(10, 0, 500), ["a"])
        assert (by_threshold["difference"] == 100).all()
        enough = videos >= MIN_VIDEOS
        assert (by_threshold["more_than_noise"] == enough).all() and (by_class["more_than_noise"] == enough).all()


def test_noise_is_seldom_taken_for_more():
    """Two runs whose scores are drawn alike: about one in twenty averages may be called more than noise."""
    called = []
    for seed in range(40):
        (first, truth), (second, _) = invented(seed), invented(seed)
        second = replace(second, score=np.random.default_rng(1000 + seed).random(len(second)))
        runs = [Matched(part, truth, NUM_CLASS, THUMOS) for part in (first, second)]
        by_threshold, _ = differences(*runs, draw_videos(NUM_VIDEOS, seed, draws=300), ["a", "b", "c"])
        called.append(by_threshold.loc["average", "more_than_noise"])
    assert np.mean(called) <= 0.25  # eight videos are few, so that intervals are somewhat short


@pytest.mark.parametrize("num_class", [1, 20, 200, 1000])
def test_a_single_class_can_stand_out(num_class):
    smallest = 2 / (1 + num_draws(num_class))
    assert rejected(np.array([smallest] + [1.0] * (num_class - 1)))[0]


def test_draws_without_any_instance_do_not_count():
    found, truth = invented(6)
    some = truth.video == truth.video[0]  # one video of eight, so that a third of the draws has no instance
    truth = truth[some]
    run, other = (Matched(part, truth, NUM_CLASS, THUMOS) for part in (found, scored(truth, np.ones(some.sum()))))
    drawn = draw_videos(NUM_VIDEOS, 0, 300)
    assert np.isnan(bootstrap(run, drawn)).all(axis=(1, 2)).sum() > 50
    by_threshold, _ = differences(run, other, drawn, ["a", "b", "c"])
    assert by_threshold.notna().all(axis=None) and (by_threshold["difference"] > 0).all()


def test_benjamini_and_hochberg_by_hand():
    # Sorted 0.005, 0.02, 0.03, 0.2 against 0.0125, 0.025, 0.0375, 0.05: the third is the last one below.
    assert rejected(np.array([0.2, 0.02, 0.005, 0.03])).tolist() == [False, True, True, True]
    assert rejected(np.array([0.03, 0.9])).tolist() == [False, False]
    assert rejected(np.array([0.04])).tolist() == [True]


# ------------------------------------------------------------------------------------------- timelines


def test_timelines_by_hand():
    truth = pd.DataFrame(
        [("v", 0, 0.0, 10.0), ("v", 1, 20.0, 30.0), ("v", 1, 40.0, 50.0)],
        columns=["video", "class_idx", "start_sec", "end_sec"],
    )
    rows = [
        ("v", 1, 0.5, 20, 30),
        ("v", 0, 0.9, 0, 4),
        ("v", 2, 0.8, 0, 10),
        ("v", 2, 0.1, 60, 70),
        ("v", 0, 0.7, 60, 70),
    ]
    rows += [("v", 0, score, 80, 90) for score in (0.3, 0.2, 0.1)]
    detections = pd.DataFrame(rows, columns=["video", "class_idx", "score", "start_sec", "end_sec"])
    assert list(timeline_truth(truth, "abc")["v"]) == ["b", "a"]  # the most frequent first
    found = timeline_detections(detections, truth, "abc")["v"]
    assert list(found) == ["a", "c", "b"]  # by the best detection
    assert found["a"].types == ["localisation", "background", "background"]  # three for one instance
    assert found["c"].types == ["wrong label", "background"] and found["b"].types == ["true positive"]
    assert found["a"].segments.tolist() == [[0, 4], [60, 70], [80, 90]]


def test_detections_that_overlap_are_in_lanes_of_their_own():
    segments = np.array([[0, 10], [5, 15], [10, 20], [0, 20], [1, 2]])
    assert lanes(segments, 4).tolist() == [0, 1, 0, 2, 1]
    assert lanes(segments, 2).tolist() == [0, 1, 0, 2, 1] and lanes(segments, 1).tolist() == [0, 1, 0, 1, 1]
