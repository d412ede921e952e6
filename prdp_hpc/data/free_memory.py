"""The memory that a process may still use on its node."""

from __future__ import annotations

import os
import resource
from pathlib import Path

SHARE = 0.5
"""Share of the free memory of a node that the samples of all ranks on it may use."""


def free_bytes() -> float:
    """Bytes of memory that are free on this node, within the limits of the job's cgroups."""
    return max(0.0, min(float(_of_the_node()), *_of_cgroups()))


def free_address_space() -> float:
    """Bytes by which this process may still grow (`ulimit -v`); infinite without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    pages = _first_number(Path("/proc/self/statm")) or 0
    return max(0.0, limit - pages * os.sysconf("SC_PAGE_SIZE"))


def _of_the_node() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (available,) = [line for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1024 * int(available.split()[1])


def _of_cgroups() -> list[float]:
    """What the cgroup (version 2) of this process and those that contain it still permit."""
    found = [float("inf")]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    root = Path("/sys/fs/cgroup")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder != root and root not in folder.parents:
                break
            limit, used = (_first_number(folder / f"memory.{name}") for name in ("max", "current"))
            if limit is not None and used is not None:
                found.append(limit - used + _cached(folder))
    return found


def _cached(folder: Path) -> int:
    """Bytes of the page cache in a cgroup that the kernel frees when they are needed."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    numbers = dict(line.split() for line in lines)
    return int(numbers.get("inactive_file", 0))


def _first_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
