"""How much memory is free, by the files in which Linux says so: of the machine, the container, the job, the process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that can still be allocated: a GPU's own, else those of this machine, container, batch job or process.

    Swap counts as no memory: training from it would be hundreds of times slower.

    Args:
        device: to allocate on.
        root: where `/proc` and `/sys` are.

    Returns:
        None if the system does not say.
    """
    if device.type == "cuda":  # of what PyTorch has taken, some may be free, as after an earlier run of several seeds
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        known = re.search(r"MemAvailable: +(\d+) kB", (root / "proc/meminfo").read_text())
    except OSError:  # not Linux
        return None
    if known is None:
        return None
    return max(0, min([1024 * int(known[1]), *_left_in_cgroups(root), *_left_to_process(root)]))


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Bytes below the memory limit of each cgroup of this process; a batch system may set it on any of those above.

    Above `memory.high`, a process is slowed down rather than ended. What groups outside a container have is not seen,
    but version 1 tells their limit in the group within.
    """
    for folder in _memory_cgroups(root):
        statistics = ""
        with suppress(OSError):
            statistics = (folder / "memory.stat").read_text()
        taken = sum(map(int, re.findall(r"^(?:anon|shmem|total_rss|total_shmem) (\d+)", statistics, re.MULTILINE)))
        for limit in re.findall(r"^hierarchical_memory_limit (\d+)", statistics, re.MULTILINE):
            yield int(limit) - taken
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # without a limit, or "max", which is none
                yield int((folder / name).read_text()) - taken


def _memory_cgroups(root: Path) -> Iterator[Path]:
    """The folders of the cgroups, of version 2 and 1, that count this process's memory, and of those above them."""
    mounts = [("cgroup2", "/", "/sys/fs/cgroup"), ("cgroup", "/", "/sys/fs/cgroup/memory")]  # kind, group there, folder
    with suppress(OSError):
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            found = re.match(r"\S+ \S+ \S+ (\S+) (\S+) .* - (?:(cgroup2)|(cgroup) \S+ \S*\bmemory\b)", line)
            if found:  # in a container, a group from within the tree may be mounted
                mounts.append((found[3] or found[4], found[1], found[2]))
    own: list[tuple[str, str]] = []  # kind and group
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text()
        own = re.findall(r"^\d+:((?:[^:]*,)?memory(?:,[^:]*)?|):(/.*)$", lines, re.MULTILINE)
    for controllers, name in own:
        for kind, mounted, folder in mounts:
            if kind == ("cgroup" if controllers else "cgroup2"):
                group = PurePosixPath(name)
                group = group.relative_to(mounted) if group.is_relative_to(mounted) else group.relative_to("/")
                if ".." in group.parts:  # outside of the tree that can be seen
                    group = PurePosixPath()
                yield from (root / folder.lstrip("/") / part for part in (group, *group.parents))


def _left_to_process(root: Path) -> Iterator[int]:
    """Bytes below the limits of this process itself, as `ulimit -v` and `ulimit -d` set them."""
    with suppress(ImportError, OSError):
        import resource  # other systems have none

        status = (root / "proc/self/status").read_text()
        for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            taken = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
            if taken and (most := resource.getrlimit(limit)[0]) != resource.RLIM_INFINITY:
                yield most - 1024 * int(taken[1])
