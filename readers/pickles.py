"""Loading pickles from elsewhere without running anything that is in them.

A pickle is a small program for a machine with a stack. Python's own machine can be made to call anything. The one below
knows only the instructions that plain data needs, and calls only what the reader lends it, by name, from a short list.
What those calls make are inert stand-ins, of which real objects are made once all about them has been checked. So a
file can neither run code nor have numpy or PyTorch take its bytes for something else, and what it makes takes no more
memory than a file of its size accounts for.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any


class Refused(pickle.UnpicklingError):
    """A pickle asks for a name that is not in the reader's list."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"refused to load {module}.{name}")


class Factory:
    """Base of what a pickle may call."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        """Make something of arguments that nobody has looked at."""
        raise pickle.UnpicklingError("it calls what cannot be called")


class StandIn:
    """Base of what those calls make."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Take a state that nobody has looked at."""
        raise pickle.UnpicklingError("it changes what cannot be changed")

    def finished(self, finish_all: Callable[[Sequence[Any]], list[Any]]) -> Any:
        """The real object; `finish_all` makes those of its parts."""
        raise NotImplementedError


def load_pickle(
    file: IO[bytes],
    size: int,
    admitted: Mapping[tuple[str, str], Any],
    *,
    levels: int,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Load a pickle.

    Args:
        file: is read from where it stands to the pickle's end.
        size: of the file, in bytes.
        admitted: what stands for each module and name; what is to be called is a `Factory`.
        levels: how deep lists, dicts and stand-ins may lie in one another.
        persistent: makes stand-ins for the objects that the pickle says lie outside it.

    Returns:
        The content with the real objects for the stand-ins; tuples become lists. Texts of Python 2 are bytes.

    Raises:
        Exception: of any kind, if the pickle is damaged or holds anything else; `Refused` if it asks for other names.
    """
    return _Finisher(size).finish(_run(_Bounded(file, size), admitted, persistent), levels)


class _Bounded:
    """A file that is not asked for more bytes than it can have, since memory for them would be taken at once."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        """As of a file."""
        return self._file.read(min(count, self._size))


def _run(file: _Bounded, admitted: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any] | None) -> Any:
    """The value that a pickle makes, with stand-ins in it."""
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, Any] = {}
    frame_end = 0

    def above_mark() -> list[Any]:
        height = marks.pop()
        values = stack[height:]
        del stack[height:]
        return values

    def top(kind: type) -> Any:
        if not isinstance(stack[-1], kind):
            raise pickle.UnpicklingError(f"an instruction wants a {kind.__name__}, and there is none")
        return stack[-1]

    def put(pairs: list[Any]) -> None:
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, int):  # to hash anything else could take for ever
                raise pickle.UnpicklingError("a name is neither text nor a number")
            top(dict)[key] = value

    for instruction, argument, position in pickletools.genops(file):
        if position < frame_end < file.tell() or (instruction.name == "FRAME" and position < frame_end):
            raise pickle.UnpicklingError("an instruction crosses the end of its frame")
        match instruction.name:
            case "PROTO":
                pass
            case "FRAME":
                frame_end = file.tell() + argument
            case "STOP":
                return stack.pop()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction.name])
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # Python 2's, also for the raw data of arrays
                stack.append(argument.encode("latin1"))
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_DICT":
                stack.append({"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}[instruction.name]())
            case "LIST":
                stack.append(above_mark())
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(instruction.name[-1])
                values = [stack.pop() for _ in range(count)]
                stack.append(tuple(values[::-1]))
            case "DICT":
                pairs = above_mark()
                stack.append({})
                put(pairs)
            case "APPEND":
                value = stack.pop()
                top(list).append(value)
            case "APPENDS":
                values = above_mark()
                top(list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                put([key, value])
            case "SETITEMS":
                put(above_mark())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_named(admitted, *argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(admitted, module, name))
            case "REDUCE":
                arguments = top(tuple)
                stack.pop()
                factory = top(Factory)
                stack[-1] = factory(*arguments)
            case "BUILD":
                state = stack.pop()
                top(StandIn).build(state)
            case "BINPERSID" if persistent is not None:
                stack.append(persistent(stack.pop()))
            case other:
                raise pickle.UnpicklingError(f"unexpected pickle instruction {other}")
    raise pickle.UnpicklingError("it has no end")


def _named(admitted: Mapping[tuple[str, str], Any], module: Any, name: Any) -> Any:
    """What stands for a name: the one place in which a pickle could reach the program."""
    if type(module) is not str or type(name) is not str:
        raise pickle.UnpicklingError("a name is no text")
    if (module, name) not in admitted:
        raise Refused(module, name)
    return admitted[module, name]


class _Finisher:
    """Makes real objects of stand-ins.

    Args:
        budget: how many entries lists and arrays may have altogether. In a pickle each takes a byte at least, but a
            short file could put one long list into another again and again.
    """

    def __init__(self, budget: int) -> None:
        self._left = budget

    def finish(self, value: Any, levels: int) -> Any:
        """The real object of a loaded value, which may be `levels` deep."""

        def finish_all(parts: Sequence[Any]) -> list[Any]:
            self._left -= len(parts)
            if self._left < 0:
                raise pickle.UnpicklingError("more entries than bytes")
            return [self.finish(part, levels - 1) for part in parts]

        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if levels and isinstance(value, (list, tuple)):
            return finish_all(value)
        if levels and isinstance(value, dict):
            return dict(zip(value, finish_all([*value.values()]), strict=True))
        if levels and isinstance(value, StandIn):
            return value.finished(finish_all)
        raise pickle.UnpicklingError("it holds more than arrays and lists of numbers and strings")
