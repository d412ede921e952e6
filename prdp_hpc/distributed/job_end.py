"""Failure handling: if one rank fails, the whole job ends, so that no other rank waits for it.

`install` is called by importing any part of this package that uses MPI, if there are several ranks.
It has these effects:

- An uncaught exception is printed once with its rank (by the user's `sys.excepthook`), whether one
  rank raises it or all. Unless all ranks exit within seconds, the job is ended by MPI_Abort.
- The same applies if one rank exits with another exit code than 0, by `sys.exit` or otherwise,
  while others continue. With exit code 0 a rank waits for the others, as always with MPI, but
  before PETSc is finalised: PetscFinalize is collective and could match other ranks' messages.
- The same applies to an exception in a thread that participates in collective calls.

Processes that a rank has forked exit without calling MPI.
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
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.distributed import exit_code, watchdog
from prdp_hpc.distributed.remote_error import RemoteError, text_of

RENDEZVOUS_SECONDS = 5.0
"""Seconds that a failed rank waits for the others to fail too."""

EXIT_SECONDS = 10.0
"""Seconds that ranks which exit together wait for each other, e.g. while one still writes files."""

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
    """Whether every rank calls this function, or a non-blocking barrier, within a few seconds; for
    ranks with a failure.
    """
    return completes(comm.Ibarrier(), RENDEZVOUS_SECONDS)


def abort(comm: MPI.Comm, code: int) -> NoReturn:
    """End the whole job after the last output of this rank."""
    _flush()
    # Output that the launcher has not read before the abort is lost.
    time.sleep(0.5)
    comm.Abort(code)
    # MPICH returns if a process manager does not support its message, e.g. that of torchrun's jobs,
    # and PETSc's finalisation, which is collective, would not end.
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()


def fail_alone(error: BaseException) -> None:
    """End the job because of an exception that this rank cannot send to the others."""
    world = MPI.COMM_WORLD
    show(error, f"rank {world.rank} failed while other ranks wait for it, ending the job:")
    abort(world, 1)


def show(error: BaseException, headline: str) -> None:
    """Print an exception as the user's `sys.excepthook` does, under a headline."""
    print_now(headline)
    _state.print_exception(type(error), error, error.__traceback__)
    # torch.distributed wraps other hooks and buffers their output until the end.
    if isinstance(sys.stderr, io.StringIO):
        print_now(sys.stderr.getvalue().rstrip())


def print_now(text: str) -> None:
    """Print to the process's original standard error, unbuffered."""
    print(text, file=sys.__stderr__, flush=True)


@dataclass
class _State:
    """The state of this process with regard to its end.

    Attributes
    ----------
    process : the process id of the rank.
    failed : whether there was an uncaught exception.
    met : whether all ranks exit together.
    everyone : whether all ranks use this package, so that a rank may wait for them.
    threads : those besides the main thread that have participated in collective calls.
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
        """Whether this process is a rank of a running job, not a forked child of a rank."""
        return self.process == os.getpid() and not MPI.Is_finalized()


_state = _State()


def install() -> None:
    """End the job if one rank fails; does nothing on one rank, or when called again."""
    if _state.process != -1 or MPI.COMM_WORLD.size == 1:
        return
    _state.process = os.getpid()
    _state.print_exception, sys.excepthook = sys.excepthook, _on_exception
    _state.print_thread_exception = threading.excepthook
    threading.excepthook = _on_thread_exception
    exit_code.watch(_run_first)
    atexit.register(_on_exit)


def ranks_use_package(comm: MPI.Comm) -> None:
    """Register that all ranks of a communicator use this package."""
    _state.everyone |= comm.size == MPI.COMM_WORLD.size
    _run_first()


def register_thread() -> None:
    """Register that this thread participates in a collective call."""
    if threading.current_thread() is not threading.main_thread():
        _state.threads.add(threading.get_ident())


def _run_first() -> None:
    """Run before the callbacks of libraries imported later, since petsc4py's is collective."""
    atexit.unregister(_on_exit)
    atexit.register(_on_exit)


def _on_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    _state.failed = True
    _run_first()
    if not _state.is_a_rank():
        _state.print_exception(kind, error, trace)
        return
    world = MPI.COMM_WORLD
    others = _exchange_on_exit(_identity(error), RENDEZVOUS_SECONDS)
    if others is None:
        show(error, f"rank {world.rank} failed, ending the job on all {world.size} ranks:")
        abort(world, 130 if isinstance(error, KeyboardInterrupt) else 1)
        return
    _state.met = True
    ranks = _failed_ranks(others)
    if world.rank == ranks[0]:
        many = "s" if len(ranks) > 1 else ""
        show(error, f"rank{many} {', '.join(map(str, ranks))} failed:")


def _on_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    _state.print_thread_exception(arguments)
    takes_part = threading.get_ident() in _state.threads and _state.is_a_rank()
    if not takes_part or issubclass(arguments.exc_type, SystemExit):
        return
    if _exchange_on_exit((-1, 1), RENDEZVOUS_SECONDS) is None:
        world = MPI.COMM_WORLD
        print_now(f"rank {world.rank} failed in a thread, ending the job on all {world.size} ranks")
        abort(world, 1)


def _on_exit() -> None:
    """Wait for all ranks in Python's last callback before MPI is finalised."""
    if _state.process != os.getpid():
        # A forked child must finalise neither PETSc nor MPI.
        _flush()
        os._exit(_code())
    watchdog.stop()
    code, world = _code(), MPI.COMM_WORLD
    if _state.met or not _state.is_a_rank():
        return
    if code == 0:
        if _state.everyone:
            _wait_for_all()
    elif _exchange_on_exit((-1, code), EXIT_SECONDS) is None:
        print_now(
            f"rank {world.rank} exited with code {code} while other ranks continue, ending the job "
            f"on all {world.size} ranks"
        )
        abort(world, code)


def _wait_for_all() -> None:
    """Wait until all ranks exit, before any collective finalisation."""
    world = MPI.COMM_WORLD
    request, _ = _start_exchange((-1, 0))
    seconds = watchdog.limit() / 2
    if seconds > 0.0 and not completes(request, seconds):
        print_now(
            f"rank {world.rank} has reached the end of its program and waits for the other ranks"
        )
    completes(request, math.inf)


def _code() -> int:
    """The exit code of this process."""
    code = exit_code.requested()
    if code is not None:
        return code
    # Another hook may have replaced this one.
    unseen = sys.excepthook is not _on_exception and hasattr(sys, "last_value")
    return int(_state.failed or unseen)


def _exchange_on_exit(mine: tuple[int, int], seconds: float) -> NDArray[np.int64] | None:
    """The values that the ranks sent on exit, `(size, 2)`; None if a rank does not exit soon."""
    request, told = _start_exchange(mine)
    return told if completes(request, seconds) else None


def _start_exchange(mine: tuple[int, int]) -> tuple[MPI.Request, NDArray[np.int64]]:
    world = MPI.COMM_WORLD
    told = np.empty((world.size, 2), dtype=np.int64)
    return world.Iallgather(np.array(mine, dtype=np.int64), told), told


def _identity(error: BaseException) -> tuple[int, int]:
    """The rank of an exception, and a checksum of its type and text."""
    if isinstance(error, RemoteError):
        origin, told = error.rank, (error.kind, error.text)
    else:
        origin, told = MPI.COMM_WORLD.rank, (type(error).__qualname__, text_of(error))
    number = hashlib.sha256(repr(told).encode()).digest()[:7]
    return origin, int.from_bytes(number, "big")


def _failed_ranks(others: NDArray[np.int64]) -> list[int]:
    """The ranks that raised the same exception as this one, otherwise those that received it."""
    same = others[:, 1] == others[MPI.COMM_WORLD.rank, 1]
    own = same & (others[:, 0] == np.arange(len(others)))
    return [int(rank) for rank in np.flatnonzero(own if own.any() else same)]


install()
