"""Small networks, criteria and batches for tests."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import main
from dataset import Batch, batch_instances
from losses import Criterion
from model import NetworkSettings, build_network
from options import parse_options
from proposals import Proposals


def criterion(**options: object) -> Criterion:
    """The criterion with the default options, but for those given."""
    settings = parse_options([])
    vars(settings).update(options)
    return main.build_criterion(settings)


def network(feature_size: int = 16, num_class: int = 3, **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkSettings(feature_size, num_class, **settings))


def proposals_of(segments_snip: object, score: object = np.nan, class_idx: object = -1) -> Proposals:
    """Proposals with these segments; their scores and classes are unknown if not given."""
    segments = np.array(segments_snip, dtype=np.float64)
    return Proposals(segments, np.full(len(segments), score, np.float64), np.full(len(segments), class_idx, np.int64))


def batch_of(
    rows: Tensor | None = None,
    sizes: Sequence[int] | None = None,
    proposals: Tensor | None = None,
    labels: Tensor | None = None,
) -> Batch:
    """A batch of which a test gives what matters to it."""
    sizes = [len(rows)] if sizes is None else list(sizes)
    none = [np.full(size, -1) for size in sizes]
    return Batch(list(range(len(sizes))), sizes, rows, proposals, batch_instances(none, torch.device("cpu")), labels)


def own_dataset(folder: Path, feature_size: int = 6, num_videos: int = 6) -> Path:
    """Own data as a user has them, `num_videos` for training and as many for testing; 30 snippets at 2 a second each.

    A video has one of two classes, whose action in snippets 8 to 16 raises one or the other half of the features.
    """
    (folder / "features").mkdir(parents=True)
    rng, database = np.random.default_rng(0), {}
    for part, subset in (("a", "training"), ("b", "validation")):
        for i in range(num_videos):
            features = rng.random((30, feature_size), dtype=np.float32)
            features[8:16, slice(0, feature_size // 2) if i % 2 else slice(feature_size // 2, None)] += 2
            np.save(folder / "features" / f"{part}{i}.npy", features)
            action = {"label": ("Jump", "Dive")[i % 2], "segment": [4.0, 8.0]}
            database[f"{part}{i}"] = {"subset": subset, "duration": 15.0, "annotations": [action]}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return folder
