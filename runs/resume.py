"""`ckpt/resume.pt`: all that a training run needs to go on as if it had never stopped.

It is the one file that says how far a run is. What else a run writes is written around it in this order: the records of
an epoch, `resume.pt`, the weights of that epoch. So a run can be killed at any moment. Records of an epoch that did not
get into `resume.pt` are dropped when it is resumed, and weights that did not get onto the disk are in `resume.pt`.
"""

from __future__ import annotations

import random
import struct
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.results import DAMAGED, EpochResults, Results
from options import differences, plain_values
from readers.checkpoints import read_checkpoint, use_weights
from runs.folder import RunFolder
from runs.weights import save_checkpoint
from utils import InputError, error_text, has_control_characters, is_finite_number, log

_FORMAT = 2
_ANOTHER = (
    "Begin another run in another --exp_dir, with --pretrained_ckpt and the last_model.pkl beside it if there is one"
)
_FIELDS = {
    "format": int,
    "about": dict,  # options, data and machine of the run
    "epoch": int,
    "steps": Tensor,
    "seconds": float,
    "evaluated": int,
    "best": dict,
    "weights": dict,
    "optimizer": dict,
    "random": dict,
    "shuffler": Tensor,
}


class TrainingState:
    """What training changes, and how far it is.

    Args:
        path: of `resume.pt`.
        about: of which run it is, see `about_run`.
        model: in training.
        optimizer: of the model.
        shuffler: the generator of the order of training videos.

    Attributes:
        epoch: the last finished one; 0 at the beginning.
        steps: the K terms of each step so far of the next epoch, `[K]` each, if it was begun.
        seconds: spent on that epoch so far.
        evaluated: the last epoch whose evaluation is recorded.
        best: the evaluation with the best average; None before the first.
    """

    def __init__(
        self,
        path: Path,
        about: dict[str, Any],
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        shuffler: torch.Generator,
    ) -> None:
        self.path, self.about = path, about
        self.model, self.optimizer, self.shuffler = model, optimizer, shuffler
        self.epoch, self.evaluated = 0, 0
        self.steps: list[Tensor] = []
        self.seconds = 0.0
        self.best: EpochResults | None = None

    def save(self, order: Tensor | None = None) -> None:
        """Write `resume.pt`.

        Args:
            order: in the middle of an epoch, the state that the shuffler had at its start.

        Raises:
            CannotWrite: it cannot be written; the previous one is still there.
        """
        content = {
            "format": _FORMAT,
            "about": self.about,
            "epoch": self.epoch,
            "steps": torch.stack(self.steps) if self.steps else torch.empty(0, 0),
            "seconds": self.seconds,
            "evaluated": self.evaluated,
            "best": self.best.to_json() if self.best else {},
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "random": _random_states(self._device()),
            "shuffler": self.shuffler.get_state() if order is None else order,
        }
        save_checkpoint(self.path, _to_save(content))

    def restore(self, content: dict[str, Any]) -> None:
        """Go back to what `read_resume` has read.

        Raises:
            InputError: it is damaged, or of another network or other data.
        """
        before, now = content["about"], self.about
        if before["data"] != now["data"]:
            raise InputError(
                f"{self.path}: the run began with other data: videos, labels, proposals, descriptors or ground truth "
                "are not what they were; begin another run"
            )
        if before["terms"] != now["terms"]:
            raise InputError(f"{self.path}: the run began with other loss terms, {before['terms']}; begin another run")
        for name, value in now["machine"].items():
            if (was := before["machine"].get(name)) != value:
                log.info(f"notice: {name} is {value}, and was {was}: what is trained from here on will not be the same")
        self._restore_optimizer(content["optimizer"])
        use_weights(self.model, content["weights"], self.path)
        try:
            _set_random_states(content["random"], self._device())
            self.shuffler.set_state(_checked(content["shuffler"]))
            self.steps = [*content["steps"].to(self._device())]
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error) as error:
            raise _damaged(self.path, error) from None
        self.epoch, self.evaluated = content["epoch"], content["evaluated"]
        self.seconds = content["seconds"]
        self.best = EpochResults.from_json(content["best"]) if content["best"] else None

    def finish_epoch(self, results: Results | None) -> None:
        """Note that an epoch is over, and the results of its evaluation, if it had one."""
        self.epoch += 1
        self.steps, self.seconds = [], 0.0
        if results is not None:
            self.note_evaluation(results)

    def note_evaluation(self, results: Results) -> None:
        """Note the results of the evaluation of the last epoch."""
        self.evaluated = self.epoch
        if self.best is None or results.snippet.average > self.best.results.snippet.average:
            self.best = EpochResults(results, self.epoch)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _restore_optimizer(self, saved: dict[int, Any]) -> None:
        """Take over its state; all else of an optimizer follows from the options. Changes the weights, too."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # shows what this kind of optimizer keeps
        self.optimizer.zero_grad()
        own = self.optimizer.state_dict()
        if saved and not _alike(saved, own["state"]):
            raise _damaged(self.path, "the optimizer's state does not fit the network, or is not finite")
        # The optimizer would keep the very tensors of the file, and takes for granted that their numbers lie in order.
        state = {
            i: {name: value.clone(memory_format=torch.contiguous_format) for name, value in kept.items()}
            for i, kept in saved.items()
        }
        self.optimizer.load_state_dict(own | {"state": state})


def run_to_resume(folder: RunFolder, options: Namespace) -> dict[str, Any] | None:
    """The content of `resume.pt` if there is a run to go on with and it is asked for; None to begin one.

    Raises:
        InputError: there is none, or one that is not to be replaced, or one with other options.
    """
    if options.resume is None or (options.resume == "auto" and not folder.resume.exists()):
        folder.require_free(options.overwrite, options.pretrained_ckpt)
        return None
    if not folder.resume.exists():
        raise InputError(
            f"{folder.path}: no run to resume, since there is no {folder.resume}; --resume auto begins one"
        )
    saved = read_resume(folder.resume)
    before, epoch, steps = saved["about"]["options"], saved["epoch"], len(saved["steps"])
    if changed := differences(before, options):
        raise InputError(
            f"{folder.path}: the run to resume began with other options: {'; '.join(changed)}. Type those it had, or "
            "begin another run in another --exp_dir"
        )
    if epoch + (steps > 0) > options.max_epoch:
        part = f", and {steps} steps of the next" if steps else ""
        raise InputError(f"--max_epoch {options.max_epoch}: the run to resume has {epoch} epochs already{part}")
    step = f", step {steps} of the next" if steps else ""
    log.info(f"resuming the run in {folder.path} after epoch {epoch}{step}")
    if (planned := before.get("max_epoch")) != options.max_epoch:
        log.info(
            f"notice: --max_epoch was {planned}; the SME loss follows it, so the result is not that of a run of "
            f"{options.max_epoch} epochs from the start"
        )
    return saved


def about_run(options: Namespace, data_digest: str, terms: list[str], device: torch.device) -> dict[str, Any]:
    """Of which run a `resume.pt` is.

    Args:
        options: of the run.
        data_digest: see `runs.inputs.Data.digest`.
        terms: the names of what is recorded of each step.
        device: that the run is on.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    machine = {"PyTorch": str(torch.__version__), "device": name, "number of threads": torch.get_num_threads()}
    return {"options": plain_values(options), "data": data_digest, "terms": terms, "machine": machine}


def read_resume(path: Path) -> dict[str, Any]:
    """Read a `resume.pt`, and see that it has the form of one.

    Raises:
        InputError: it is missing, damaged, or no such file.
    """
    try:
        content = read_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}. {_ANOTHER}") from None
    if not isinstance(content, dict) or type(content.get("format")) is not int or content["format"] != _FORMAT:
        raise InputError(f"{path}: not a resume.pt of this version of the program; begin another run")
    if content.keys() != _FIELDS.keys() or not all(isinstance(content[name], kind) for name, kind in _FIELDS.items()):
        raise _damaged(path, "a part of it is missing or of another kind")
    about, steps, best = content["about"], content["steps"], content["best"]
    kinds = {"options": dict, "data": str, "terms": list, "machine": dict}
    if about.keys() != kinds.keys() or not all(isinstance(about[name], kind) for name, kind in kinds.items()):
        raise _damaged(path, "it does not say of which run it is")
    if not all(map(_is_plain, (*about["options"].values(), *about["machine"].values(), about["terms"]))):
        raise _damaged(path, "what it says of its run is more than text and numbers")
    try:
        proper_best = bool(EpochResults.from_json(best) if best else None) == bool(content["evaluated"])
    except DAMAGED:
        proper_best = False
    if min(content["epoch"], content["evaluated"]) < 0 or not proper_best:
        raise _damaged(path, "what it says of epochs and results makes no sense")
    width = steps.shape[1] if steps.dim() == 2 else None
    if steps.dtype != torch.float32 or width not in (0, len(about["terms"])) or not steps.isfinite().all():
        raise _damaged(path, "what it says of the steps of an epoch makes no sense")
    if not is_finite_number(content["seconds"]) or content["seconds"] < 0:
        raise _damaged(path, "what it says of time makes no sense")
    return content


def _is_plain(value: Any) -> bool:
    """Whether a value from a file is of the kinds that options have: text, numbers, and short lists of them."""
    if isinstance(value, list):
        return len(value) < 100 and not any(isinstance(part, list) for part in value) and all(map(_is_plain, value))
    text = isinstance(value, str) and len(value) < 4096 and not has_control_characters(value)
    return value is None or isinstance(value, (bool, int, float)) or text


def _damaged(path: Path, error: BaseException | str) -> InputError:
    return InputError(f"{path}: damaged ({error_text(error)}). {_ANOTHER}")


def _to_save(value: Any) -> Any:
    """The same with all tensors on the CPU, and one object for equal texts, so that equal content has equal bytes."""
    if isinstance(value, dict):
        return {_to_save(name): _to_save(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_to_save(part) for part in value]
    if isinstance(value, Tensor):
        return value.cpu()
    return sys.intern(value) if type(value) is str else value


def _alike(value: Any, example: Any) -> bool:
    """Whether a value from a file has the example's names, shapes and finite numbers, in dicts however deep."""
    if isinstance(example, dict):
        same = isinstance(value, dict) and value.keys() == example.keys()
        return same and all(_alike(value[name], part) for name, part in example.items())
    if isinstance(example, Tensor):
        return isinstance(value, Tensor) and value.shape == example.shape and bool(value.isfinite().all())
    return type(value) is type(example)


def _random_states(device: torch.device) -> dict[str, Any]:
    """The states of all generators there are, but for the shuffler's."""
    _, key, *position = np.random.get_state()  # noqa: NPY002 - the global one, see `seed_everything`
    return {
        "python": random.getstate(),
        "numpy": {"key": torch.from_numpy(key.astype(np.int64)), "position": position},
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(*_which(device)),
    }


def _set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set all generators, but for the shuffler.

    Raises:
        Exception: of several kinds, if the states are none.
    """
    of_python, of_numpy = states["python"], states["numpy"]
    if type(of_python) is not list or type(of_python[1]) is not list or len(of_python[1]) != 625:
        raise ValueError("Python's random state is none")
    random.setstate((of_python[0], tuple(of_python[1]), of_python[2]))
    key, position = of_numpy["key"], of_numpy["position"]
    if key.shape != (624,) or type(position) is not list or not 0 <= position[0] <= 624:
        raise ValueError("numpy's random state is none")  # numpy itself would read beyond its end
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *position))  # noqa: NPY002
    torch.set_rng_state(_checked(states["torch"]))
    if device.type != "cpu" and states["device"] is not None:
        torch.get_device_module(device).set_rng_state(states["device"], *_which(device))


def _checked(state: Tensor) -> Tensor:
    """The state of a generator of PyTorch on the CPU, if by it the generator would not read beyond its own words.

    PyTorch sees that the number of words that are left, and that of the next one, are each in range, but not both.

    Raises:
        Exception: of several kinds, if it is none.
    """
    content = state.numpy().tobytes()
    (left,), (following,) = struct.unpack_from("=i", content, 8), struct.unpack_from("=q", content, 16)
    if left + following > 625:
        raise ValueError("PyTorch's random state is none")
    return state


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """What tells a kind of device which one is meant; there is only one of MPS, which is told nothing."""
    return () if device.type == "mps" else (device,)
