"""Running out of memory or threads: one line with what to lower, what is kept, and a command that goes on."""

import errno
import json
import re
import shlex

import numpy as np
import pytest
import torch
from building import own_dataset

import main
from options import parse_options
from readers.arrays import read_array
from readers.checkpoints import read_checkpoint
from runs.console import exit_status
from runs.out_of_memory import without
from utils import InputError, pick_device, ran_out, read_json

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "98304000 bytes. Error code 12 (Cannot allocate memory)"
)
GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.31 GiB is free."
)
THREADS = RuntimeError("can't start new thread")
ERRORS = {
    "cpu": (CPU, "out of memory, where 98304000 bytes more"),
    "windows": (
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        "out of memory",
    ),
    "python": (MemoryError(), r"out of memory\."),
    "numpy": (
        np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype("f8")),
        "out of memory, where 7.28 TiB more were asked for",
    ),
    "system": (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    "file": (RuntimeError("unable to mmap 8 bytes from file <w.pkl>: Cannot allocate memory (12)"), "out of memory"),
    "c++": (RuntimeError("std::bad_alloc"), "out of memory"),
    "library": (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
    "cuda": (GPU, "out of memory of the GPU, where 2.00 GiB more"),
    "cuda call": (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"), "out of memory of the GPU"),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "memory of the GPU"),
    "mps": (
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB). Tried to allocate 256 bytes on shared pool."),
        "out of memory of the GPU, where 256 bytes more",
    ),
    "threads": (THREADS, "no more threads or processes .*ulimit -u"),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads or processes"),
}


def raised(error):
    raise error


@pytest.mark.parametrize(
    ("name", "run_type"),
    [*((name, "train") for name in ERRORS), *(("cpu", run_type) for run_type in main.RUN_TYPES)],
)
def test_each_kind_is_told_in_a_line(name, run_type, capsys):
    error, message = ERRORS[name]
    argv = ["--run_type", run_type, "--detections", "d.json", "--cache", "memory"]
    if run_type == "detect":
        argv = ["--run_type", run_type, "--model", "outputs", "--input", "new"]
    if run_type == "features":
        argv += ["--videos", "videos", "--i3d_weights", "random"]
    assert exit_status(lambda: raised(error), vars(parse_options(argv))) == 2
    told, *hint = capsys.readouterr().err.splitlines()
    assert re.search(f"^error: .*{message}", told)
    assert name in ("threads", "processes") or re.search(r"What takes less: .*Or give the job more memory$", told)
    if run_type in ("train", "test") and name not in ("threads", "processes"):
        cache = "host" if name in ("cuda", "cuda call", "cublas") else "none"
        assert hint == [f"try: python main.py --run_type {run_type} --detections d.json --cache {cache}"]


def test_other_errors_are_raised():
    for error in (RuntimeError("shapes differ"), ImportError("No module named x"), SystemError("x")):
        assert ran_out(error) is None
        with pytest.raises(type(error)):
            exit_status(lambda error=error: raised(error), vars(parse_options([])))
    assert ran_out(InputError("video out of memory.mp4")) is None


@pytest.mark.parametrize("error", [CPU, MemoryError(), OSError(errno.ENOMEM, "")], ids=["cpu", "python", "system"])
def test_readers_do_not_take_it_for_a_damaged_file(tmp_path, monkeypatch, error):
    np.save(tmp_path / "x.npy", np.ones(3))
    torch.save({}, tmp_path / "x.pkl")
    (tmp_path / "x.json").write_text("{}")
    for name, read, file in (
        ("numpy.lib.format.read_array", read_array, "x.npy"),
        ("torch.load", read_checkpoint, "x.pkl"),
        ("json.loads", read_json, "x.json"),
    ):
        monkeypatch.setattr(name, lambda *_, **__: raised(error))
        with pytest.raises(type(error)):
            read(tmp_path / file)
    monkeypatch.setattr("torch.ones", lambda *_, **__: raised(GPU))
    with pytest.raises(torch.OutOfMemoryError):
        pick_device("cpu")


@pytest.fixture
def own(tmp_path, run_in):
    """Runs `train` on a small dataset, whose descriptors are made."""
    own_dataset(tmp_path / "data/T")
    (tmp_path / "proposals4Thumos14").mkdir()
    for part, videos in (("train", "a"), ("test", "b")):
        entries = {f"{videos}{i}": [{"segment": [s, s + 2.0]} for s in range(12)] for i in range(6)}
        (tmp_path / f"proposals4Thumos14/Proposals_T_{part}.json").write_text(json.dumps({"results": entries}))
    run = run_in(tmp_path)
    assert run("--run_type", "descriptors", "--dataset_name", "T")[0] == 0
    argv = ("--dataset_name", "T", "--recipe", "paper", "--interval", 0, "--batch_size", 2, "--max_epoch", 3)
    argv = (*argv, "--save_every", 0)
    return lambda *words: run(*(words or argv))


def run_out_in_epoch(monkeypatch, failing):
    """Let each step of an epoch raise an error, until it is undone."""
    step = main.training_step

    def training_step(*args):
        return raised(GPU) if args[-1] == failing else step(*args)

    monkeypatch.setattr("main.training_step", training_step)
    return lambda: monkeypatch.setattr("main.training_step", step)


@pytest.mark.parametrize("epoch", [1, 3])
def test_what_the_hint_says_works(own, tmp_path, monkeypatch, epoch):
    undo = run_out_in_epoch(monkeypatch, epoch)
    status, _, err = own()
    *_, told, hint = err.splitlines()
    assert status == 2 and "Traceback" not in err
    words = shlex.split(hint)
    options = dict.fromkeys(words)
    if epoch == 1:
        assert "No epoch has been saved yet. What takes less: --cache host; a smaller --batch_size (now 2)" in told
        assert words[:3] == ["try:", "python", "main.py"]
        assert "--resume" not in options and words[-3:] == ["--batch_size", "1", "--overwrite"]
    else:  # steps stay as large as they were
        assert "resume.pt has the run up to epoch 2, which can go on with --cache host or --device cpu" in told
        assert words[:5] == ["go", "on", "with:", "python", "main.py"] and "--resume" in options
        again = own(*words[5:])  # and running out again tells the same
        assert again[0] == 2 and again[2].splitlines()[-1] == hint
    undo()
    status, _, err = own(*words[words.index("main.py") + 1 :])
    assert status == 0, err
    lines = (tmp_path / "outputs/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert (tmp_path / "outputs/ckpt/last_model.pkl").is_file()


def test_options_are_taken_out_of_a_command():
    argv = ["--cache", "none", "--resume", "--batch_size=3", "--seeds", "0", "1", "--resume", "auto"]
    assert without(argv, "--cache") == argv[2:] and without(argv, "--batch_size") == [*argv[:3], *argv[4:]]
    assert without(argv, "--resume") == ["--cache", "none", "--batch_size=3", "--seeds", "0", "1"]
