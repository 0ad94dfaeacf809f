"""Frames to I3D features: snippets of 16 frames, their crops, and batches of these through the network.

See SPEC-inputs, A1 to A3. Axes: F frames, K crops, T snippets, N crops in a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from options import CROPS
from prepare.i3d import FEATURE_SIZE, I3D, SIDE, SNIPPET_FRAMES
from utils import InputError, to_device

CROPS_OF = dict(zip(CROPS, (1, 1, 10), strict=True))  # K of each way to crop
_BATCH = 16  # crops that a GPU gets at once; the CPU is fastest with one, which stays in its cache


def crop_clips(clip: np.ndarray, crop: str) -> np.ndarray:
    """Crop the frames of a snippet.

    Args:
        clip: uint8 `[16, 256, 340, channels]`.
        crop: `center`; `resize` scales whole frames; `ten` are four corners and the centre, then those of the mirrored
            frames.

    Returns:
        uint8 `[K, 16, 224, 224, channels]`.
    """
    if crop == "resize":
        return np.stack([_resized(frame) for frame in clip])[None]
    bottom, right = clip.shape[1] - SIDE, clip.shape[2] - SIDE
    corners = [(0, 0), (0, right), (bottom // 2, right // 2), (bottom, 0), (bottom, right)]
    views = [clip, clip[:, :, ::-1]]
    if crop == "center":
        corners, views = corners[2:3], views[:1]
    return np.stack([view[:, y : y + SIDE, x : x + SIDE] for view in views for y, x in corners])


def _resized(frame: np.ndarray) -> np.ndarray:
    """Scale uint8 `[H, W, channels]` to `[224, 224, channels]` by Pillow's Lanczos filter."""
    from PIL import Image

    if frame.shape[2] == 3:
        return np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    channels = (Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(frame, 2, 0))
    return np.stack([np.asarray(channel.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for channel in channels], 2)


def as_input(crops: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map pixels, uint8 `[N, 16, 224, 224, channels]`, to what I3D takes: -1 to 1, `[N, channels, 16, 224, 224]`."""
    return crops.float().mul_(2 / 255).sub_(1).to(dtype).permute(0, 4, 1, 2, 3)


class Extractor:
    """Makes features with both networks.

    Args:
        networks: of `rgb` and `flow`; they are moved to the device.
        crop: see `crop_clips`.
        device: to run on.
        half: run in float16.

    Raises:
        InputError: `half` on a device without float16 networks.
    """

    def __init__(
        self, networks: Mapping[str, I3D], crop: str, device: torch.device | str = "cpu", *, half: bool = False
    ) -> None:
        self.crop, self.device = crop, torch.device(device)
        if half and self.device.type not in ("cuda", "mps"):
            raise InputError(f"--half: float16 needs CUDA or MPS, and I3D runs on the {self.device} here; leave it out")
        self.dtype = torch.float16 if half else torch.float32
        self.batch = 1 if self.device.type == "cpu" else _BATCH
        self.networks = {name: network.to(self.device, self.dtype) for name, network in networks.items()}
        if self.device.type == "cpu":  # oneDNN is a fifth faster if the channels of a pixel are beside each other
            for network in self.networks.values():
                network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def stream(self, kind: str, frequency: int = SNIPPET_FRAMES) -> Stream:
        """Begin a video, whose frames or clips are then added one by one; several may be under way.

        Args:
            kind: `rgb` or `flow`.
            frequency: frames from the start of a snippet to that of the next.
        """
        return Stream(self, kind, frequency)

    def extract(self, kind: str, clips: Iterable[np.ndarray]) -> np.ndarray:
        """The features of clips, each uint8 `[16, 256, 340, channels]`: float32 `[K, T, 1024]`; see `Stream`."""
        stream = self.stream(kind)
        for clip in clips:
            stream.add_clip(clip)
        return stream.features()


class Stream:
    """The RGB or the optical flow of a video on its way through the network.

    It holds 16 frames and two batches. A GPU is waited for only once the next batch is under way.

    Args:
        extractor: the networks and their settings.
        kind: `rgb` or `flow`.
        frequency: frames from the start of a snippet to that of the next.

    Attributes:
        count: F, of frames so far.
    """

    def __init__(self, extractor: Extractor, kind: str, frequency: int) -> None:
        self.extractor, self.kind, self.frequency = extractor, kind, frequency
        self.count = 0
        self._frames: deque[np.ndarray] = deque(maxlen=SNIPPET_FRAMES)
        self._waiting: list[np.ndarray] = []  # crops, [K, 16, 224, 224, channels] each
        self._under_way: list[Tensor] = []  # [N, 1024], on the device
        self._done = [np.empty((0, FEATURE_SIZE), np.float32)]

    def add_frame(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 `[256, 340, channels]`. Snippets start at 0, `frequency`, 2 `frequency`, …"""
        self._frames.append(frame)
        self.count += 1
        if self.count >= SNIPPET_FRAMES and (self.count - SNIPPET_FRAMES) % self.frequency == 0:
            self.add_clip(np.stack(self._frames))

    def add_clip(self, clip: np.ndarray) -> None:
        """Add a snippet, uint8 `[16, 256, 340, channels]`."""
        self._waiting.append(crop_clips(clip, self.extractor.crop))
        if sum(map(len, self._waiting)) >= self.extractor.batch:
            self._run()

    def _run(self) -> None:
        """Give the network what is waiting, then collect what it had before."""
        crops = torch.from_numpy(np.concatenate(self._waiting))
        self._waiting = []
        network, device = self.extractor.networks[self.kind], self.extractor.device
        size = 1 if device.type == "cpu" else len(crops)
        with torch.inference_mode():
            started = [network(as_input(to_device(some, device), self.extractor.dtype)) for some in crops.split(size)]
        self._collect()
        self._under_way = started

    def _collect(self) -> None:
        self._done += [features.float().cpu().numpy() for features in self._under_way]
        self._under_way = []

    def features(self) -> np.ndarray:
        """Those of all snippets, float32 `[K, T, 1024]`; last frames that fill no snippet are left out.

        Raises:
            InputError: a value is not finite, which happens in float16.
        """
        if self._waiting:
            self._run()
        self._collect()
        features = np.concatenate(self._done)  # [T K, 1024]
        if not np.isfinite(features).all():
            advice = "; leave out --half" if self.extractor.dtype == torch.float16 else ": are the weights damaged?"
            raise InputError(f"{self.kind} features with values that are not finite{advice}")
        return np.ascontiguousarray(
            features.reshape(-1, CROPS_OF[self.extractor.crop], FEATURE_SIZE).swapaxes(0, 1)
        )  # [K, T, 1024]
