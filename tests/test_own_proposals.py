"""Proposals of `--recipe own`: the loss at several scales, how long it trains, the segments, and all together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losses import MIL_SCALES, multi_scale_logits
from prepare.activation_segments import SHIFTS, outer_inner_contrast, shifted_segments
from prepare.own_proposals import (
    LEAST_SCORE,
    MOST_EPOCHS,
    MOST_STEPS,
    ensemble_loss,
    for_epochs,
    mean_and_scale,
    propose,
    train_network,
    until_settled,
)
from prepare.snippet_network import SnippetEnsemble
from prepare.snippet_proposals import RECIPES, propose_all, result_entries
from proposals import Proposals, tiou
from utils import InputError

CPU = torch.device("cpu")
T, WIDTH = 12, 6
START, END = 4, 8  # of the action in each toy video


class Toy:
    """Twelve-snippet videos, two classes: class c is seen in feature c, from snippet 4 to 8. The last is unlabelled."""

    def __init__(self, num_videos: int = 24) -> None:
        rng = np.random.default_rng(0)
        self.videos = [f"toy_{i}" for i in range(num_videos)]
        self.rows = rng.normal(5, 0.3, (num_videos, T, WIDTH)).astype(np.float32)
        self.labels = torch.zeros(num_videos, 2)
        for i in range(num_videos - 1):
            self.rows[i, START:END, i % 2] += 4
            self.labels[i, i % 2] = 1

    feature_size = WIDTH

    def read_again(self, i: int) -> torch.Tensor:
        return torch.from_numpy(self.rows[i])

    def where(self, i: int) -> str:
        return f"{self.videos[i]}.npy"


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


def train(toy: Toy, epochs: int = 60, **options) -> SnippetEnsemble:
    return train_network(toy, range(16), toy.labels, device=CPU, epochs=epochs, hidden=8, **options)


@pytest.fixture(scope="module")
def trained(toy) -> SnippetEnsemble:
    return train(toy)


# ------------------------------------------------------------------------------------------ the network


def ensemble(**options) -> SnippetEnsemble:
    torch.manual_seed(0)
    return SnippetEnsemble(np.full(WIDTH, 0.5), 2.0, num_class=2, hidden=4, **options)


def test_batched_equals_one_by_one():
    network, videos = ensemble().eval(), [torch.randn(size, WIDTH) for size in (5, 1, 12, 2)]
    batched = network(torch.cat(videos), [5, 1, 12, 2])
    assert batched.shape == (20, 3, 2)
    torch.testing.assert_close(batched, torch.cat([network(video, [len(video)]) for video in videos]))
    changed = videos[2].clone()
    changed[6] += 1
    reached = (network(changed, [12]) != network(videos[2], [12])).flatten(1).any(1)
    assert reached.tolist() == [4 <= t <= 8 for t in range(12)]  # through two convolutions over three snippets


def test_networks_side_by_side_are_independent():
    """Each is trained as if it were alone: the loss of one has no gradient in the others."""
    network = ensemble(dropout_ratio=0.0)
    logits = network(torch.randn(9, WIDTH), [4, 5])
    ensemble_loss(logits[:, 1:2], [4, 5], torch.eye(2)).backward()
    for layer in (network.first, network.second, network.classifier):
        assert [own.weight.grad is not None and bool(own.weight.grad.any()) for own in layer] == [False, True, False]
    alone = [ensemble_loss(logits[:, e : e + 1], [4, 5], torch.eye(2)) for e in range(3)]
    torch.testing.assert_close(ensemble_loss(logits, [4, 5], torch.eye(2)), sum(alone))
    assert len({loss.item() for loss in alone}) == 3


def test_dropout_keeps_the_mean():
    network, rows = ensemble(dropout_ratio=0.3), torch.randn(1, WIDTH).expand(9000, -1)  # a video that stands still
    for parameter in network.second.parameters():
        torch.nn.init.constant_(parameter, 0.1)  # none negative, so that its ReLU is linear
    with torch.no_grad():
        drawn, expected = network(rows, [9000])[2:-2], network.eval()(rows, [9000])[4500]
    assert (drawn.std(0) > 0.01).all()
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.01, rtol=0.01)


def test_mean_and_scale(toy):
    """As of all snippets of the training videos at once, and also where deviations are small beside the mean."""
    rows = toy.rows[:16].reshape(-1, WIDTH).astype(np.float64)
    mean, scale = mean_and_scale(toy, range(16))
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(scale, np.sqrt(rows.var(0).mean()))
    flat = Toy()
    flat.rows[:] = 7
    assert mean_and_scale(flat, range(16))[1] == 1  # which divides


# --------------------------------------------------------------------------------------------- the loss


def test_loss_is_that_written_out():
    logits, labels = torch.randn(40, 3, 2), torch.tensor([[1.0, 0], [0, 0], [1, 1]])
    sizes = [33, 1, 6]
    expected = 0.0
    for x, y in zip(logits.split(sizes), labels, strict=True):
        for scale in (1, 2, 4, 8, 16):
            for member in range(3):
                for c in range(2):
                    highest = sorted(x[:, member, c].tolist(), reverse=True)[: max(1, len(x) // scale)]
                    logit = torch.tensor(sum(highest) / len(highest))
                    expected += -float(F.logsigmoid(logit if y[c] else -logit)) / (3 * 5 * 2)
    assert float(ensemble_loss(logits, sizes, labels)) == pytest.approx(expected, rel=1e-5)


def test_scores_of_a_video_at_each_scale():
    means = multi_scale_logits(torch.arange(16.0)[:, None], [16])
    assert means.shape == (len(MIL_SCALES), 1, 1)
    assert means.flatten().tolist() == [7.5, 11.5, 13.5, 14.5, 15]


# ------------------------------------------------------------------------------------------- how long


@pytest.mark.parametrize(
    "loss_at, steps_of_epoch, full",
    [
        (lambda step: 1.0, 7, 200),
        (lambda step: 0.99**step + 2, 7, 300),
        (lambda step: 0.99**step, 7, MOST_STEPS),
        (lambda step: 0.99**step, 112, MOST_EPOCHS * 112),
    ],
)
def test_training_ends_when_the_loss_has_settled(loss_at, steps_of_epoch, full):
    losses, given = [], []
    for rates in until_settled(losses, steps_of_epoch):
        losses += [loss_at(len(losses) + i) for i in range(len(rates))]
        given += rates
    assert given[:full] == [1.0] * full
    assert len(given) == full * 3 // 2
    assert given[full:] == pytest.approx(np.linspace(1, 0, full // 2 + 1)[:-1])


@pytest.mark.parametrize("epochs, steps", [(1, 2), (3, 7)])
def test_training_for_epochs(epochs, steps):
    (rates,) = for_epochs([], steps, epochs)
    assert len(rates) == epochs * steps
    assert rates[0] == 1 and (np.diff(rates) <= 0).all() and min(rates) > 0


# ----------------------------------------------------------------------------------------- the segments


def test_contrast_within_the_video():
    sequence = np.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    cells = np.array([[0, 4], [0, 8], [4, 8]])
    assert outer_inner_contrast(sequence, cells, within=True).tolist() == [1, 0.5, -1]
    assert outer_inner_contrast(sequence, cells).tolist() == [1, 0.5, -0.5]


def test_segments_of_one_action():
    sequence = np.zeros(40)
    sequence[10:20] = 1
    segments, contrast = shifted_segments(sequence)
    assert len(segments) == len(np.unique(segments, axis=0)) == len(contrast)
    best = segments[contrast.argmax()]
    assert tiou(best, np.array([10.0, 20.0])) > 0.9
    for start, end in SHIFTS:  # each shift of the run is there, to a cell
        moved = np.array([10 + 10 * start, 20 + 10 * end])
        assert np.abs(segments - moved).max(1).min() <= 0.5


@pytest.mark.parametrize("length", [1, 2, 3, 12])
def test_segments_stay_within_the_video(length):
    rng = np.random.default_rng(length)
    for sequence in (rng.random(length), np.zeros(length), np.ones(length), np.eye(length)[-1]):
        segments, contrast = shifted_segments(sequence)
        assert (segments >= 0).all() and (segments <= length).all() and (np.diff(segments) >= 1).all()
        assert len(segments) and np.isfinite(contrast).all()


# ------------------------------------------------------------------------------------------ all together


def test_it_finds_the_action(toy, trained):
    found = propose_all(propose, trained, toy, range(16, 23))
    for i, proposals in found.items():
        assert proposals.class_idx[0] == i % 2
        assert tiou(proposals.segments_snip[:3], np.array([START, END])).max() >= 0.5


def test_proposals_are_sorted_distinct_and_positive(toy, trained):
    for found in propose_all(propose, trained, toy, range(24), threshold_cls=0.0).values():
        assert set(found.class_idx) == {0, 1}
        assert (found.score >= LEAST_SCORE).all() and (np.diff(found.score) <= 0).all()
        for c in (0, 1):
            segments = found.segments_snip[found.class_idx == c]
            assert tiou(segments[:, None], segments[None])[~np.eye(len(segments), dtype=bool)].max() <= 0.75
    few = propose(trained, toy.read_again(16), per_video=3)
    assert np.array_equal(few.segments_snip, propose(trained, toy.read_again(16)).segments_snip[:3])


def test_classes_of_a_training_video_are_the_probable_and_the_known(toy, trained):
    rows = toy.read_again(16)  # shows class 0
    assert set(propose(trained, rows, threshold_cls=1.0).class_idx) == {0}  # the most probable
    both = propose(trained, rows, threshold_cls=1.0, known_labels=torch.tensor([0.0, 1.0]))
    assert set(both.class_idx) == {0, 1}


def test_the_seed_decides(toy):
    same, again, other = (
        torch.cat([p.flatten() for p in train(toy, epochs=1, seed=seed).parameters()]) for seed in (3, 3, 4)
    )
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_labels_of_test_videos_are_not_read(toy):
    labels = toy.labels.clone()
    labels[16:] = torch.nan
    network = train_network(toy, range(16), labels, device=CPU, epochs=2, hidden=8)
    for before, after in zip(train(toy, epochs=2).parameters(), network.parameters(), strict=True):
        assert torch.equal(before, after)


def test_outputs_that_are_not_finite_stop_with_a_message(toy, trained):
    broken = Toy(2)
    broken.rows[1] = 3e38 * np.sign(broken.rows[1] - 5)
    with pytest.raises(InputError, match=r"toy_1\.npy: video toy_1: .*finite"):
        propose_all(propose, trained, broken, [0, 1])


def test_times_are_rounded_by_less_than_a_hundredth_of_a_snippet():
    found = Proposals(np.array([[1 / 3, 2 / 3]]), np.array([0.1234567]), np.array([0]))
    for rate in (0.5, 25 / 16, 10.0, 120.0):
        (entry,) = result_entries(found, ["a"], rate, *RECIPES["own"].decimals(rate))
        assert np.abs(np.array(entry["segment"]) * rate - found.segments_snip).max() <= 0.01
        assert entry["score"] == 0.123457
