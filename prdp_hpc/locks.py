"""Locks on the output of a job, so that a second job does not write there too.

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.console import note
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors

FOLDER_LOCK = ".lock"
"""Name of the lock file in a locked folder."""
PATIENCE = 3.0
"""Seconds within which the processes of a killed job end."""
POLL = 0.1

LEASE = 120.0
"""Seconds after which a file server releases the lock of a node that does not respond."""
POLL = 0.1

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_Key = tuple[int, int]


@dataclass
class _Held:
    descriptor: int
    times: int = 1


_held: dict[_Key, _Held] = {}
"""Held locks by device and inode. Opening and closing such a file again would release its lock."""


class LockedError(InputError):
    """Another job writes to the same path; the message states which job, where and since when."""


@contextmanager
def locked(
    comm: MPI.Comm, path: str | Path, advice: str, folder: bool = False, wait: bool = False
) -> Iterator[None]:
    """Hold the lock of a file or folder that the ranks of `comm` write; collective.

    The lock file of a file is beside it (`.<name>.lock`), that of a folder is in it (`.lock`); it
    is held by rank 0 and removed at the end. A job may acquire a lock several times.

    Parameters
    ----------
    advice : what to do if another job holds it, as the end of a sentence.
    folder : whether `path` is a folder, which is made if it does not exist.
    wait : wait for the other job and print a message, instead of raising an error.

    Raises
    ------
    LockedError
        On all ranks, if another job holds it.
    FileError
        On all ranks, if the lock file cannot be written.
    """
    target = Path(path)
    place = target / FOLDER_LOCK if folder else target.with_name(f".{target.name}.lock")
    key = call_together(
        comm, lambda: _acquire(place, target, advice, wait) if comm.rank == 0 else None
    )
    try:
        yield
    finally:
        if key is not None:
            _release(key, place)


def is_locked(place: Path) -> bool:
    """Whether another process holds the lock of this file."""
    if _key(place) in _held:
        return False
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CLOEXEC)
        try:
            return not _try(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        return False


def _acquire(place: Path, target: Path, advice: str, wait: bool) -> _Key | None:
    """Acquire the lock; returns its key, or None if the file system has no locks."""
    with file_errors(target, "cannot be written"):
        place.parent.mkdir(parents=True, exist_ok=True)
        key = _key(place)
        if key in _held:
            _held[key].times += 1
            return key
        try:
            descriptor = _opened(place, target, advice, wait)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{target}: this file system has no locks ({error.strerror}), so make sure that no "
                "second job writes there",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        found = os.fstat(descriptor)
        _held[found.st_dev, found.st_ino] = _Held(descriptor)
        _write_holder(descriptor)
        return found.st_dev, found.st_ino


def _opened(place: Path, target: Path, advice: str, wait: bool) -> int:
    """The descriptor of the lock, after other processes have released it."""
    start, told = time.monotonic(), False
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            free = _try(descriptor)
            found = os.fstat(descriptor)
            # Its holder may have removed the file between the two calls.
            if free and _key(place) == (found.st_dev, found.st_ino):
                taken, descriptor = descriptor, -1
                return taken
            holder = _read_holder(descriptor)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if not free and time.monotonic() > start + _patience(holder):
            if not wait:
                raise LockedError(f"{target} is being written by {_shown(holder)}: {advice}")
            if not told:
                said = f"waiting for {target}, which is being written by {_shown(holder)}"
                note(f"prdp-hpc: {said}")
                told = True
        time.sleep(POLL)


def _try(descriptor: int) -> bool:
    """Acquire the lock if no other process holds it; returns whether it was acquired."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _release(key: _Key, place: Path) -> None:
    held = _held[key]
    held.times -= 1
    if held.times:
        return
    del _held[key]
    # Removed before the release, because afterwards another process may hold the lock.
    with suppress(OSError):
        if _key(place) == key:
            place.unlink()
    os.close(held.descriptor)


def _key(place: Path) -> _Key | None:
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
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": _restart(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


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


def _patience(holder: dict[str, Any]) -> float:
    """Seconds to wait: an earlier start of this SLURM job has ended, even if the lock remains."""
    mine = _myself()
    again = mine["job"] is not None and holder.get("job") == mine["job"]
    return LEASE if again and mine["restart"] > holder.get("restart", 0) else PATIENCE


def _shown(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    job = f"SLURM job {holder['job']}, " if holder.get("job") else ""
    return (
        f"process {holder.get('process')} on {holder.get('host')} ({job}user "
        f"{holder.get('user')}) since {holder.get('since')}"
    )
