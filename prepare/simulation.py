"""Simulates I3D features of videos whose actions are known.

The signal is made in a small latent space and mapped to features by a fixed random layer with a ReLU, so that the task
is equally hard at any width. It imitates video: an action has a start, a middle and an end; the background shares the
scene with the action; instances differ in strength; classes 0 and 1 look alike; and parts of the background resemble an
action. All of it is simulation: results on it say nothing about real videos.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

LATENT = 32  # dimensions of the latent space of each modality
SCENE = {"rgb": 1.0, "flow": 0.35}  # strength of the scene, which action and background share
ACTION = {"rgb": 0.65, "flow": 1.0}  # strength of an average action
NOISE = {"rgb": 1.0, "flow": 1.1}  # of the latent noise, most of which changes slowly


@dataclass
class Scene:
    """What happens in one simulated video; times in snippets."""

    name: str
    num_snippets: int
    classes: list[int]  # video-level labels
    instances: list[tuple[int, float, float]]  # class, start, end
    distractors: list[tuple[int, float, float]] = field(default_factory=list)  # action-like background


class World:
    """What all videos of a dataset share: the appearance of classes, and the layer from the latent space to features.

    Args:
        num_class: C.
        feature_size: D.
        seed: of everything random.
    """

    def __init__(self, num_class: int, feature_size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.scene, self.phase, self.layer = {}, {}, {}
        for modality in ("rgb", "flow"):
            self.scene[modality] = rng.standard_normal((num_class, LATENT), dtype=np.float32)
            common = rng.standard_normal((num_class, 1, LATENT), dtype=np.float32)
            phase = 0.8 * common + 0.6 * rng.standard_normal((num_class, 3, LATENT), dtype=np.float32)
            if num_class > 1:  # classes 0 and 1 look alike, and are filmed in the same places
                phase[1] = 0.85 * phase[0] + 0.53 * phase[1]
                self.scene[modality][1] = 0.9 * self.scene[modality][0] + 0.44 * self.scene[modality][1]
            self.phase[modality] = phase  # [C, start/middle/end, latent]
            layer = rng.standard_normal((LATENT, feature_size // 2), dtype=np.float32)
            self.layer[modality] = layer / np.float32(np.sqrt(LATENT))

    def film(self, scene: Scene, index: int) -> np.ndarray:
        """Make the features `[T, D]` of a video, RGB then flow, with a random generator seeded by its index."""
        rng = np.random.default_rng([self.seed, index])
        instances = [(c, s, e, rng.uniform(0.45, 1.4)) for c, s, e in scene.instances]
        instances += [(c, s, e, rng.uniform(0.2, 0.55)) for c, s, e in scene.distractors]
        halves = []
        for modality in ("rgb", "flow"):
            place = rng.standard_normal(LATENT, dtype=np.float32)
            if scene.classes:
                place = 0.8 * self.scene[modality][scene.classes].mean(0) + 0.8 * place
            latent = SCENE[modality] * place + NOISE[modality] * _drift(rng, scene.num_snippets)  # [T, latent]
            for class_idx, start, end, strength in instances:
                shape = _course(scene.num_snippets, start, end) @ self.phase[modality][class_idx]
                latent += ACTION[modality] * np.float32(strength) * shape
            half = latent @ self.layer[modality] - np.float32(0.3)
            half += np.float32(0.25) * rng.standard_normal(half.shape, dtype=np.float32)
            halves.append(np.maximum(half, 0, out=half))
        return np.hstack(halves)


def _drift(rng: np.random.Generator, num_snippets: int) -> np.ndarray:
    """Make noise `[T, latent]` of unit variance: a slow random walk, as light drifts, and white noise."""
    fresh = rng.standard_normal((num_snippets, LATENT), dtype=np.float32)
    slow = np.empty_like(fresh)
    state = rng.standard_normal(LATENT, dtype=np.float32)
    for t in range(num_snippets):
        state = np.float32(0.9) * state + np.float32(0.436) * fresh[t]
        slow[t] = state
    return np.float32(0.7) * slow + np.float32(0.714) * rng.standard_normal(fresh.shape, dtype=np.float32)


def _course(num_snippets: int, start: float, end: float) -> np.ndarray:
    """How much of the start, middle and end of an action each snippet shows: `[T, 3]` float32."""
    t = np.arange(num_snippets)
    covered = np.clip(np.minimum(t + 1, end) - np.maximum(t, start), 0, 1)
    progress = (t + 0.5 - start) / max(end - start, 1e-6)
    first, last = np.clip(1 - 2.5 * progress, 0, 1), np.clip(2.5 * progress - 1.5, 0, 1)
    return (covered[:, None] * np.stack([first, 1 - first - last, last], axis=1)).astype(np.float32)
