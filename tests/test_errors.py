"""Error analysis: detections whose every kind is known, against the definitions one by one, and the real ones."""

import numpy as np
import pytest

from eval.errors import KINDS, analyse_errors
from eval.protocols import TIOU_PROTOCOLS
from eval.segments import Detections, Segments, to_segments
from proposals import SNIPPETS_PER_SECOND, tiou
from runs.detections import read_detections

HALF = np.array([0.5])


def arrays(rows, with_score):
    """Rows of video, class, start, end and perhaps score."""
    rows = np.array(rows, dtype=np.float64).reshape(-1, 5 if with_score else 4)
    columns = rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2:4]
    return Detections(*columns, rows[:, 4]) if with_score else Segments(*columns)


def analyse(detections, truth, thresholds=HALF, duration=100.0, num_class=2, dataset="thumos14"):
    truth = arrays(truth, with_score=False)
    durations = np.full(len(truth), duration)
    buckets = TIOU_PROTOCOLS[dataset].buckets
    return analyse_errors(arrays(detections, True), truth, durations, num_class, thresholds, buckets)


TRUTH = [[0, 0, 0, 10], [0, 0, 20, 30], [0, 1, 40, 50]]
# One of each kind; class 0 has two instances, so that two of its detections make a rank.
DETECTIONS = {
    "true positive": [0, 0, 0, 10, 0.9],
    "double detection": [0, 0, 0, 9, 0.8],
    "wrong label": [0, 0, 40, 50, 0.7],
    "localisation": [0, 0, 20, 24, 0.6],
    "confusion": [0, 0, 44, 48, 0.5],
    "background": [0, 0, 60, 70, 0.4],
}
LAST = [[0, 0, 20, 30, 0.3], [0, 1, 40, 50, 0.35]]  # two more true positives


def test_every_kind_by_hand():
    found = analyse([*DETECTIONS.values(), *LAST], TRUTH)
    counts = {kind: rows[0] for kind, rows in found.counts.items()}
    rest = [0] * 6
    assert counts == {
        "true positive": [2, 0, 0, 1, *rest],  # that of class 1 is in the first rank of its own class
        "double detection": [1, 0, 0, 0, *rest],
        "wrong label": [0, 1, 0, 0, *rest],
        "localisation": [0, 1, 0, 0, *rest],
        "confusion": [0, 0, 1, 0, *rest],
        "background": [0, 0, 1, 0, *rest],
    }
    shares = {kind: rows[0] for kind, rows in found.shares.items()}
    assert shares["true positive"][:4] == pytest.approx([200 / 3, 40, 200 / 7, 37.5])
    assert shares["double detection"][0] == pytest.approx(100 / 3)
    assert shares["background"][-1] == pytest.approx(12.5)
    assert found.detections == 8


def test_gains_by_hand():
    # N = 3/2. Class 0: the first hit has precision 1, the second, with recall 1 and five false positives, 1.5 / 6.5.
    found = analyse([*DETECTIONS.values(), *LAST], TRUTH)
    assert found.instances_a_class == 1.5
    of_class_0 = (1 + 1.5 / 6.5) / 2
    assert found.average_mAP_N == pytest.approx(100 * (of_class_0 + 1) / 2)
    without_one = (1 + 1.5 / 5.5) / 2
    assert list(found.gain) == list(KINDS[1:])
    for gain in found.gain.values():
        assert gain.average == pytest.approx(100 * (without_one - of_class_0) / 2)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_removing_the_only_error_gives_all(kind):
    perfect = [[video, class_idx, start, end, 0.2] for video, class_idx, start, end in TRUTH]
    found = analyse([DETECTIONS["true positive"], DETECTIONS[kind], *perfect[1:]], TRUTH)
    assert found.average_mAP_N < 100
    assert found.average_mAP_N + found.gain[kind].average == pytest.approx(100)
    assert all(gain.average == 0 for name, gain in found.gain.items() if name != kind)


@pytest.mark.parametrize(
    ("segment", "kind"),
    [
        ([0, 5], "double detection"),  # u = 0.5 is enough
        ([0, 4.9], "localisation"),
        ([0, 1], "localisation"),  # u = 0.1 is not yet background
        ([0, 0.9], "background"),
        ([10, 20], "background"),  # touches two instances
    ],
)
def test_bounds_belong_to_the_better_kind(segment, kind):
    found = analyse([[0, 0, 0, 10, 0.9], [0, 0, *segment, 0.8]], TRUTH[:1])
    assert sum(found.counts[kind][0]) == 1


def test_of_equally_near_instances_the_own_class_counts():
    found = analyse([[0, 0, 4, 6, 0.9]], [[0, 1, 0, 5], [0, 0, 5, 10]], np.array([0.7]))
    assert sum(found.counts["localisation"][0]) == 1


def test_another_video_is_background():
    found = analyse([[1, 0, 0, 10, 0.9]], TRUTH)
    assert sum(found.counts["background"][0]) == 1


def test_only_the_top_of_a_class_counts():
    many = [[0, 1, 60, 70, 0.9 - i / 100] for i in range(12)]
    found = analyse([*many, [0, 1, 40, 50, 0.1]], TRUTH)
    assert found.counts["background"][0] == [1] * 10
    assert sum(found.counts["true positive"][0]) == 0
    missed = [bucket.average_missed for bucket in found.buckets["length"] if bucket.instances]
    assert missed == [100]


def test_buckets_by_hand():
    truth = [[0, 0, 0, 3], [0, 0, 10, 13.5], [0, 1, 20, 50]]  # a bound belongs to the lower bucket
    detections = [[0, 0, 0, 3, 0.9], [0, 0, 10, 13.5, 0.8], [0, 0, 60, 61, 0.85]]
    buckets = analyse(detections, truth).buckets
    length = {(b.over, b.up_to): b for b in buckets["length"]}
    assert {place: b.instances for place, b in length.items()} == {
        (0, 3): 1, (3, 6): 1, (6, 12): 0, (12, 18): 0, (18, None): 1
    }  # fmt: skip
    assert length[0, 3].average_mAP_N == 100  # the detection of the other bucket does not count
    # N = 1.5, recall 1 of this bucket, one false positive before it; that of the first bucket does not count.
    assert length[3, 6].average_mAP_N == pytest.approx(100 * 1.5 / 2.5)
    assert length[18, None].average_mAP_N == 0 and length[18, None].average_missed == 100
    assert length[6, 12].average_mAP_N is None and length[6, 12].average_missed is None
    assert [b.instances for b in buckets["coverage"]] == [0, 2, 0, 0, 1]
    assert [b.instances for b in buckets["instances"]] == [1, 2, 0, 0]


def test_a_video_of_unknown_length_is_in_no_bucket_of_coverage():
    found = analyse([*DETECTIONS.values()], TRUTH, duration=np.nan)
    assert sum(bucket.instances for bucket in found.buckets["coverage"]) == 0
    assert sum(bucket.instances for bucket in found.buckets["length"]) == 3


def test_without_detections_all_is_missed():
    found = analyse([], TRUTH)
    assert found.average_mAP_N == 0 and found.detections == 0
    assert all(set(shares[0]) == {0} for shares in found.shares.values())


def one_by_one(detections, truth, threshold):
    """Kinds as their definitions read, one detection after another; segments as lists."""
    order = sorted(range(len(detections)), key=lambda i: -detections[i][4])
    count, taken, kinds = {}, set(), []
    for i in order:
        video, own, *segment, _ = detections[i]
        count[own] = count.get(own, 0) + 1
        if count[own] > 10 * sum(c == own for _, c, *_ in truth):
            continue
        near = [
            (float(tiou(np.array(segment, float), np.array(t[2:], float))), t[1], j)
            for j, t in enumerate(truth)
            if t[0] == video
        ]
        free = [(u, j) for u, c, j in near if c == own and u >= threshold and j not in taken]
        u, same = max(((u, c == own) for u, c, _ in near), default=(0, False))
        if free:
            taken.add(max(free)[1])
            kinds.append("true positive")
        elif u < 0.1:
            kinds.append("background")
        elif u >= threshold:
            kinds.append("double detection" if same else "wrong label")
        else:
            kinds.append("localisation" if same else "confusion")
    return kinds


@pytest.mark.parametrize("seed", range(10))
def test_kinds_equal_one_by_one(seed):
    rng = np.random.default_rng(seed)

    def rows(n):
        start = rng.integers(0, 40, n)
        return np.column_stack([rng.integers(0, 3, n), rng.integers(0, 3, n), start, start + rng.integers(1, 12, n)])

    truth = rows(15).tolist()
    detections = np.column_stack([rows(400), rng.random(400)]).tolist()
    thresholds = TIOU_PROTOCOLS["thumos14"].thresholds
    counts = analyse(detections, truth, thresholds, num_class=3).counts
    for k, threshold in enumerate(thresholds):
        kinds = one_by_one(detections, truth, threshold)
        assert {kind: sum(rows[k]) for kind, rows in counts.items()} == {kind: kinds.count(kind) for kind in KINDS}


def test_real_base_detections(thumos):
    """Figures of this implementation, kept so that a change of them is seen; the shares add up."""
    from readers.annotations import read_annotations

    annotations = read_annotations(thumos / "Thumos14reduced-Annotations")
    path = thumos / "Proposals_Thumos14reduced_test.json"
    file = read_detections(path, annotations.videos_of("test"), annotations.class_names, SNIPPETS_PER_SECOND)
    truth = annotations.ground_truth("test")
    durations = truth["video"].map(annotations.duration_of()).to_numpy()
    protocol = TIOU_PROTOCOLS["thumos14"]
    segments = to_segments(file.detections, truth, "seconds", SNIPPETS_PER_SECOND)
    found = analyse_errors(*segments, durations, 20, protocol.thresholds, protocol.buckets)
    assert found.average_mAP_N == pytest.approx(44.685, abs=1e-3)
    at_half = {kind: rows[4][-1] for kind, rows in found.shares.items()}
    assert sum(at_half.values()) == pytest.approx(100)
    assert at_half == pytest.approx(
        dict(zip(KINDS, [7.602, 28.630, 1.707, 29.950, 2.340, 29.770], strict=True)), abs=2e-3
    )
    assert [bucket.instances for bucket in found.buckets["length"]] == [1626, 851, 730, 114, 37]
    assert [bucket.instances for bucket in found.buckets["instances"]] == [20, 2435, 574, 329]
