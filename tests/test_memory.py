"""The memory that a step takes is estimated from above, and not much above."""

import pytest
import torch
from building import batch_of, criterion, network
from torch.profiler import ProfilerActivity, profile

import main
from dataset import ROWS_AT_A_TIME
from descriptors import PseudoLabels
from model import NetworkSettings, scores
from options import parse_options
from runs.inputs import Data
from runs.memory import LIBRARIES, pass_memory, step_memory


def peak_memory(run):
    """The bytes that tensors take at most while something runs, beside those that there are before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(changes.cumsum(0).max())


@pytest.mark.parametrize(
    ("sizes", "width", "settings"),
    [
        ([150, 20, 90, 100], 256, {"dropout_ratio": 0.5}),
        ([50, 40] * 20, 256, {"dropout_ratio": 0.5}),
        ([150, 20, 90, 100], 256, {"precision": torch.bfloat16}),
        ([150, 120, 190, 100], 256, {"standardise": True, "hidden_size": 64}),
    ],
)
def test_estimates_of_memory(sizes, width, settings):
    """What libraries take is seen by no tensor, so it is left out of the comparison."""
    settings = NetworkSettings(width, 3, **settings)
    of_rows = torch.float32 if settings.standardise else settings.precision
    videos, num_rows = len(sizes), sum(sizes)
    generator = torch.Generator().manual_seed(0)
    start = 100 * torch.rand(num_rows, 1, generator=generator)
    proposals = torch.cat([start, start + 30 * torch.rand(num_rows, 1, generator=generator)], 1)
    index, labels = torch.arange(videos) % 3, torch.eye(3)[torch.arange(videos) % 3]
    pseudo = PseudoLabels(index, index >= 0, index < 0)
    data = Data(annotations=None, truth=None, test=[], train=[], pseudo=pseudo)
    terms = criterion()

    def batch():
        return batch_of(torch.ones(num_rows, 3, width, dtype=of_rows), sizes, proposals, labels)

    def train():
        model = network(**vars(settings))
        optimizer = main.build_optimizer(parse_options([]), model)
        for _ in range(2):
            ahead = batch()
            main.training_step(model, batch(), data, terms, optimizer, 1)
            del ahead

    def test():
        model, ahead = network(**vars(settings)), batch()
        scores(model, batch())
        del ahead

    most = {"batch_size": videos, "max_proposal": 3000}
    for run, estimate in ((train, step_memory(settings, sizes, **most)), (test, pass_memory(settings, sizes))):
        taken = peak_memory(run)
        assert taken <= estimate - LIBRARIES <= 2 * taken, (run.__name__, taken)


def test_only_the_largest_step_counts():
    settings, most = NetworkSettings(16, 3), {"batch_size": 2, "max_proposal": 10}
    assert step_memory(settings, [1, 9, 3, 50], **most) == step_memory(settings, [10, 9], **most)
    assert pass_memory(settings, [ROWS_AT_A_TIME] * 9) == pass_memory(settings, [ROWS_AT_A_TIME] * 2)
