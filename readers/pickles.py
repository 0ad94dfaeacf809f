"""Loads pickles from untrusted files without running code from them.

A pickle is a program for a stack machine, and Python's own machine can call any function. The machine here knows only
the instructions for lists, text and numbers, and calls only the factories that the reader admits by name. Factories
return inert stand-ins. Real objects are made from these at the end, once everything about them is checked. So a file
cannot run code, cannot make numpy read memory that is not its own, and cannot take much more memory than its size.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast


class Refused(pickle.UnpicklingError):
    """A pickle asks for a name that the reader does not admit."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"refused to load {module}.{name}")


class Factory:
    """Base class of what a pickle may call."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        """Build a stand-in from unchecked arguments."""
        raise pickle.UnpicklingError("it calls an object that cannot be called")


class StandIn:
    """Base class of what factories return."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Take an unchecked state."""
        raise pickle.UnpicklingError("it sets the state of an object that has none")

    def finished(self, finish_all: Callable[[Sequence[Any]], list[Any]]) -> Any:
        """Return the real object; `finish_all` makes the real objects of its parts."""
        raise NotImplementedError


def load_pickle(file: IO[bytes], size: int, admitted: Mapping[tuple[str, str], Any], *, levels: int) -> Any:
    """Load a pickle.

    Args:
        file: read from its current position to the end of the pickle.
        size: of the file, in bytes.
        admitted: the stand-in for each admitted (module, name); those that may be called are a `Factory`.
        levels: how deep lists and stand-ins may be nested.

    Returns:
        The content, with real objects for the stand-ins. Tuples become lists; strings of Python 2 become bytes.

    Raises:
        Refused: the pickle asks for a name that is not admitted.
        Exception: of any kind, if the pickle is damaged or holds anything else.
    """
    return _Finisher(size).finish(_run(_Bounded(file, size), admitted), levels)


class _Bounded:
    """A file from which no more bytes can be asked than it has, since Python allocates that many at once."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes."""
        return self._file.read(min(count, self._size))


# Instructions that put their argument on the stack.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}


def _run(file: _Bounded, admitted: Mapping[tuple[str, str], Any]) -> Any:
    """Run a pickle; returns its value, with stand-ins in it."""
    machine, frame_end = _Machine(admitted), 0
    argument: Any
    position: Any
    for instruction, argument, position in pickletools.genops(cast("IO[bytes]", file)):
        if position < frame_end < file.tell() or (instruction.name == "FRAME" and position < frame_end):
            raise pickle.UnpicklingError("an instruction crosses the end of its frame")
        match instruction.name:
            case "PROTO":
                pass
            case "FRAME":
                frame_end = file.tell() + argument
            case "STOP":
                return machine.stack.pop()
            case name:
                machine.step(name, argument)
    raise pickle.UnpicklingError("it has no end")


class _Machine:
    """What a pickle's instructions change."""

    def __init__(self, admitted: Mapping[tuple[str, str], Any]) -> None:
        self.admitted = admitted
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def above_mark(self) -> list[Any]:
        """Take off the stack what lies above the last mark."""
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which must be of this kind."""
        if not isinstance(self.stack[-1], kind):
            raise pickle.UnpicklingError(f"an instruction needs a {kind.__name__} on the stack")
        return self.stack[-1]

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        stack = self.stack
        match name:
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case value if value in _VALUES:
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # of Python 2, also the raw data of arrays
                stack.append(argument.encode("latin1"))
            case "MARK":
                self.marks.append(len(stack))
            case "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "LIST":
                stack.append(self.above_mark())
            case "TUPLE":
                stack.append(tuple(self.above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(values[::-1]))
            case "APPEND":
                value = stack.pop()
                self.top(list).append(value)
            case "APPENDS":
                values = self.above_mark()
                self.top(list).extend(values)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_named(self.admitted, *argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_named(self.admitted, module, attribute))
            case "REDUCE":
                arguments = self.top(tuple)
                stack.pop()
                factory = self.top(Factory)
                stack[-1] = factory(*arguments)
            case "BUILD":
                state = stack.pop()
                self.top(StandIn).build(state)
            case other:
                raise pickle.UnpicklingError(f"unexpected pickle instruction {other}")


def _named(admitted: Mapping[tuple[str, str], Any], module: Any, name: Any) -> Any:
    """Return the stand-in for a name. Only here could a pickle reach the program."""
    if type(module) is not str or type(name) is not str:
        raise pickle.UnpicklingError("a name is not text")
    if (module, name) not in admitted:
        raise Refused(module, name)
    return admitted[module, name]


class _Finisher:
    """Makes real objects from stand-ins.

    Args:
        budget: how many entries all lists and arrays may have together. Each entry takes at least a byte of a pickle,
            but a short file can put one long list into another many times.
    """

    def __init__(self, budget: int) -> None:
        self._left = budget

    def finish(self, value: Any, levels: int) -> Any:
        """Return the real object of a loaded value, which may be nested `levels` deep."""

        def finish_all(parts: Sequence[Any]) -> list[Any]:
            self._left -= len(parts)
            if self._left < 0:
                raise pickle.UnpicklingError("more entries than bytes")
            return [self.finish(part, levels - 1) for part in parts]

        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if levels and isinstance(value, (list, tuple)):
            return finish_all(value)
        if levels and isinstance(value, StandIn):
            return value.finished(finish_all)
        raise pickle.UnpicklingError("it holds more than arrays and lists of numbers and strings")
