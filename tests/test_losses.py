"""Properties and hand-computed values of the loss terms."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from building import batch_of, criterion, network
from operations import Operations
from torch.autograd import gradcheck

import losses
import main
from descriptors import PseudoLabels
from losses import multiple_instance_loss, process_consistency_loss, semantic_consistency_loss, similar_modality_loss

PC = {"gamma": 0.8, "weight_distance": 0.6, "weight_penalty": 9.0}


def batch(sizes, num_class=3, width=4, seed=0):
    """Random outputs, proposals, labels and pseudo-labels for videos of the given sizes, float64."""
    rng = torch.Generator().manual_seed(seed)
    n, b = sum(sizes), len(sizes)

    def rand(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    outputs = {
        "class_logits": rand(n, num_class + 1),
        "attention_logits": rand(n),
        "completeness_logits": rand(n),
        "fused": rand(n, width),
    }
    start = 10 * torch.rand(n, generator=rng, dtype=torch.float64)
    proposals = torch.stack([start, start + 1 + 5 * torch.rand(n, generator=rng, dtype=torch.float64)], dim=1)
    labels = torch.eye(num_class, dtype=torch.float64)[torch.arange(b) % num_class]
    pseudo = (torch.arange(b) % num_class, torch.arange(b) % 2 == 0, torch.arange(b) % 2 == 1)
    return outputs, proposals, labels, pseudo


def loss(outputs, proposals, sizes, labels, pseudo, epoch=5, **options):
    whole = batch_of(sizes=sizes, proposals=proposals, labels=labels)
    return criterion(**options)(outputs, whole, PseudoLabels(*pseudo), epoch)


def test_mil_by_hand():
    logits = torch.tensor([[4.0, 0.0, 1.0], [2.0, 6.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    # k = 4 // 2 = 2: the means of the two largest are 3, 3, 1.
    target = torch.tensor([1.0, 0.0, 1.0]) / (2 + 1e-4)
    expected = -(target * torch.tensor([3.0, 3.0, 1.0]).log_softmax(0)).sum()
    found = multiple_instance_loss(logits, [4], torch.tensor([[1.0, 0.0]]), background=1.0, topk_divisor=2)
    assert float(found) == pytest.approx(float(expected))


def test_mil_of_a_video_without_label():
    """Its target is the background alone, and in the suppressed branch nothing at all."""
    logits = torch.zeros(2, 3)
    labels = torch.zeros(1, 2)
    assert float(multiple_instance_loss(logits, [2], labels, background=1.0, topk_divisor=8)) == pytest.approx(
        math.log(3), rel=1e-3
    )
    assert float(multiple_instance_loss(logits, [2], labels, background=0.0, topk_divisor=8)) == 0


def test_sme_by_hand():
    logits = torch.zeros(3, 3)  # softmax without background: 1/2, 1/2
    error = ((0.5 - 1) ** 2 + 0.5**2) / 2
    labels = torch.tensor([0, 1])
    yes, no = torch.tensor([True, False]), torch.tensor([False, True])
    assert float(similar_modality_loss(logits, [1, 2], labels, yes, no, partial_weight=0.4)) == pytest.approx(
        1.4 * error
    )


@pytest.mark.parametrize("consistent", [True, False])
def test_sme_without_consistent_or_partial_videos(consistent):
    """The release is NaN here."""
    logits = torch.randn(4, 3, requires_grad=True)
    all_, none = torch.tensor([True, True]), torch.tensor([False, False])
    masks = (all_, none) if consistent else (none, none)
    value = similar_modality_loss(logits, [2, 2], torch.tensor([0, 1]), *masks, partial_weight=0.5)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert (value > 0) == consistent


def test_pc_by_hand():
    # The first proposal is the only pseudo-instance, [0, 10] with centre 5. The second, [0, 4], overlaps it by 4;
    # the third misses it and is not kept.
    proposals = torch.tensor([[0.0, 10.0], [0.0, 4.0], [20.0, 30.0]])
    a, u = torch.tensor([1.0, 0.5, 0.5]), torch.tensor([0.5, 0.25, 0.9])

    def smooth_l1(x):
        return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5

    # overlap / 2 * u + (min start + max start) / 2, against 5: 5u for the first, 2u for the second
    center = {
        "matched": smooth_l1(5 * 0.5 - 5) + smooth_l1(2 * 0.25 - 5),
        "all_pairs": sum(smooth_l1(5 * u_i - 5) + smooth_l1(2 * u_i - 5) for u_i in (0.5, 0.25)),
    }
    distance = smooth_l1(abs(2 - 5) / 4)
    penalty = 1 - 0.25  # 4 of 10 is less than half
    for reading, value in center.items():
        found = process_consistency_loss(a, u, proposals, [3], center=reading, **PC)
        assert float(found) == pytest.approx((0.01 * value + 0.6 * distance + 9 * penalty) / 2)


def test_pc_counts_over_the_batch_but_pairs_within_a_video():
    outputs, proposals, _, _ = batch([4, 6])
    a, u = outputs["attention_logits"].sigmoid(), outputs["completeness_logits"].sigmoid()
    one = [process_consistency_loss(a[s], u[s], proposals[s], [len(a[s])], **PC) for s in (slice(4), slice(4, 10))]
    both = process_consistency_loss(a, u, proposals, [4, 6], **PC)
    # Recover how many proposals each video keeps: those that overlap one of its pseudo-instances.
    kept = []
    for s in (slice(4), slice(4, 10)):
        stars = proposals[s][a[s] >= 0.8 * a[s].max()]
        meets = (proposals[s][:, None, 1] > stars[None, :, 0]) & (proposals[s][:, None, 0] < stars[None, :, 1])
        kept.append(int(meets.any(1).sum()))
    assert float(both) == pytest.approx(float(sum(k * x for k, x in zip(kept, one, strict=True)) / sum(kept)))


def test_pc_is_zero_when_nothing_is_kept():
    u = torch.tensor([0.3], requires_grad=True)
    value = process_consistency_loss(torch.tensor([0.9]), u, torch.zeros(1, 2), [1], **PC)  # the proposal [0, 0]
    assert float(value.detach()) == 0


def test_pc_of_values_that_are_not_finite_is_not_finite_either():
    """The training loop finds it after the epoch and names the videos; here it must not stop the program."""
    nan = torch.full((3,), torch.nan)
    proposals = torch.tensor([[0.0, 10.0], [0.0, 4.0], [20.0, 30.0]])
    assert not process_consistency_loss(nan, nan, proposals, [3], **PC).isfinite()


def test_sc_by_hand():
    logits = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    fused = torch.tensor([[0.0, 0.0], [6.0, 8.0], [50.0, 50.0]])
    attention = torch.ones(3)  # a·x = x: the MSE part is zero
    labels = torch.tensor([[1.0, 1.0]])  # two labels: the first in class order counts
    value = semantic_consistency_loss(logits, attention, fused, [3], labels, distance_weight=0.5)
    assert float(value) == pytest.approx(0.5 * 5.0)  # both lie 5 from their mean (3, 4)
    none = torch.tensor([[0.0, 0.0]])
    assert float(semantic_consistency_loss(logits, attention, fused, [3], none, distance_weight=0.5)) == 0


def test_sc_gradient_of_a_lone_proposal_is_finite():
    fused = torch.randn(1, 4, requires_grad=True)  # its distance to its own mean is zero
    semantic_consistency_loss(
        torch.tensor([[9.0, 0.0]]), torch.ones(1), fused, [1], torch.ones(1, 1), distance_weight=1.0
    ).backward()
    assert (fused.grad == 0).all()


@pytest.mark.parametrize("center", ["all_pairs", "matched"])
def test_gradients_against_finite_differences(center):
    sizes = [9, 1, 5]
    outputs, proposals, labels, pseudo = batch(sizes)
    names = list(outputs)

    def total(*values):
        return loss(dict(zip(names, values, strict=True)), proposals, sizes, labels, pseudo, pc_center=center)[
            "loss_total"
        ]

    # The pseudo-instances are chosen by attention and get no gradient: the choice is constant nearby.
    assert gradcheck(total, [outputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("term", ["loss_prop_mil_orig", "loss_prop_mil_supp", "SME_loss", "PC_loss", "SC_loss"])
def test_order_does_not_matter(term):
    """Permuting the proposals of a video, or the videos of a batch, leaves every term as it is."""
    sizes = [5, 8]
    outputs, proposals, labels, pseudo = batch(sizes)
    value = loss(outputs, proposals, sizes, labels, pseudo)[term]
    rng = torch.Generator().manual_seed(0)
    within = torch.cat([torch.randperm(5, generator=rng), 5 + torch.randperm(8, generator=rng)])
    swapped = torch.cat([torch.arange(5, 13), torch.arange(5)])
    for order, videos in ((within, [0, 1]), (swapped, [1, 0])):
        permuted = loss(
            {name: x[order] for name, x in outputs.items()},
            proposals[order],
            [sizes[i] for i in videos],
            labels[videos],
            tuple(field[videos] for field in pseudo),
        )[term]
        assert float(permuted) == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize("sizes", [[1], [1, 1], [1, 40]])
def test_videos_of_one_proposal(sizes):
    outputs, proposals, labels, pseudo = batch(sizes)
    for value in outputs.values():
        value.requires_grad_()
    terms = loss(outputs, proposals, sizes, labels, pseudo)
    terms["loss_total"].backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(value.grad.isfinite().all() for value in outputs.values())


def test_gradients_are_the_same_every_time_on_two_threads():
    """No sum is formed in an order that the threads decide."""
    sizes = [600]  # one video, so that both threads would add to the same row
    outputs, proposals, labels, pseudo = batch(sizes, width=256)
    outputs["class_logits"][:, 0] += 9  # every proposal is predicted as class 0 …
    labels[:, 0] = 1  # … which is every video's first label, so that all take part in SC
    outputs = {name: value.float().requires_grad_() for name, value in outputs.items()}
    seen = set()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(30):
            total = loss(outputs, proposals.float(), sizes, labels.float(), pseudo)["loss_total"]
            gradients = torch.autograd.grad(total, list(outputs.values()))
            seen.add(b"".join(gradient.numpy().tobytes() for gradient in gradients))
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 1


def test_total_is_the_weighted_sum():
    sizes = [5, 8]
    for epoch in (1, 70, 71, 160, 161):
        terms = loss(*batch(sizes)[:2], sizes, *batch(sizes)[2:], epoch=epoch)
        expected = sum(weight * terms[name] for name, weight in criterion().weights(epoch).items())
        assert float(terms["loss_total"]) == pytest.approx(float(expected))
    assert criterion().weights(71)["SC_loss"] == criterion().weights(161)["SME_loss"] == 0


@pytest.mark.parametrize("center", ["all_pairs", "matched"])
def test_pc_takes_pairs_in_chunks(center, monkeypatch):
    """The number of pairs at a time bounds memory, and changes nothing."""
    found = []
    for pairs in (1 << 22, 100, 1):
        monkeypatch.setattr(losses, "PAIRS_AT_A_TIME", pairs)
        outputs, proposals, _, _ = batch([30, 1, 12])
        proposals[3] = 500.0  # overlaps nothing, not even itself
        u = outputs["completeness_logits"].sigmoid().requires_grad_()
        value = process_consistency_loss(
            (4 * outputs["attention_logits"]).sigmoid(), u, proposals, [30, 1, 12], center=center, **PC
        )
        found.append((value.detach(), *torch.autograd.grad(value, u)))
    assert found[0][1][3] == 0 and (found[0][1] != 0).any()
    for chunked in found[1:]:
        for whole, part in zip(found[0], chunked, strict=True):
            torch.testing.assert_close(whole, part, rtol=1e-12, atol=1e-12)


def test_smooth_l1_of_pairs_is_the_sum_over_pairs():
    rng = torch.Generator().manual_seed(0)
    u, slope, offset = (3 * torch.randn(12, generator=rng, dtype=torch.float64) for _ in range(3))
    u.requires_grad_()
    plain = [
        F.smooth_l1_loss(slope[s] * u[i] + offset[s], torch.zeros(len(slope[s])).double(), reduction="sum")
        for s in (slice(0, 7), slice(7, 8), slice(8, 12))
        for i in range(s.start, s.stop)
    ]
    found = losses.smooth_l1_of_pairs(u, slope, offset, [7, 1, 4])
    torch.testing.assert_close(found, torch.stack(plain), rtol=1e-12, atol=1e-12)
    weights = torch.randn(12, generator=rng, dtype=torch.float64)
    of_plain, of_found = (torch.autograd.grad(weights @ x, u)[0] for x in (torch.stack(plain), found))
    torch.testing.assert_close(of_found, of_plain, rtol=1e-12, atol=1e-12)


def test_reductions_of_each_video():
    values, sizes = torch.tensor([[1.0, 8], [3, 2], [2, 4], [-5, 7]]), [3, 1]
    assert losses.padded(values, sizes, 0).tolist() == [[[1, 8], [3, 2], [2, 4]], [[-5, 7], [0, 0], [0, 0]]]
    assert losses.of_each_row(torch.tensor([4, 6]), sizes).tolist() == [4, 4, 4, 6]
    torch.testing.assert_close(losses.per_video_mean(values, sizes), torch.tensor([[2, 14 / 3], [-5, 7]]))
    mask = torch.tensor([True, False, True, False])
    assert losses.per_video_mean(values, sizes, mask).tolist() == [[1.5, 6], [0, 0]]
    strongest = losses.mean_of_strongest(values, sizes, [1, 2])
    torch.testing.assert_close(strongest, torch.tensor([[[2, 14 / 3], [-5, 7]], [[3, 8], [-5, 7]]]))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_takes_as_many_operations_for_a_large_batch_as_for_a_small_one(precision):
    """A GPU is given at most 400 things to do in a step, whatever the batch."""
    rng = torch.Generator().manual_seed(0)
    counts = {}
    for num_videos in (2, 10, 32, 64):
        sizes = torch.randint(1, 60, (num_videos,), generator=rng).tolist()
        _, proposals, labels, pseudo = batch(sizes, num_class=20)
        data = SimpleNamespace(pseudo_of=lambda whole, pseudo=pseudo: PseudoLabels(*pseudo).select(whole.videos))
        whole = batch_of(torch.randn(sum(sizes), 3, 8, generator=rng), sizes, proposals.float(), labels.float())
        model = network(feature_size=8, num_class=20, precision=precision)
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        main.training_step(model, whole, data, criterion(), optimizer, 1)  # makes the optimizer's state
        losses._rows_of.cache_clear()
        with Operations() as operations:
            main.training_step(model, whole, data, criterion(), optimizer, 1)
        counts[num_videos] = operations.total
    assert max(counts.values()) <= 400 and max(counts.values()) <= 1.05 * min(counts.values()), counts
