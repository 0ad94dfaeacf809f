"""Proposals from snippet features and video-level labels: the network, the grouping, and both together."""

import numpy as np
import pandas as pd
import pytest
import torch

from eval.recall import average_recall
from prepare.activation_segments import outer_inner_contrast, runs_above, segments_above_thresholds, upsample
from prepare.paper_proposals import propose, train_network
from prepare.snippet_network import SnippetNetwork
from prepare.snippet_proposals import propose_all, result_entries
from proposals import SNIPPETS_PER_SECOND, nms, snippets_to_seconds, tiou
from readers.annotations import read_annotations
from readers.features import Features
from utils import InputError

CPU = torch.device("cpu")
TOY = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.5, 0.0])


# ------------------------------------------------------------------------------------------ the network


def network(feature_size: int = 8, kernel_size: int = 3) -> SnippetNetwork:
    torch.manual_seed(0)
    return SnippetNetwork(feature_size=feature_size, num_class=3, hidden=16, kernel_size=kernel_size).eval()


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_batched_equals_one_by_one(kernel_size):
    model, videos = network(kernel_size=kernel_size), [torch.randn(size, 8) for size in (5, 1, 12, 2)]
    batched = model(torch.cat(videos), [5, 1, 12, 2])
    single = [model(video, [len(video)]) for video in videos]
    assert batched["class_logits"].shape == (20, 4) and batched["attention_logits"].shape == (20,)
    for name, value in batched.items():
        torch.testing.assert_close(value, torch.cat([outputs[name] for outputs in single]))
    if kernel_size > 1:  # snippets do see their neighbours
        alone = torch.cat([model(row[None], [1])["class_logits"] for row in videos[0]])
        assert (alone - batched["class_logits"][:5]).abs().max() > 1e-3


# ----------------------------------------------------------------------------------------- the grouping


def test_upsampling_by_hand():
    """A snippet's value is that of its centre; it is constant before the first centre and after the last."""
    assert upsample(np.array([[0.0, 1.0]]), 4).tolist() == [[0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1]]
    assert upsample(TOY[None], 1).tolist() == [TOY.tolist()]
    assert upsample(np.array([[3.0]]), 2).tolist() == [[3, 3]]


def test_runs_by_hand():
    thresholds = np.array([[0.5, 0.7]])
    assert runs_above(TOY[None], thresholds).tolist() == [[2, 4], [5, 7], [2, 4]]  # at the threshold counts
    both = runs_above(np.stack([TOY, 1 - TOY]), np.array([[0.7], [1.0]]))
    assert both.tolist() == [[2, 4], [0, 2], [4, 5], [7, 8]]  # a run may begin and end with the video
    assert runs_above(TOY[None], np.array([[2.0]])).shape == (0, 2)


def test_contrast_by_hand():
    cells = np.array([[2, 4], [1, 5], [0, 8]])
    expected = [
        1 - 0,  # half a snippet of nothing on either side
        2 / 4 - (0 + 0.5) / 2,  # a snippet on either side: nothing, and one half
        3 / 8 - 0,  # nothing around the video
    ]
    assert outer_inner_contrast(TOY, cells).tolist() == pytest.approx(expected)


def test_nms_by_hand():
    segments = np.array([[0.0, 10.0], [0.0, 8.0], [0.0, 6.5], [20.0, 30.0], [0.0, 10.0]])
    # The second is too close to the first; the third only to the second, which is gone.
    assert nms(segments, max_tiou=0.75).tolist() == [0, 2, 3]
    assert nms(segments, max_tiou=0.75, limit=2).tolist() == [0, 2]
    assert nms(segments, max_tiou=1.0).tolist() == [0, 1, 2, 3, 4]
    assert nms(np.empty((0, 2))).tolist() == []


def test_grouping_of_a_toy_sequence():
    segments, score = segments_above_thresholds(TOY[None], TOY, min_length=0.0)
    best = segments[score.argmax()]
    assert tiou(best, np.array([2.0, 4.0])) > 0.75
    assert any(tiou(segment, np.array([5.0, 7.0])) > 0.75 for segment in segments)  # the weaker one is found, too
    assert len(np.unique(segments, axis=0)) == len(segments)
    longer, _ = segments_above_thresholds(TOY[None], TOY, min_length=1.5)
    assert 0 < len(longer) < len(segments) and (longer[:, 1] - longer[:, 0] >= 1.5).all()


def test_a_scaled_and_shifted_sequence_has_the_same_segments():
    sequence = np.random.default_rng(0).random(40)
    segments, _ = segments_above_thresholds(sequence[None], sequence)
    assert np.array_equal(segments_above_thresholds(sequence[None] / 8 + 2, sequence)[0], segments)
    assert segments.min() >= 0 and segments.max() <= 40


@pytest.mark.parametrize("sequence", [[0.3], [0.3, 0.4], [0.3] * 9, [0.0] * 9])
def test_a_short_or_flat_sequence_gives_the_whole_video(sequence):
    sequence = np.array(sequence)
    assert segments_above_thresholds(sequence[None], sequence)[0].tolist() == [[0, len(sequence)]]


# ------------------------------------------------------------------------------------------ all together


@pytest.fixture(scope="module")
def demo(demo_home):
    """Annotations of the narrow demo, its features, and a network trained on it for a few epochs."""
    annotations = read_annotations(demo_home / "data" / "Demo" / "Demo-Annotations")
    features = Features(demo_home / "data" / "Demo" / "Demo-I3D-JOINTFeatures.npy", annotations.videos)
    training, testing = (
        [i for i, own in enumerate(annotations.subsets) if own == subset] for subset in ("validation", "test")
    )
    for i in (*training, *testing):
        features.read(i)
    return annotations, features, training, testing


def train(demo, epochs: int = 1, labels: torch.Tensor | None = None, **options) -> SnippetNetwork:
    annotations, features, training, _ = demo
    labels = torch.from_numpy(annotations.labels) if labels is None else labels
    return train_network(features, training, labels, device=CPU, epochs=epochs, hidden=32, **options)


@pytest.fixture(scope="module")
def trained(demo) -> SnippetNetwork:
    return train(demo, epochs=10, lr=4e-3)


def test_it_finds_actions(demo, trained):
    """In unseen videos, with a far higher recall than as many random segments of the same lengths."""
    annotations, features, _, testing = demo
    found = propose_all(propose, trained, features, testing)
    assert list(found) == testing
    rng, made, random = np.random.default_rng(0), {}, {}
    for i, proposals in found.items():
        length = np.diff(proposals.segments_snip)
        start = rng.random(length.shape) * (len(features.read(i)) - length)
        made[annotations.videos[i]] = snippets_to_seconds(proposals.segments_snip, SNIPPETS_PER_SECOND)
        random[annotations.videos[i]] = snippets_to_seconds(np.hstack([start, start + length]), SNIPPETS_PER_SECOND)
    recall, chance = (average_recall(p, annotations.ground_truth("test"), counts=(20, 100)) for p in (made, random))
    assert recall[0.5][100] > 0.75
    assert recall[0.7][20] > 1.6 * chance[0.7][20], f"{recall}\n{chance}"


def test_proposals_are_sorted_distinct_and_inside_the_video(demo, trained):
    _, features, _, testing = demo
    for i, found in propose_all(propose, trained, features, testing[:10], min_length=2.0).items():
        segments = found.segments_snip
        assert segments.dtype == np.float64 and len(segments) == len(found.score) == len(found.class_idx) > 3
        assert (segments >= 0).all() and (segments <= len(features.read(i))).all() and (np.diff(segments) >= 2).all()
        assert (np.diff(found.score) <= 0).all()
        assert tiou(segments[:, None], segments[None])[~np.eye(len(segments), dtype=bool)].max() <= 0.75
    assert [len(propose(trained, features.read(testing[0]), per_video=n).score) for n in (1, 5)] == [1, 5]


def test_classes_of_training_and_of_test_videos(demo, trained):
    """Known labels are used; without them the probable classes, at least one."""
    features = demo[1].read(demo[3][0])
    known = torch.tensor([0.0, 1, 0, 0, 1, 0])
    assert set(propose(trained, features, known_labels=known).class_idx) == {1, 4}
    unlabelled = propose(trained, features, known_labels=torch.zeros(6))
    assert np.array_equal(unlabelled.segments_snip, propose(trained, features).segments_snip)
    assert len(set(propose(trained, features, threshold_cls=1.0).class_idx)) == 1
    assert len(set(propose(trained, features, threshold_cls=0.0).class_idx)) > 1


def test_no_float64_on_the_device(demo, trained, monkeypatch):
    """MPS has no float64, so tensors are moved to the CPU before they are converted."""
    on_cpu, cpu, double = [], torch.Tensor.cpu, torch.Tensor.double

    def to_cpu(tensor):
        on_cpu.append(cpu(tensor).clone())
        return on_cpu[-1]

    def to_double(tensor):
        assert any(tensor is moved for moved in on_cpu)
        return double(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    monkeypatch.setattr(torch.Tensor, "double", to_double)
    assert len(propose(trained, demo[1].read(0)).score) and on_cpu


def test_a_video_of_one_snippet(demo, trained):
    found = propose(trained, demo[1].read(0)[:1])
    assert found.segments_snip.tolist() == [[0, 1]] and np.isfinite(found.score).all()
    entries = result_entries(found, demo[0].class_names, SNIPPETS_PER_SECOND, 2, 4)
    assert [entry["segment"] for entry in entries] == [[0.0, 0.64]]
    assert entries[0]["label"] == demo[0].class_names[found.class_idx[0]]


def test_the_seed_decides_the_network(demo):
    same, again, other = (torch.cat([p.flatten() for p in train(demo, seed=seed).parameters()]) for seed in (3, 3, 4))
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_an_unlabelled_video_does_not_break_training_and_test_labels_are_not_read(demo):
    labels = torch.from_numpy(demo[0].labels).clone()
    labels[demo[3]] = torch.nan
    labels[demo[2][:3]] = 0
    assert all(p.isfinite().all() for p in train(demo, labels=labels).parameters())


def test_a_loss_that_is_not_finite_stops_with_a_message(demo):
    with pytest.raises(InputError, match=r"epoch 1: .*loss .*finite .*demo_train_"):
        train(demo, labels=torch.full((140, 6), torch.nan))


def test_recall_of_nothing():
    truth = pd.DataFrame([("a", 0.0, 1.0)], columns=["video", "start_sec", "end_sec"])
    assert average_recall({}, truth).loc["all", 0.3] == 0
