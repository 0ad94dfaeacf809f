"""Running out of memory: what takes less, what is kept, and the command to type."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runs.folder import command_line
from utils import InputError, error_text, ran_out

ONE_FILE = "features in a file for each video, where one file has them all (python -m prepare.split_features)"
SHORTER = "long videos cut into shorter ones"
FEWER = "fewer detections (test with a larger --threshold_cls)"
LESS = {  # by --run_type, but for `train`
    "test": ["--precision bfloat16", "a larger --threshold_cls", "fewer proposals of a video", ONE_FILE],
    "eval": [FEWER],
    "report": [FEWER],
    "detect": ["videos in several runs", SHORTER],
    "features": ["--crop center instead of ten", "fewer --workers"],
    "check": ["fewer proposals", ONE_FILE],
    "descriptors": [SHORTER, ONE_FILE],
    "proposals": [SHORTER, ONE_FILE],
}


class OutOfMemory(InputError):
    """Memory ran out, or the threads that a process may have.

    Args:
        error: of PyTorch, numpy or the system, see `utils.ran_out`.
        remedy: what takes less memory, and what is kept.
        hint: a second line: what to type.
    """

    def __init__(self, error: BaseException, remedy: str, hint: str = "") -> None:
        if ran_out(error) == "threads":
            what = f"no more threads or processes can be started ({error_text(error)})"
            remedy = "Raise the limits of the job (ulimit -u and -v), or end other processes"
        else:
            of_gpu = " of the GPU" if is_of_gpu(error) else ""
            amount = re.search(r"allocate ([\d.,]+ ?[A-Za-z]+)", str(error))
            what = f"out of memory{of_gpu}" + (f", where {amount[1]} more were asked for" if amount else "")
        super().__init__(f"{what}. {remedy}")
        self.hint = hint


def is_of_gpu(error: BaseException) -> bool:
    """Whether it is a GPU's memory that ran out."""
    return re.search("CUDA|CUBLAS|cuDNN|HIP|MPS", str(error)) is not None


def with_nothing_kept(error: BaseException, options: Mapping[str, Any], argv: Sequence[str]) -> OutOfMemory:
    """Memory ran out in a command that leaves nothing behind, or before it could.

    Args:
        error: that was raised.
        options: of the command, by name.
        argv: the command line.
    """
    less = LESS.get(options["run_type"]) or [*_smaller_steps(options), ONE_FILE]
    less, hint = [*less, *(["--device cpu"] if is_of_gpu(error) else [])], ""
    if options["run_type"] in ("train", "test") and (cache := _smaller_cache(error, options)):
        words = [*without(argv, "--cache"), "--cache", cache]
        less, hint = [f"--cache {cache}", *less], f"try: {command_line(words)}"
    return OutOfMemory(error, f"What takes less: {'; '.join(less)}. Or give the job more memory", hint)


def in_training(
    error: BaseException, options: Mapping[str, Any], argv: Sequence[str], kept: str, epoch: int, *, again: bool
) -> OutOfMemory:
    """Memory ran out in a training run that has begun. Its steps stay as large as they are when it is resumed.

    Args:
        error: that was raised.
        options: of the run, by name.
        argv: the command line that resumes it.
        kept: the path of its `resume.pt`.
        epoch: the last one that is in it.
        again: whether the run may as well be started again.
    """
    cache = _smaller_cache(error, options)
    less = [f"--cache {cache}"] if cache else []
    argv = [*without(argv, "--cache"), "--cache", cache or options["cache"]]
    if again:
        name = "--batch_size" if options["batch_size"] > 1 else "--max_proposal"
        half = str(max(1, options[name.removeprefix("--")] // 2))
        words = [*without(without(argv, "--resume"), name), name, half, "--overwrite"]
        remedy = f"No epoch has been saved yet. What takes less: {'; '.join([*less, *_smaller_steps(options)])}"
        return OutOfMemory(error, f"{remedy}. Or give the job more memory", f"try: {command_line(words)}")
    ways = [*less, *(["--device cpu"] if is_of_gpu(error) else []), "more memory for the job"]
    remedy = (
        f"{kept} has the run up to epoch {epoch}, which can go on with {' or '.join(ways)}; --batch_size (now "
        f"{options['batch_size']}) and --max_proposal (now {options['max_proposal']}) can be lowered in another "
        f"--exp_dir, from --pretrained_ckpt {kept}"
    )
    return OutOfMemory(error, remedy, f"go on with: {command_line(argv)}")


def _smaller_cache(error: BaseException, options: Mapping[str, Any]) -> str | None:
    """What `--cache` takes less of the memory that ran out; None if that is chosen already."""
    if is_of_gpu(error) and "MPS" not in str(error):  # whose memory is that of the machine
        return None if options["cache"] in ("host", "none") else "host"
    return None if options["cache"] == "none" else "none"


def _smaller_steps(options: Mapping[str, Any]) -> list[str]:
    sizes = f"a smaller --batch_size (now {options['batch_size']}) or --max_proposal (now {options['max_proposal']})"
    return [sizes] if options["precision"] == "bfloat16" else [sizes, "--precision bfloat16"]


def without(argv: Sequence[str], name: str) -> list[str]:
    """A command line without an option that has at most one value."""
    words = list(argv)
    places = [i for i, word in enumerate(words) if word == name or word.startswith(f"{name}=")]
    for i in reversed(places):
        has_value = words[i] == name and i + 1 < len(words) and not words[i + 1].startswith("--")
        del words[i : i + 1 + has_value]
    return words
