"""A watchdog that ends a job whose ranks wait for each other without end, and prints where.

A collective call under a condition that holds on some ranks only (`if rank == 0: loss.backward()`)
cannot be detected in advance. The watchdog is one thread per process, without a cost per call.
Twenty times within the limit it checks whether a thread is still in the same library call from this
package, without another collective call of this package, or arithmetic of PETSc, in the meantime.
It prints the call after half of the limit, and ends the job after the whole limit. PETSc blocks
other Python threads while it works, so there is also a timer of `faulthandler`, which fires if no
Python code has run for the whole limit.

`PRDP_WATCHDOG_SECONDS` sets the limit; default 600; 0 switches the watchdog off. Increase it for
single calls that take longer (the factorisation of a huge matrix; ranks that wait while rank 0
works).
"""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from prdp_hpc.errors import InputError

VARIABLE = "PRDP_WATCHDOG_SECONDS"
DEFAULT_SECONDS = 600.0
LOOKS = 20
"""Number of checks within the limit."""

_PACKAGE = str(Path(__file__).parents[1]) + os.sep

calls = [0]
"""Number of collective calls that this process has begun, in its only element."""

_running: list[int] = []
"""The id of the process that has a watchdog; a forked child has none."""


def limit() -> float:
    """The limit: seconds of waiting after which the job ends; 0: never."""
    text = os.environ.get(VARIABLE, str(DEFAULT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < 1e9:
        raise InputError(
            f"{VARIABLE} must be a number of seconds, or 0 for no watchdog, not {text!r}"
        )
    return seconds


def start(rank: int, size: int, end_job: Callable[[], None]) -> None:
    """Start this process's watchdog unless there is one; `end_job` ends all `size` ranks."""
    seconds = limit()
    if _running == [os.getpid()] or seconds == 0.0 or size == 1:
        return
    _running[:] = [os.getpid()]
    watch = FunctionType(
        # `faulthandler` prints only function names, so the message is the name of a function.
        _named(_watch.__code__, f"rank {rank} of {size} waits longer than {VARIABLE}={seconds:g}"),
        globals(),
    )
    threading.Thread(
        target=watch, args=(rank, size, seconds, end_job), name="watchdog", daemon=True
    ).start()


def stop() -> None:
    """Stop the watchdog; at the end of Python, ranks may wait for each other without a limit."""
    if _running == [os.getpid()]:
        _running.clear()
        faulthandler.cancel_dump_traceback_later()


def _watch(rank: int, size: int, seconds: float, end_job: Callable[[], None]) -> None:
    seen: dict[int, tuple[Any, ...]] = {}
    looks: dict[int, int] = {}
    while _running:
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
        # Checks are counted, not seconds, because a job may be suspended.
        time.sleep(seconds / LOOKS)
        frames = sys._current_frames()
        now = {thread: _place(frame) for thread, frame in frames.items()}
        looks = {
            thread: looks.get(thread, 0) + 1 if seen.get(thread) == place else 0
            for thread, place in now.items()
        }
        seen = now
        for thread, count in looks.items():
            ours = _is_ours(frames[thread])
            if count == LOOKS // 2 and (ours or thread == threading.main_thread().ident):
                _print_call(rank, size, frames[thread], count * seconds / LOOKS, seconds)
            # Some more checks, so that ranks which arrived later print where they wait.
            if count > LOOKS + 1 and ours:
                print(f"rank {rank}: ending the job on all {size} ranks", file=sys.__stderr__)
                end_job()
        # References to frames keep the variables of their functions alive.
        del frames


def _place(frame: FrameType) -> tuple[Any, ...]:
    """Identifies the call that a thread is in."""
    petsc: Any = sys.modules.get("petsc4py.PETSc")
    work = 0.0 if petsc is None else petsc.Log.getFlops()
    return (calls[0], work, *((id(level.f_code), level.f_lasti) for level in _stack(frame)))


def _is_ours(frame: FrameType) -> bool:
    """Whether this package called the library: directly, or through torch.distributed."""
    for level in _stack(frame):
        name = level.f_code.co_filename
        if name.startswith(_PACKAGE):
            return name != __file__
        if f"{os.sep}torch{os.sep}distributed{os.sep}" not in name:
            return False
    return False


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _print_call(rank: int, size: int, frame: FrameType, waited: float, seconds: float) -> None:
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - waited))
    end = (
        f"; after {seconds:.0f} s the job ends ({VARIABLE}). Does every rank make this call?"
        if _is_ours(frame)
        else ""
    )
    where = "".join(traceback.format_stack(frame))
    print(
        f"rank {rank} of {size} has been in one call since {since} ({waited:.0f} s){end}\n{where}",
        file=sys.__stderr__,
        flush=True,
    )


def _named(code: CodeType, name: str) -> CodeType:
    return code.replace(co_name=name, co_qualname=name)
