"""Locks on the output of a job, so that a second job does not write there too.

How a lock works is in `prdp_hpc.lock_files`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mpi4py import MPI

from prdp_hpc import lock_files
from prdp_hpc.console import note
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.distributed.preemption import leave_if_stopped
from prdp_hpc.lock_files import FOLDER_LOCK, Key, LockedError, is_locked

__all__ = ["FOLDER_LOCK", "LockedError", "is_locked", "locked"]


@contextmanager
def locked(
    comm: MPI.Comm,
    path: str | Path,
    advice: str,
    folder: bool = False,
    wait: bool = False,
    shared: bool = False,
    patience: float | None = None,
) -> Iterator[None]:
    """Hold the lock of a file or folder that the ranks of `comm` write; collective.

    The lock file of a file is beside it (`.<name>.lock`), that of a folder is in it (`.lock`); it
    is held by rank 0 and removed at the end. A job may acquire a lock several times.

    Parameters
    ----------
    advice : what to do if another job holds it, as the end of a sentence.
    folder : whether `path` is a folder, which is made if it does not exist.
    wait : wait for the other job and print a message, instead of raising an error. A signal that
        `hold_signals` stores ends the wait: `Preempted` on all ranks.
    shared : whether other jobs may hold the lock too, if they share it.
    patience : seconds before the error, in which the processes of a killed job end; None: 3.

    Raises
    ------
    LockedError
        On all ranks, if another job holds it.
    FileError
        On all ranks, if the lock file cannot be written.
    """
    target = Path(path)
    place = target / FOLDER_LOCK if folder else target.with_name(f".{target.name}.lock")

    def attempt(patience: float | None) -> Key | None:
        acquire = partial(lock_files.acquire, place, target, advice, shared, patience)
        return on_root(comm, acquire)

    key = _after_others(comm, target, attempt, patience) if wait else attempt(patience)
    try:
        yield
    finally:
        if key is not None:
            lock_files.release(key, place)


def _after_others(
    comm: MPI.Comm,
    target: Path,
    attempt: Callable[[float | None], Key | None],
    patience: float | None,
) -> Key | None:
    """Attempt to acquire a lock until it succeeds; a signal ends the wait. Collective."""
    while True:
        try:
            return attempt(patience)
        except LockedError as error:
            if comm.rank == 0 and patience != 0.0:
                note(f"prdp-hpc: waiting for {target}, which is being written by {error.by}")
            patience = 0.0
        leave_if_stopped(comm, f"while waiting for {target}: it continues when started again")
        time.sleep(lock_files.POLL)
