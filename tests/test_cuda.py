"""On a GPU: the same numbers as on the CPU, in float32, and no step that waits for the device."""

import json

import numpy as np
import pytest
import torch
from building import batch_of, criterion, network, proposals_of

import main
from dataset import Video, load_videos, training_batches
from descriptors import PseudoLabels
from readers.annotations import read_annotations
from readers.features import Features
from runs.inputs import Data
from utils import pick_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def videos_on(device, num_class=3, width=16):
    """Training videos with random pooled features, and their pseudo-labels."""
    rng = torch.Generator().manual_seed(0)
    videos = []
    for i, size in enumerate((5, 1, 8, 30, 2, 12)):
        start = 20 * torch.rand(size, 1, generator=rng)
        proposals = torch.cat([start, start + 1 + 9 * torch.rand(size, 1, generator=rng)], dim=1)
        pooled = torch.randn(size, 3, width, generator=rng)
        videos.append(
            Video(
                name=f"v{i}",
                labels=torch.eye(num_class)[i % num_class].to(device),
                listed=None,
                proposals=proposals.to(device),
                instance_class=np.full(size, -1),
                mean=torch.ones(width, device=device),
                variance=torch.ones(width, device=device),
                num_snippets=30,
                pooled=pooled.to(device),
                pool=None,
            )
        )
    index = torch.arange(len(videos))
    pseudo = PseudoLabels(*(value.to(device) for value in (index % num_class, index % 2 == 0, index % 2 == 1)))
    return Data(annotations=None, truth=None, test=[], train=videos, pseudo=pseudo)


@pytest.fixture
def waiting_is_an_error():
    """Within the test, what makes the program wait for the GPU raises a RuntimeError."""
    torch.cuda.synchronize()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def test_no_step_of_an_epoch_waits_for_the_device(waiting_is_an_error):
    device = torch.device("cuda")
    data, model, terms = videos_on(device), network().to(device), criterion()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)

    def epoch(number):
        batches = training_batches(data.train, 2, 20, generator)
        return [main.training_step(model, batch, data, terms, optimizer, number) for batch in batches]

    epoch(1)  # libraries are loaded, and memory is taken
    waiting_is_an_error()
    steps = epoch(2)
    torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 3 and torch.stack(steps).cpu().isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_cache_gives_the_same_batches_and_none_waits(tmp_path, waiting_is_an_error, dtype):
    rng, names = np.random.default_rng(0), [f"v{i}" for i in range(6)]
    database = {name: {"subset": "training", "annotations": [{"label": "x"}]} for name in names}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    listed = {}
    for i, name in enumerate(names):
        np.save(tmp_path / f"{name}.npy", rng.random((20 + i, 16), dtype=np.float32))
        start = 20 * rng.random((30 + i, 1))
        listed[name] = proposals_of(np.hstack([start, start + 9 * rng.random((30 + i, 1))]))
    annotations, cuda = read_annotations(tmp_path / "annotations.json"), torch.device("cuda")

    def epoch(device, cache):
        features = Features(tmp_path, annotations.videos)
        loaded = load_videos(
            annotations,
            features,
            {"all": listed},
            roi_size=12,
            rate=25 / 16,
            device=device,
            cache=cache,
            pooled_dtype=dtype,
        )["all"]
        made = []
        for i in range(2):  # libraries are loaded, and memory is taken, in the first
            waiting_is_an_error() if i and device == cuda else None
            generator = torch.Generator().manual_seed(0)
            made = [(b.sizes, b.rows * 1, b.proposals) for b in training_batches(loaded, 2, 25, generator)]
            torch.cuda.set_sync_debug_mode("default")
        return made

    expected = epoch(torch.device("cpu"), "memory")
    for cache in ("memory", "host", "none"):
        for (sizes, *of_cuda), (sizes_of_cpu, *of_cpu) in zip(epoch(cuda, cache), expected, strict=True):
            assert sizes == sizes_of_cpu
            for found, wanted in zip(of_cuda, of_cpu, strict=True):
                torch.testing.assert_close(
                    found.cpu(), wanted, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5
                )


def test_losses_and_gradients_are_those_of_the_cpu():
    found = []
    for device in map(torch.device, ("cpu", "cuda")):
        data, model = videos_on(device), network(dropout_ratio=0.0).to(device)
        rows, proposals = (torch.cat([getattr(v, name) for v in data.train]) for name in ("pooled", "proposals"))
        labels = torch.stack([video.labels for video in data.train])
        batch = batch_of(rows, [len(v.proposals) for v in data.train], proposals, labels)
        losses = criterion()(model(batch), batch, data.pseudo, 5)
        losses["loss_total"].backward()
        gradients = {name: p.grad.cpu() for name, p in model.named_parameters()}
        found.append(({name: loss.detach().cpu() for name, loss in losses.items()}, gradients))
    for of_cpu, of_cuda in zip(*found, strict=True):
        for name, value in of_cpu.items():
            torch.testing.assert_close(of_cuda[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("operation", ["product", "convolution"])
def test_float32_is_not_rounded_to_tf32_unless_asked(operation):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 512, generator=rng), torch.randn(512, 64, generator=rng)
    exact = (a.double() @ b.double()).float()

    def error(**options):
        device = pick_device("cuda", **options)
        x, y = a.to(device), b.to(device)
        if operation == "convolution":
            return (torch.nn.functional.conv1d(x[..., None], y.T[..., None])[..., 0].cpu() - exact).abs().max()
        return ((x @ y).cpu() - exact).abs().max()

    try:
        assert error() < 1e-4
        if torch.cuda.get_device_capability() >= (8, 0):
            assert error(tf32=True) > 1e-3
    finally:
        pick_device("cpu")


def test_the_demo_trains_and_is_resumed(run, tmp_path):
    argv = ("--dataset_name", "Demo", "--device", "cuda", "--max_proposal", 20, "--interval", 2)
    for name, more in (("whole", ("--max_epoch", 4)), ("parts", ("--max_epoch", 2))):
        assert run(*argv, "--exp_dir", tmp_path / name, *more)[0] == 0
    status, _, err = run("--exp_dir", tmp_path / "parts", "--resume", "--max_epoch", 4)
    assert status == 0, err
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")]
    assert results[0]["epoch"] == results[1]["epoch"] == 4
    weights = [
        torch.load(tmp_path / name / "ckpt" / "last_model.pkl", weights_only=True) for name in ("whole", "parts")
    ]
    assert all(value.device.type == "cpu" and value.isfinite().all() for part in weights for value in part.values())
