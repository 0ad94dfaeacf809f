"""The network's precision, and that training waits for no device."""

import math

import numpy as np
import pytest
import torch
from building import batch_of, criterion, network

import main
from dataset import Video, training_batches
from descriptors import PseudoLabels
from model import Dropout, scores
from runs.inputs import Data


def test_bfloat16_is_near_float32_and_comes_out_as_float32():
    rows = torch.randn(50, 3, 16)
    exact, rounded = (scores(network(precision=dtype), batch_of(rows)) for dtype in (torch.float32, torch.bfloat16))
    for name, value in exact.items():
        assert rounded[name].dtype == value.dtype == torch.float32
        difference = float((rounded[name] - value).abs().max() / value.abs().max())
        assert 1e-5 < difference < 3e-2, name  # rounded, and not by more than eight bits allow


def test_bfloat16_trains_float32_weights():
    model = network(precision=torch.bfloat16)
    sum(value.square().sum() for value in model(batch_of(torch.randn(5, 3, 16))).values()).backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_may_be_kept_in_another_type(kept):
    rows = torch.randn(5, 3, 16).to(kept)
    model = network()
    assert torch.equal(scores(model, batch_of(rows))["fused"], scores(model, batch_of(rows.float()))["fused"])


def test_an_epoch_waits_for_the_device_once():
    """On the meta device nothing has a value, so whatever asks for one, or for how many there are, fails."""
    with torch.device("meta"):
        model = network()
        videos = [
            Video(
                name=f"v{i}",
                labels=torch.ones(3),
                listed=None,
                proposals=torch.ones(size, 2),
                instance_class=np.full(size, -1),
                mean=torch.ones(16),
                variance=torch.ones(16),
                num_snippets=9,
                pooled=torch.ones(size, 3, 16),
                pool=None,
            )
            for i, size in enumerate((5, 1, 8, 30, 2, 2))
        ]
        truths = torch.ones(len(videos), dtype=torch.bool)
        pseudo = PseudoLabels(truths.long(), truths, truths)
    data = Data(annotations=None, truth=None, test=[], train=videos, pseudo=pseudo)
    batches = list(training_batches(videos, 2, 20, torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam(model.parameters())
    steps = [main.training_step(model, batch, data, criterion(), optimizer, 1) for batch in batches]
    assert len(steps) == 3
    assert all(state["step"] == 3 for state in optimizer.state.values())
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        torch.stack(steps).cpu()  # as `Run.end_epoch` reads them


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_dropout_is_that_of_the_ratio(ratio):
    """Each value is dropped with this probability, whatever its neighbours, the rows and other steps."""
    torch.manual_seed(0)
    layer = Dropout(ratio)
    first, second = (layer(torch.ones(1001, 999)).double() for _ in range(2))
    assert first.unique().tolist() == pytest.approx([0, 1 / (1 - ratio)], rel=1e-4)
    kept, spread = 1 - ratio, math.sqrt(ratio * (1 - ratio))
    assert float((first > 0).double().mean()) == pytest.approx(kept, abs=4 * spread / 1000)
    z = ((first > 0).double() - kept) / spread
    others = [z.flatten().roll(i).view_as(z) for i in (1, 2, 3, 4, 999)] + [((second > 0).double() - kept) / spread]
    assert all(abs(float((z * other).mean())) < 5 / 1000 for other in others)


def test_dropout_depends_on_the_seed_alone():
    values, masks = torch.randn(300, 257, requires_grad=True), []
    threads = torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        torch.manual_seed(3)
        masks.append(Dropout(0.5)(values))
    torch.set_num_threads(threads)
    assert torch.equal(*masks) and not torch.equal(Dropout(0.5)(values), masks[0])
    masks[0].sum().backward()
    assert torch.equal(values.grad * values, masks[0])  # the gradient is dropped as the value is


def test_dropout_that_drops_nothing():
    values = torch.randn(5, 7)
    assert Dropout(0.0)(values) is values and Dropout(0.5).eval()(values) is values
    assert Dropout(0.5)(values.bfloat16()).dtype == torch.bfloat16
