"""Loading pickles from elsewhere without running anything that is in them.

A pickle is a small program. It is run only after every instruction in it was found to be one that plain data needs, and
every name in it is looked up in a short list of the reader's. All that those names make are inert stand-ins, of which
real objects are made afterwards, once everything about them has been checked. So a file can neither run code nor have
numpy or PyTorch take its bytes for something else; and what it makes is about as large as itself.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

_INSTRUCTIONS = frozenset(
    """PROTO FRAME STOP MARK GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    GLOBAL STACK_GLOBAL REDUCE BUILD""".split()  # noqa: SIM905 - a list of 45 quoted names is hard to read
)


class Refused(pickle.UnpicklingError):
    """A pickle asks for a name that is not in the reader's list."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"refused to load {module}.{name}")
        self.module, self.name = module, f"{module}.{name}"


class Factory:
    """Base of what a pickle may call; no pickle can change one."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it would change the program")


class StandIn:
    """Base of what those calls make."""

    __slots__ = ()

    def finished(self, finish_all: Callable[[Sequence[Any]], list[Any]]) -> Any:
        """The real object; `finish_all` makes those of its parts."""
        raise NotImplementedError


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: IO[bytes], admitted: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(file, encoding="bytes")  # Python 2 strings, and the raw data of its arrays, are bytes
        self._admitted, self._persistent = admitted, persistent

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name: the one place in which a pickle could reach the program."""
        try:
            return self._admitted[module, name]
        except KeyError:
            raise Refused(module, name) from None

    def persistent_load(self, pid: Any) -> Any:
        """What stands for an object that the pickle says lies outside it."""
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to what is not in it")
        return self._persistent(pid)


def load_pickle(
    file: IO[bytes],
    size: int,
    admitted: Mapping[tuple[str, str], Any],
    *,
    levels: int,
    more_instructions: Iterable[str] = (),
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Load a pickle.

    Args:
        file: is read from where it stands to the pickle's end.
        size: of the file, in bytes.
        admitted: what stands for each module and name; anything that can be called is a `Factory`.
        levels: how deep lists, dicts and stand-ins may lie in one another.
        more_instructions: that are admitted beside those which lists, numbers and strings need.
        persistent: makes stand-ins for the objects that the pickle says lie outside it.

    Returns:
        The content with the real objects for the stand-ins; tuples become lists.

    Raises:
        Exception: of any kind, if the pickle is damaged or holds anything else; `Refused` if it asks for other names.
    """
    start, frame_end = file.tell(), 0
    instructions = _INSTRUCTIONS.union(more_instructions)
    for instruction, argument, position in pickletools.genops(file):
        # The unpickler reads a frame as one block. An instruction across its end would be read differently there and
        # here, and what is checked would not be what is run.
        if position < frame_end < file.tell() or (instruction.name == "FRAME" and position < frame_end):
            raise pickle.UnpicklingError("an instruction crosses the end of its frame")
        if instruction.name == "FRAME":
            frame_end = file.tell() + argument
        if instruction.name not in instructions:
            raise pickle.UnpicklingError(f"unexpected pickle instruction {instruction.name}")
        if instruction.name in ("PUT", "LONG_BINPUT") and argument > size:
            raise pickle.UnpicklingError("more numbered objects than bytes")  # each number would cost memory
    file.seek(start)
    return _Finisher(size).finish(_Unpickler(file, admitted, persistent).load(), levels)


class _Finisher:
    """Makes real objects of stand-ins, and what is met again only once.

    Args:
        budget: how many entries lists and arrays may have altogether. In a pickle each takes a byte at least, but a
            short file could ask for arrays of one long list again and again.
    """

    def __init__(self, budget: int) -> None:
        self._left = budget
        self._done: dict[int, Any] = {}

    def finish(self, value: Any, levels: int) -> Any:
        """The real object of a loaded value, which may be `levels` deep."""
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if not levels or not isinstance(value, (list, tuple, dict, StandIn)):
            raise pickle.UnpicklingError("it holds more than arrays and lists of numbers and strings")
        if id(value) not in self._done:
            self._done[id(value)] = self._make(value, levels - 1)
        return self._done[id(value)]

    def _make(self, value: Any, levels: int) -> Any:
        def finish_all(parts: Sequence[Any]) -> list[Any]:
            self._left -= len(parts)
            if self._left < 0:
                raise pickle.UnpicklingError("more entries than bytes")
            return [self.finish(part, levels) for part in parts]

        if isinstance(value, StandIn):
            return value.finished(finish_all)
        if not isinstance(value, dict):
            return finish_all(value)
        if not all(isinstance(key, (str, int)) for key in value):
            raise pickle.UnpicklingError("a name is neither text nor a number")
        return dict(zip(value, finish_all([*value.values()]), strict=True))
