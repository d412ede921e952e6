"""A rank that fails alone ends the whole job, instead of leaving the others waiting for ever.

With `install`, which importing any part of this package that uses MPI calls where there are several
ranks:

- An exception that nothing catches is printed once with its rank (the user's `sys.excepthook`
  prints it), whether one rank raises it or all. Unless all ranks leave together within seconds, the
  job is ended by MPI_Abort.
- So it is when one rank leaves with another exit code than 0, by `sys.exit` or otherwise, while
  others do not leave. With 0 a rank waits for the others, as always with MPI, but before PETSc is
  finalised: that is collective, and would take other ranks' messages for its own.
- So it is with an exception in a thread that takes part in collective calls.

Processes that a rank has forked leave without touching MPI.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.distributed import exit_code, watchdog
from prdp_hpc.distributed.remote_error import RemoteError, text_of

RENDEZVOUS_SECONDS = 5.0
"""A rank that fails alone must not wait long for the others to fail too."""

EXIT_SECONDS = 10.0
"""Ranks that leave together may have something left to write, which takes one longer than
another."""

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


def completes(request: MPI.Request, seconds: float) -> bool:
    """Whether a non-blocking operation completes within some time."""
    end = time.monotonic() + seconds
    while not request.Test():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def all_ranks_come(comm: MPI.Comm) -> bool:
    """Whether every rank calls this, or a non-blocking barrier, within a few seconds; for ranks
    whose work has failed.
    """
    return completes(comm.Ibarrier(), RENDEZVOUS_SECONDS)


def abort(comm: MPI.Comm, code: int) -> None:
    """End the whole job after what this rank has said last."""
    _flush()
    # What the launcher has not read when it is told to end all is lost.
    time.sleep(0.5)
    comm.Abort(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()


def fail_alone(error: BaseException) -> None:
    """End the job because of an exception that this rank cannot tell the others."""
    world = MPI.COMM_WORLD
    show(error, f"rank {world.rank} failed while other ranks wait for it, ending the job:")
    abort(world, 1)


def show(error: BaseException, headline: str) -> None:
    """Print an exception as the user's `sys.excepthook` does, under a headline."""
    say(headline)
    _state.print_exception(type(error), error, error.__traceback__)
    # torch.distributed puts a hook around others that keeps what they print until the end.
    if isinstance(sys.stderr, io.StringIO):
        say(sys.stderr.getvalue().rstrip())


def say(text: str) -> None:
    """Print to the process's own standard error at once."""
    print(text, file=sys.__stderr__, flush=True)


@dataclass
class _State:
    """What this process knows about its end.

    Attributes
    ----------
    process : the rank's own id.
    failed : an exception came that nothing caught.
    met : all ranks leave together.
    everyone : all ranks use this package, so that a rank may wait for them.
    threads : those besides the main thread that have taken part in collective calls.
    print_exception, print_thread_exception : the user's hooks.
    """

    process: int = -1
    failed: bool = False
    met: bool = False
    everyone: bool = False
    threads: set[int] = field(default_factory=set)
    print_exception: Hook = sys.__excepthook__
    print_thread_exception: Callable[[Any], Any] = threading.__excepthook__

    def is_a_rank(self) -> bool:
        """Whether this process is a rank of a running job, not a forked child of one."""
        return self.process == os.getpid() and not MPI.Is_finalized()


_state = _State()


def install() -> None:
    """Have failures of one rank end the job; does nothing on one rank, or when called again."""
    if _state.process != -1 or MPI.COMM_WORLD.size == 1:
        return
    _state.process = os.getpid()
    _state.print_exception, sys.excepthook = sys.excepthook, _on_exception
    _state.print_thread_exception = threading.excepthook
    threading.excepthook = _on_thread_exception
    exit_code.watch(_come_first)
    atexit.register(_on_exit)


def ranks_use_package(comm: MPI.Comm) -> None:
    """Note that all ranks of a communicator have come here."""
    _state.everyone |= comm.size == MPI.COMM_WORLD.size
    _come_first()


def take_part() -> None:
    """Note that this thread takes part in a collective call."""
    if threading.current_thread() is not threading.main_thread():
        _state.threads.add(threading.get_ident())


def _come_first() -> None:
    """Before the callbacks of libraries that were imported later: petsc4py's is collective."""
    atexit.unregister(_on_exit)
    atexit.register(_on_exit)


def _on_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    _state.failed = True
    _come_first()
    if not _state.is_a_rank():
        _state.print_exception(kind, error, trace)
        return
    world = MPI.COMM_WORLD
    others = _meet(_identity(error), RENDEZVOUS_SECONDS)
    if others is None:
        show(error, f"rank {world.rank} failed, ending the job on all {world.size} ranks:")
        abort(world, 130 if isinstance(error, KeyboardInterrupt) else 1)
        return
    _state.met = True
    ranks = _who_failed(others)
    if world.rank == ranks[0]:
        many = "s" if len(ranks) > 1 else ""
        show(error, f"rank{many} {', '.join(map(str, ranks))} failed:")


def _on_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    _state.print_thread_exception(arguments)
    takes_part = threading.get_ident() in _state.threads and _state.is_a_rank()
    if not takes_part or issubclass(arguments.exc_type, SystemExit):
        return
    if _meet((-1, 1), RENDEZVOUS_SECONDS) is None:
        world = MPI.COMM_WORLD
        say(f"rank {world.rank} failed in a thread, ending the job on all {world.size} ranks")
        abort(world, 1)


def _on_exit() -> None:
    """Python's last callback before MPI is finalised, which waits for all ranks."""
    if _state.process != os.getpid():
        # A forked child: neither PETSc nor MPI may be finalised twice.
        _flush()
        os._exit(_code())
    watchdog.stop()
    code, world = _code(), MPI.COMM_WORLD
    if _state.met or not _state.is_a_rank():
        return
    if code == 0:
        if _state.everyone:
            _wait_for_all()
    elif _meet((-1, code), EXIT_SECONDS) is None:
        say(
            f"rank {world.rank} left with exit code {code} while other ranks go on, ending the job "
            f"on all {world.size} ranks"
        )
        abort(world, code)


def _wait_for_all() -> None:
    """Wait until all ranks leave; nothing may be collective before."""
    world = MPI.COMM_WORLD
    request, _ = _come((-1, 0))
    seconds = watchdog.limit() / 2
    if seconds > 0.0 and not completes(request, seconds):
        say(f"rank {world.rank} has come to its program's end and waits for the other ranks")
    completes(request, math.inf)


def _code() -> int:
    """The exit code that this process leaves with."""
    code = exit_code.requested()
    if code is not None:
        return code
    # Another hook may have taken the place of this one's.
    unseen = sys.excepthook is not _on_exception and hasattr(sys, "last_value")
    return int(_state.failed or unseen)


def _meet(mine: tuple[int, int], seconds: float) -> NDArray[np.int64] | None:
    """What each rank has said when it left, `(size, 2)`; None if some rank does not leave soon."""
    request, told = _come(mine)
    return told if completes(request, seconds) else None


def _come(mine: tuple[int, int]) -> tuple[MPI.Request, NDArray[np.int64]]:
    world = MPI.COMM_WORLD
    told = np.empty((world.size, 2), dtype=np.int64)
    return world.Iallgather(np.array(mine, dtype=np.int64), told), told


def _identity(error: BaseException) -> tuple[int, int]:
    """Which rank an exception comes from, and a number made from its type and text."""
    if isinstance(error, RemoteError):
        origin, told = error.rank, (error.kind, error.text)
    else:
        origin, told = MPI.COMM_WORLD.rank, (type(error).__qualname__, text_of(error))
    number = hashlib.sha256(repr(told).encode()).digest()[:7]
    return origin, int.from_bytes(number, "big")


def _who_failed(others: NDArray[np.int64]) -> list[int]:
    """The ranks that raised the same exception as this one themselves, or else heard of it."""
    same = others[:, 1] == others[MPI.COMM_WORLD.rank, 1]
    own = same & (others[:, 0] == np.arange(len(others)))
    return [int(rank) for rank in np.flatnonzero(own if own.any() else same)]


install()
