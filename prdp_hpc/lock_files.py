"""Lock files: locks of one process on a file or folder, without MPI; see `prdp_hpc.locks`.

A lock on a file is held by one process, and the kernel releases it when that process ends for any
reason: a job that was killed leaves the file but no lock, and the next job starts immediately.
POSIX record locks (`fcntl.lockf`) are used instead of `flock`, because they work across the nodes
of a cluster on NFS, Lustre and GPFS, and are not kept by children of a process that was killed. On
NFS 4 the lock of a node that lost its power lasts until its lease ends, 90 seconds by default. If a
file system has no locks, a warning is issued and the job continues.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import socket
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.files import file_error

FOLDER_LOCK = ".lock"
"""Name of the lock file in a locked folder."""
PATIENCE = 3.0
"""Seconds within which the processes of a killed job end."""
POLL = 0.1
"""Seconds between two attempts."""
LEASE = 120.0
"""Seconds after which a file server releases the lock of a node that does not respond."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
Key = tuple[int, int]


@dataclass
class _Held:
    descriptor: int
    shared: bool
    times: int = 1


_held: dict[Key, _Held] = {}
"""Held locks by device and inode. Opening and closing such a file again would release its lock."""


class LockedError(InputError):
    """Another job writes to the same path; the message states which job, where and since when.

    `by` is its description, on the rank that has tried to acquire the lock.
    """

    by = "another process"


def is_locked(place: Path) -> bool:
    """Whether another process holds the lock of this file."""
    return holder(place) is not None


def holder(place: Path) -> dict[str, Any] | None:
    """The description of another process that holds the lock of this file, with the keys process,
    host, user, job, restart and since; empty if it has written none, None if no process holds it.
    """
    if _key(place) in _held:
        return None
    with suppress(OSError):
        # A lock for writing needs the right to write, which others of a group may not have.
        shared = not os.access(place, os.W_OK)
        descriptor = os.open(place, (os.O_RDONLY if shared else os.O_RDWR) | os.O_CLOEXEC)
        try:
            return None if _try(descriptor, shared) else _read_holder(descriptor)
        finally:
            os.close(descriptor)
    return None


def acquire(
    place: Path, target: Path, advice: str, shared: bool, patience: float | None
) -> Key | None:
    """Acquire the lock `place` of `target`; returns its key, or None if the file system has no
    locks. For the arguments see `prdp_hpc.locks.locked`.
    """
    try:
        return _acquired(place, target, advice, shared, patience)
    except OSError as error:
        raise file_error(error, target, "cannot be written") from error


def _acquired(
    place: Path, target: Path, advice: str, shared: bool, patience: float | None
) -> Key | None:
    place.parent.mkdir(parents=True, exist_ok=True)
    key = _key(place)
    if key in _held:
        _held[key].times += 1
        return key
    try:
        descriptor = _opened(place, target, advice, shared, patience)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{target}: this file system has no locks ({error.strerror}), so make sure that no "
            "second job writes there",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    found = os.fstat(descriptor)
    _held[found.st_dev, found.st_ino] = _Held(descriptor, shared)
    _write_holder(descriptor)
    return found.st_dev, found.st_ino


def _opened(place: Path, target: Path, advice: str, shared: bool, patience: float | None) -> int:
    """The descriptor of the lock, after other processes have released it."""
    start = time.monotonic()
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            free = _try(descriptor, shared)
            found = os.fstat(descriptor)
            # Its holder may have removed the file between the two calls.
            if free and _key(place) == (found.st_dev, found.st_ino):
                taken, descriptor = descriptor, -1
                return taken
            other = _read_holder(descriptor)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if not free and time.monotonic() >= start + _patience(other, patience):
            error = LockedError(f"{target} is being written by {shown(other)}: {advice}")
            error.by = shown(other)
            raise error
        time.sleep(POLL)


def _try(descriptor: int, shared: bool) -> bool:
    """Acquire the lock if no other process prevents it; returns whether it was acquired."""
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def release(key: Key, place: Path) -> None:
    """Release a lock and remove its file, unless other processes share the lock."""
    held = _held[key]
    held.times -= 1
    if held.times:
        return
    del _held[key]
    # Removed before the release, because afterwards another process may hold the lock.
    with suppress(OSError):
        alone = not held.shared or _try(held.descriptor, shared=False)
        if alone and _key(place) == key:
            place.unlink()
    os.close(held.descriptor)


def _key(place: Path) -> Key | None:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _write_holder(descriptor: int) -> None:
    """Write the description of this process into the lock file, for the error of a second job."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_myself()).encode(), 0)


def _myself() -> dict[str, Any]:
    user = str(os.getuid())
    with suppress(KeyError, OSError):
        user = getpass.getuser()
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "user": user,
        "job": _job(),
        "restart": _restart(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _job() -> str | None:
    """The id of this SLURM job as squeue prints it, also for a task of an array."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is not None:
        return f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def _restart() -> int:
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdigit() else 0


def _read_holder(descriptor: int) -> dict[str, Any]:
    """The holder's description of itself; empty if it was not written yet, or was removed."""
    with suppress(OSError, ValueError):
        content = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(content, dict):
            return content
    return {}


def _patience(other: dict[str, Any], patience: float | None) -> float:
    """Seconds to wait: an earlier start of this SLURM job has ended, even if the lock remains."""
    mine = _myself()
    again = mine["job"] is not None and other.get("job") == mine["job"]
    if again and mine["restart"] > other.get("restart", 0):
        return LEASE
    return PATIENCE if patience is None else patience


def shown(other: dict[str, Any]) -> str:
    """The description of the holder of a lock as text."""
    if not other:
        return "another process"
    job = f"SLURM job {other['job']}, " if other.get("job") else ""
    return (
        f"process {other.get('process')} on {other.get('host')} ({job}user "
        f"{other.get('user')}) since {other.get('since')}"
    )
