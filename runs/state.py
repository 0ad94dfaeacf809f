"""`ckpt/resume.pt`: all that a training run needs to go on as if it had never stopped.

It is the one file that says how far a run is. It is written now and then, and an epoch whose weights are saved is
recorded in this order: its lines in the log, `resume.pt`, its weights. So a run can be killed at any moment: log lines
that are newer than `resume.pt` are dropped when it is resumed, and weights that did not get onto the disk are in
`resume.pt`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from eval.results import DAMAGED, EpochResults, Results
from readers.checkpoints import read_checkpoint, use_weights
from readers.facts import WeightsRecord
from runs.weights import save_checkpoint
from utils import InputError, error_text, is_finite_number, log, ran_out, shorten_list

FORMAT = 3
REMEDY = (
    "Start another run in another --exp_dir, with --pretrained_ckpt and the last_model.pkl beside it if there is one"
)


class Stateful(Protocol):
    """Whatever `resume.pt` can keep: a network, an optimizer, an LR scheduler."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take over a state."""


@dataclass(frozen=True)
class SavedRun:
    """The content of a `resume.pt`."""

    options: dict[str, Any]  # by name, as JSON values
    data: str  # `runs.inputs.Data.digest`
    terms: list[str]  # K names of what is recorded of each step
    machine: dict[str, Any]
    epoch: int  # the last finished one; 0 at the start
    steps: Tensor  # [S, K] of the epoch that was interrupted; S is 0 if none was
    seconds: float  # spent on that epoch so far
    evaluated: int  # the last epoch whose evaluation is recorded; 0 before the first
    best: EpochResults | None
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    others: dict[str, dict[str, Any]]  # the states of whatever else is resumed
    random: dict[str, Any]  # of all generators but the next
    generator: Tensor  # of the order of training videos, at the start of the epoch
    record: dict[str, Any]  # of the weights, see `WeightsRecord`

    def content(self) -> dict[str, Any]:
        """What the file holds."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"format": FORMAT, **content, "best": self.best and self.best.to_json()}


def read_resume(path: Path) -> SavedRun:
    """Read a `resume.pt`.

    Raises:
        InputError: it is damaged, or of another version of the program.
    """
    try:
        content = read_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}. {REMEDY}") from None
    if not isinstance(content, dict) or type(content.get("format")) is not int or content["format"] != FORMAT:
        raise InputError(f"{path}: not a resume.pt of this version of the program. {REMEDY}")
    try:
        best = content["best"] and EpochResults.from_json(content["best"])
        content = {"record": {}, **content}  # earlier versions had none
        saved = SavedRun(**{field.name: content[field.name] for field in fields(SavedRun)} | {"best": best})
        kinds = {"options": dict, "terms": list, "epoch": int, "evaluated": int, "steps": Tensor}
        kinds |= dict.fromkeys(("weights", "optimizer", "others", "random", "record"), dict)
        if wrong := [name for name, kind in kinds.items() if not isinstance(getattr(saved, name), kind)]:
            raise TypeError(f"{wrong[0]} is of another kind")
        if min(saved.epoch, saved.evaluated) < 0 or not is_finite_number(saved.seconds):
            raise ValueError("its epochs or seconds are not valid numbers")
        if saved.steps.dim() != 2 or saved.steps.shape[1] != len(saved.terms) or not saved.steps.isfinite().all():
            raise ValueError("the values of the steps are not finite, or not of these terms")
    except DAMAGED as error:
        raise damaged(path, error) from None
    return saved


def damaged(path: Path, error: BaseException | str) -> InputError:
    """The error to raise for a `resume.pt` that cannot be used."""
    return InputError(f"{path}: damaged ({error_text(error)}). {REMEDY}")


class TrainingState:
    """What training changes, and how far it is.

    Args:
        path: of `resume.pt`.
        options: of the run, as JSON values.
        data: `runs.inputs.Data.digest` of what it trains on.
        terms: K names of what is recorded of each step.
        model: in training.
        optimizer: of the model.
        generator: of the order of training videos.
        others: whatever else is to be resumed, by name, such as an LR scheduler.
        record: what the weights depend on, as JSON values.

    Attributes:
        epoch, seconds, evaluated, best: as in `SavedRun`.
        steps: the K values of each step so far of the next epoch, `[K]` each on the device.
        kept: how far `resume.pt` is, see `position`.
    """

    def __init__(
        self,
        path: Path,
        *,
        options: Mapping[str, Any],
        data: str,
        terms: Sequence[str],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        others: Mapping[str, Stateful],
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.options, self.data, self.terms = path, dict(options), data, list(terms)
        self.record = dict(record or {})
        self.model, self.optimizer, self.generator, self.others = model, optimizer, generator, dict(others)
        self.device = next(model.parameters()).device
        self.epoch, self.evaluated, self.seconds = 0, 0, 0.0
        self.steps: list[Tensor] = []
        self.best: EpochResults | None = None
        self.kept = self.position
        self._copies = Copies(self.device)

    @property
    def position(self) -> tuple[int, int]:
        """How far training is: the last finished epoch, and the number of steps after it."""
        return self.epoch, len(self.steps)

    @property
    def is_written_in_place(self) -> bool:
        """Whether weights and the optimizer's state are written from where they are, so that the optimizer has to wait.

        On the CPU a copy would take as much memory as the largest step can spare, and most of a step is done before.
        """
        return self.device.type == "cpu"

    def save(self, order: Tensor | None = None) -> None:
        """Write `resume.pt`; see `snapshot` and `write`."""
        self.write(self.snapshot(order))

    def snapshot(self, order: Tensor | None = None) -> dict[str, Any]:
        """What `resume.pt` is to hold, for `write`, which may happen in a thread while training goes on.

        Args:
            order: in the middle of an epoch, the state that the generator had at its start.
        """
        saved = SavedRun(
            options=self.options,
            data=self.data,
            terms=self.terms,
            machine=about_machine(self.device),
            epoch=self.epoch,
            steps=torch.stack(self.steps) if self.steps else torch.empty(0, len(self.terms)),
            seconds=self.seconds,
            evaluated=self.evaluated,
            best=self.best,
            weights=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            others={name: part.state_dict() for name, part in self.others.items()},
            random=random_states(self.device),
            generator=self.generator.get_state() if order is None else order,
            record=self.record,
        )
        return self._copies.take(saved.content(), self._steady() if self.is_written_in_place else frozenset())

    def _steady(self) -> set[int]:
        """The addresses of all tensors that the optimizer's step alone changes."""
        parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        of_optimizer = (value for state in self.optimizer.state.values() for value in state.values())
        return {value.data_ptr() for value in (*parameters, *of_optimizer) if isinstance(value, Tensor)}

    def write(self, snapshot: Mapping[str, Any]) -> None:
        """Write `resume.pt`.

        Raises:
            CannotWrite: it cannot be written; the previous one is still there.
        """
        self._copies.wait()
        save_checkpoint(self.path, snapshot)
        self.kept = snapshot["epoch"], len(snapshot["steps"])

    def restore(self, saved: SavedRun) -> None:
        """Put everything back into the state that was saved.

        Raises:
            InputError: it is of other data, other loss terms or another network, or damaged.
        """
        if saved.data != self.data:
            changed = "videos, labels, proposals, descriptors or ground truth"
            records = [WeightsRecord.from_json(part, self.path, REMEDY) for part in (saved.record, self.record)]
            before, after = (record.class_names or () for record in records)
            if before and before != after:
                changed = f"the classes were {shorten_list(before, 10)}, and are {shorten_list(after, 10)}"
            raise InputError(
                f"{self.path}: the data have changed since the run was started ({changed}); restore them, or start "
                "another run in another --exp_dir"
            )
        if saved.terms != self.terms:
            raise InputError(
                f"{self.path}: loss terms were added, removed or reordered since the run was started. It recorded "
                f"{', '.join(map(str, saved.terms))}; now: {', '.join(self.terms)}. Start "
                "another run in another --exp_dir"
            )
        for name, value in about_machine(self.device).items():
            if (was := saved.machine.get(name)) != value:
                log.info(f"notice: {name} is {value} and was {was}: from here on, results are not bit for bit the same")
        use_weights(self.model, saved.weights, self.path)
        try:
            self.optimizer.load_state_dict(fitting(saved.optimizer, self.optimizer))
            for name, part in self.others.items():
                part.load_state_dict(saved.others[name])
            set_random_states(saved.random, self.device)
            self.generator.set_state(saved.generator)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            if ran_out(error):
                raise
            raise damaged(self.path, error) from None
        self.steps = [*saved.steps.to(self.device)]
        self.epoch, self.evaluated, self.seconds, self.best = saved.epoch, saved.evaluated, saved.seconds, saved.best
        self.kept = self.position

    def finish_epoch(self, results: Results | None) -> None:
        """Note that an epoch is over, and its results if it was evaluated."""
        self.epoch += 1
        self.steps, self.seconds = [], 0.0
        if results is not None:
            self.note_evaluation(results)

    def note_evaluation(self, results: Results) -> None:
        """Note the results of the last epoch."""
        self.evaluated = self.epoch
        if self.best is None or results.is_better_than(self.best.results):
            self.best = EpochResults(results, self.epoch)


def about_machine(device: torch.device) -> dict[str, Any]:
    """What results depend on beside options and data."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"PyTorch": str(torch.__version__), "device": name, "number of threads": torch.get_num_threads()}


def fitting(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved optimizer state, after a check of each parameter's part; PyTorch compares only their number.

    Raises:
        ValueError: it does not fit the optimizer's parameters, or is not finite.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not set(state["state"]) <= set(range(len(parameters))):  # those without a gradient so far have none
        raise ValueError("the optimizer's state is of other parameters")
    kept: dict[int, dict[str, Any]] = {}
    for i, values in state["state"].items():
        for name, value in values.items():
            if (
                not isinstance(value, Tensor)
                or value.shape not in ((), parameters[i].shape)
                or not value.isfinite().all()
            ):
                raise ValueError(f"the optimizer's {name} of parameter {i} does not fit the network, or is not finite")
        # Fused optimizers take for granted that numbers lie in order in memory.
        kept[i] = {name: value.contiguous() for name, value in values.items()}
    if len({frozenset(values) for values in kept.values()}) > 1:
        raise ValueError("the optimizer's state lacks values of some parameters")
    return {**state, "state": kept}


class Copies:
    """Copies on the CPU of nested values. CUDA's tensors are copied to page-locked memory, which is taken once.

    Nothing waits for the device when they are taken; `wait` does, in whatever thread uses them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[tuple[str | int, ...], Tensor] = {}  # by the place of the value
        self._copied: torch.cuda.Event | None = None

    def take(self, value: Any, steady: Set[int]) -> Any:
        """A copy, with one object for equal texts, so that equal content has equal bytes, and lists for tuples.

        Args:
            value: of dicts, lists, tensors and plain values.
            steady: addresses of tensors on the CPU that are not copied.
        """
        copy = self._take(value, steady, ())
        if self._device.type == "cuda":
            self._copied = torch.cuda.current_stream(self._device).record_event()
        return copy

    def wait(self) -> None:
        """Wait until the device has made the last copy."""
        if self._copied is not None:
            self._copied.synchronize()

    def _take(self, value: Any, steady: Set[int], place: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            return {
                self._take(name, steady, ()): self._take(part, steady, (*place, name)) for name, part in value.items()
            }
        if isinstance(value, (list, tuple)):  # files give back both as lists
            return [self._take(part, steady, (*place, i)) for i, part in enumerate(value)]
        if not isinstance(value, Tensor):
            return sys.intern(value) if type(value) is str else value
        if value.device.type != "cuda":
            return value.detach().to("cpu", copy=value.data_ptr() not in steady)
        kept = self._kept.get(place)
        if kept is None or (kept.shape, kept.dtype) != (value.shape, value.dtype):
            kept = self._kept[place] = torch.empty_like(value, device="cpu", pin_memory=True)
        return kept.copy_(value.detach(), non_blocking=True)


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's, PyTorch's and the device's global generators."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one, see `seed_everything`
    kind, key = state["bit_generator"], state["state"]["key"]
    position = (state["state"]["pos"], state["has_gauss"], state["gauss"])
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(key.astype(np.int64)), *position),
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(*_index(device)),
    }


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set all global generators; `random_states` gave the states.

    Raises:
        RuntimeError, ValueError, TypeError, LookupError, AttributeError: they are not valid states.
    """
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))  # files give back tuples as lists
    kind, key, *position = states["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *position))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type != "cpu" and states["device"] is not None:
        torch.get_device_module(device).set_rng_state(states["device"], *_index(device))


def _index(device: torch.device) -> tuple[torch.device, ...]:
    """The argument of `get_rng_state` and `set_rng_state`: the device, or none on MPS."""
    return () if device.type == "mps" else (device,)
