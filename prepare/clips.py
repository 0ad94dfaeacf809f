"""Frames to I3D features: snippets of 16 frames, their crops, and these through the network.

See SPEC section 15. Axes: F frames, K crops, T snippets, N crops in a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from options import CROPS
from prepare.i3d import FEATURE_SIZE, I3D, SIDE, SNIPPET_FRAMES
from utils import InputError, to_device

CROPS_OF = dict(zip(CROPS, (1, 1, 10), strict=True))  # K of each way to crop
_GPU_BATCH = 16  # crops that a GPU gets at once


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

    On the CPU each thread works on a crop of its own. Threads that share one wait for each other all the time: a crop
    took ten times as long while the cores had other work, as they have with optical flow. A GPU gets larger batches,
    from two threads, so that one is under way while the results of the other are taken.

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
        self.networks = {name: network.to(self.device, self.dtype) for name, network in networks.items()}
        if self.device.type == "cpu":
            self.most, self.threads, begin = 1, torch.get_num_threads(), partial(torch.set_num_threads, 1)
            for network in self.networks.values():  # a fifth faster if the channels of a pixel are beside each other
                network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        else:
            self.most, self.threads, begin = _GPU_BATCH, 2, None
        self.clips = max(1, self.most // CROPS_OF[crop])  # that a thread is given at once
        self._pool = ThreadPoolExecutor(self.threads, initializer=begin)

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

    def start(self, kind: str, clips: list[np.ndarray]) -> Future[np.ndarray]:
        """Have a thread make the features of a few clips, float32 `[T, K, 1024]`."""
        return self._pool.submit(self._run, self.networks[kind], clips)

    @torch.inference_mode()
    def _run(self, network: Callable[[Tensor], Tensor], clips: list[np.ndarray]) -> np.ndarray:
        crops = torch.from_numpy(np.concatenate([crop_clips(clip, self.crop) for clip in clips]))
        parts = [network(as_input(to_device(some, self.device), self.dtype)) for some in crops.split(self.most)]
        return torch.cat(parts).float().cpu().numpy().reshape(len(clips), -1, FEATURE_SIZE)


class Stream:
    """The RGB or the optical flow of a video on its way through the network.

    It holds 16 frames, and for each thread of the extractor what that has in work and as much that waits.

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
        self._clips: list[np.ndarray] = []
        self._started: deque[Future[np.ndarray]] = deque()
        self._done = [np.empty((0, CROPS_OF[extractor.crop], FEATURE_SIZE), np.float32)]

    def add_frame(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 `[256, 340, channels]`. Snippets start at 0, `frequency`, 2 `frequency`, …"""
        self._frames.append(frame)
        self.count += 1
        if self.count >= SNIPPET_FRAMES and (self.count - SNIPPET_FRAMES) % self.frequency == 0:
            self.add_clip(np.stack(self._frames))

    def add_clip(self, clip: np.ndarray) -> None:
        """Add a snippet, uint8 `[16, 256, 340, channels]`; waits while there is too much to do."""
        self._clips.append(clip)
        if len(self._clips) == self.extractor.clips:
            self._start()
        if len(self._started) > 2 * self.extractor.threads:
            self._done.append(self._started.popleft().result())

    def _start(self) -> None:
        self._started.append(self.extractor.start(self.kind, self._clips))
        self._clips = []

    def features(self) -> np.ndarray:
        """Those of all snippets, float32 `[K, T, 1024]`; last frames that fill no snippet are left out.

        Raises:
            InputError: a value is not finite, which happens in float16.
        """
        if self._clips:
            self._start()
        while self._started:
            self._done.append(self._started.popleft().result())
        features = np.concatenate(self._done)  # [T, K, 1024]
        if not np.isfinite(features).all():
            advice = "; leave out --half" if self.extractor.dtype == torch.float16 else ": are the weights damaged?"
            raise InputError(f"{self.kind} features with values that are not finite{advice}")
        return np.ascontiguousarray(features.swapaxes(0, 1))  # [K, T, 1024]
