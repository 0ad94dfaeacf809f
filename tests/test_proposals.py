"""Units, tIoU, proposal files and RoI pooling."""

import json

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dataset import read_proposals
from proposals import SNIPPETS_PER_SECOND, roi_align, roi_pool, seconds_to_snippets, snippets_to_seconds, tiou
from utils import InputError


def test_units():
    assert seconds_to_snippets([[0.64, 1.0]], SNIPPETS_PER_SECOND).tolist() == [[1.0, 1.56]]
    assert snippets_to_seconds(np.array([[1.0, 25.0]]), SNIPPETS_PER_SECOND).tolist() == [[0.64, 16.0]]
    assert seconds_to_snippets([], SNIPPETS_PER_SECOND).shape == (0, 2)
    assert seconds_to_snippets([[0.0032, 0.0096]], SNIPPETS_PER_SECOND).tolist() == [
        [0.01, 0.01]
    ]  # Python's round, on float64


def test_snippets_to_seconds_and_back():
    """Every hundredth of a snippet comes back to the bit; the product is formed in the order of SPEC section 10."""
    snippets = np.arange(300_000) / 100
    seconds = snippets_to_seconds(snippets, SNIPPETS_PER_SECOND)
    assert (seconds == snippets * 16 / 25).all()
    assert ((seconds * 25 / 16).round(2) == snippets).all()


def test_tiou_by_hand_in_numpy_and_torch():
    a = np.array([[0.0, 4.0], [0.0, 4.0], [0.0, 4.0], [3.0, 3.0]])
    b = np.array([[2.0, 6.0], [4.0, 6.0], [5.0, 6.0], [3.0, 3.0]])
    assert tiou(a, b).tolist() == [2 / 6, 0, 0, 0]
    assert tiou(a, b, closed=True).tolist() == [3 / 7, 1 / 7, 0, 1]
    assert tiou(a, b, epsilon=1.0).tolist() == [2 / 7, 0, 0, 0]
    assert tiou(torch.tensor(a), torch.tensor(b), closed=True).tolist() == [3 / 7, 1 / 7, 0, 1]
    assert tiou(a[:, None], b[None]).shape == (4, 4)


def test_roi_of_a_constant_sequence():
    """Well inside the video every bin reads the constant, so context minus inside is zero."""
    pooled = roi_pool(torch.full((100, 4), 3.0), torch.tensor([[40.0, 60.0]], dtype=torch.float64))
    assert torch.allclose(pooled[0, 1], torch.tensor(3.0)) and torch.allclose(
        pooled[0, [0, 2]], torch.tensor(0.0), atol=1e-5
    )


def test_roi_reads_zero_outside_the_video():
    """The context of a proposal over the whole video is zero, and so is a proposal outside the video."""
    features = torch.ones(20, 1)
    bins = roi_align(features, torch.tensor([[0.0, 20.0], [30.0, 50.0], [-40.0, -20.0]], dtype=torch.float64))[..., 0]
    assert bins[0, 0] < 0.2 and bins[0, 11] < 0.2 and torch.allclose(bins[0, 3:9], torch.tensor(1.0))
    assert (bins[1:] == 0).all()


def test_roi_align_against_its_definition():
    """Sample by sample, in plain Python."""
    rng = np.random.default_rng(0)
    features = rng.random((30, 3))
    segments = np.array([[0.0, 0.0], [2.37, 4.9], [5.0, 29.0], [28.0, 35.5], [0.0, 60.0]])
    found = roi_align(torch.from_numpy(features), torch.from_numpy(segments)).numpy()

    def read(y):
        low = int(np.floor(y))
        inside = [features[i] if 0 <= i < 30 else np.zeros(3) for i in (low, low + 1)]
        return (1 - (y - low)) * inside[0] + (y - low) * inside[1]

    for segment, bins in zip(segments, found, strict=True):
        length = segment[1] - segment[0]
        start, end = segment[0] - length / 4 - 0.5, segment[1] + length / 4 - 0.5
        width = max(end - start, 1) / 12
        n = int(np.ceil(width))
        for r in range(12):
            expected = np.mean([read(start + r * width + (k + 0.5) * width / n) for k in range(n)], axis=0)
            assert bins[r] == pytest.approx(expected, abs=1e-12)


def test_roi_pool_in_chunks_and_any_order():
    rng = torch.Generator().manual_seed(0)
    features = torch.rand(50, 6, generator=rng)
    start = 40 * torch.rand(23, generator=rng, dtype=torch.float64)
    segments = torch.stack([start, start + 20 * torch.rand(23, generator=rng, dtype=torch.float64)], dim=1)
    whole = roi_pool(features, segments)
    assert torch.equal(roi_pool(features, segments, most=5 * 12 * 6), whole)
    order = torch.randperm(23, generator=rng)
    assert torch.equal(roi_pool(features, segments[order]), whole[order])


def invented(num_videos, proposals_each, rng, width=6):
    """The features of some videos, and proposals of each, some of which begin before it or end after it."""
    features = [torch.randn(10 + 7 * i, width, generator=rng) for i in range(num_videos)]
    start = 70 * torch.rand(num_videos, proposals_each, generator=rng, dtype=torch.float64) - 10
    length = 30 * torch.rand(num_videos, proposals_each, generator=rng, dtype=torch.float64)
    return features, list(torch.stack([start, start + length], dim=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_videos_pooled_together_are_those_pooled_alone(dtype):
    """None reads what is next to it, and the bytes are the same."""
    features, segments = invented(4, 9, torch.Generator().manual_seed(0))
    alone = torch.cat([roi_pool(f, s) for f, s in zip(features, segments, strict=True)]).to(dtype)
    together = torch.empty(36, 3, 6, dtype=dtype)
    lengths, sizes = ([len(x) for x in of_videos] for of_videos in (features, segments))
    found = roi_pool(torch.cat(features), torch.cat(segments), lengths=lengths, sizes=sizes, out=together)
    assert found is together and torch.equal(together, alone)


class OnMeta(TorchDispatchMode):
    """Lists the operations whose result is on PyTorch's meta device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        some = result[0] if isinstance(result, (tuple, list)) else result
        self.names += [function.name()] if getattr(some, "is_meta", False) else []
        return result


def test_pooling_takes_as_many_device_operations_for_many_proposals_as_for_one():
    """PyTorch's meta device stands for any but the CPU: it has shapes, and no numbers."""

    def operations(num_videos, proposals_each):
        features, segments = invented(num_videos, proposals_each, torch.Generator().manual_seed(0))
        lengths, sizes = ([len(x) for x in of_videos] for of_videos in (features, segments))
        with OnMeta() as counted:
            pooled = roi_pool(torch.cat(features).to("meta"), torch.cat(segments), lengths=lengths, sizes=sizes)
        assert pooled.device.type == "meta" and pooled.shape == (num_videos * proposals_each, 3, 6)
        return counted.names

    assert len(operations(1, 1)) == len(operations(20, 100)) <= 30


def write(path, results):
    path.write_text(json.dumps({"results": results}))
    return path


def test_read_proposals(tmp_path):
    entries = [
        {"segment": [0.64, 1.28], "label": "y", "score": 1},
        {"segment": [0.64, 1.28], "label": "x", "score": 0.25},
        {"segment": [0, 1.28], "label": "unknown", "score": None},
        {"segment": [0, "0.64"], "label": " x", "score": "1"},
        {"segment": [0, 0.64]},
    ]
    path = write(tmp_path / "p.json", {"a": entries, "b": [], "c": []})
    found = read_proposals(path, ["b", "a"], SNIPPETS_PER_SECOND, class_names=["x", "y"])
    assert list(found) == ["b", "a"] and len(found["a"]) == 5
    assert found["a"].segments_snip.tolist() == [[1, 2], [1, 2], [0, 2], [0, 1], [0, 1]]  # also the repeated one
    assert found["a"].score == pytest.approx([1, 0.25, np.nan, 1, np.nan], nan_ok=True)
    assert found["a"].class_idx.tolist() == [1, 0, -1, 0, -1]
    assert found["b"].segments_snip.tolist() == [[0.0, 0.0]]  # a video without proposals
    assert np.isnan(found["b"].score).all() and found["b"].class_idx.tolist() == [-1]


def test_missing_videos(tmp_path):
    path = write(tmp_path / "p.json", {"a": []})
    with pytest.raises(InputError, match=r"p.json: 2 of 3 .*: b, c; .*--missing_proposals empty"):
        read_proposals(path, ["a", "b", "c"], SNIPPETS_PER_SECOND)
    found = read_proposals(path, ["a", "b"], SNIPPETS_PER_SECOND, missing="empty")
    assert found["a"].segments_snip.tolist() == found["b"].segments_snip.tolist() == [[0.0, 0.0]]
    with pytest.raises(InputError, match=r"p.json: none .*2 videos .*: a; check whose"):
        read_proposals(path, ["b", "c"], SNIPPETS_PER_SECOND, missing="empty")


BAD_TIMES = [float("nan"), float("inf"), 10**400, None, True, "one"]


@pytest.mark.parametrize("segment", [[1], [1, 2, 3], [2, 1], None, *([0, time] for time in BAD_TIMES)])
def test_bad_segments_name_the_video(tmp_path, segment):
    path = write(tmp_path / "p.json", {"good": [], "bad": [{"segment": segment}]})
    with pytest.raises(InputError, match=r"p.json: video bad: .*segment"):
        read_proposals(path, ["good"], SNIPPETS_PER_SECOND)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"results": []}', '{"results": {"a": {}}}', "[" * 100_000])
def test_broken_files(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"p.json"):
        read_proposals(tmp_path / "p.json", ["a"], SNIPPETS_PER_SECOND)
