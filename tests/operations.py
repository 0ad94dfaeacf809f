"""Counts what a device would be given to do."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

# These compute nothing on the device: they look at memory in another way, or ask PyTorch about a tensor.
FREE = {"detach", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}


class Operations(TorchDispatchMode):
    """Counts the operations below autograd by name; views are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in function._schema.arguments)
        if not is_view and name not in FREE and not name.startswith("profiler"):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))
