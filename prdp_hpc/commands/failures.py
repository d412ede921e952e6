"""Failure handling of the commands: all ranks exit after one message and, for a bug, one traceback.

MPI is loaded only if several processes were started.
"""

from __future__ import annotations

import importlib
import re
import sys
import sysconfig
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from prdp_hpc.distributed.launch import launched_rank, launched_size
from prdp_hpc.distributed.signals import block_signals
from prdp_hpc.errors import InputError, PrdpError

LIBRARIES = (
    "h5py", "matplotlib", "mpi4py", "numpy", "petsc4py", "pydantic", "rich", "shtab", "tensorboard",
    "torch", "yaml",
)  # fmt: skip
"""Third-party libraries that this package imports."""
SOME_LIBRARY = "a library"
LAUNCHER_GRACE = 25.0
"""Seconds within which launchers end the other processes after one has failed; srun waits 20 s."""

ORIGIN_GRACE = 5.0
"""Seconds for which a rank with another rank's error waits, so that the origin prints the message.
"""
NEIGHBOURS = 8

_PACKAGE = Path(__file__).parents[1]
_TAG = 857
"""MPI tag of the messages by which failed ranks notify their neighbours."""


@dataclass(frozen=True)
class Report:
    """An error on one rank. `expected`: it is a user's mistake; `echo`: it only repeats an error
    of another rank; `place`: the file and line of user code that raised it, "" for other code.
    """

    text: str
    trace: str
    expected: bool
    echo: bool
    place: str = ""

    @property
    def code(self) -> int:
        """The exit code."""
        return 2 if self.expected else 1


def fail(error: Exception, show_traceback: bool, alone: bool = False) -> NoReturn:
    """End the job on all ranks: with one message and exit code 2 for a user's mistake, with one
    traceback that names its rank and exit code 1 for a bug.

    `alone`: the other ranks of the job, if there are any, have already exited.
    """
    report = report_of(error)
    world = None if alone else _world()
    if world is None or world.size == 1:
        _fail_single_process(report, show_traceback)
    reports = _reports(world, report)
    if reports is None:
        _fail_while_others_wait(world, report, show_traceback)
    rank = first(reports)
    if world.rank == 0:
        chosen = reports[rank]
        # For a user's mistake, rank 0 has the complete message, including the rank if it matters.
        text = reports[0].text if chosen.expected else chosen.text
        _print_error(text, chosen, None if chosen.expected else rank, show_traceback)
    sys.exit(reports[rank].code)


def missing_library(error: Exception, importing: bool = False) -> InputError | None:
    """The error to report if a library that this package needs is missing or broken; None for
    other errors, e.g. a missing module of this package.

    `importing`: the error occurred while modules of this package were imported. An exception from
    other code then means that a library failed to load.
    """
    library = (getattr(error, "name", None) or "").partition(".")[0]
    if library not in LIBRARIES:
        library = _failed_library(error)
    if library == SOME_LIBRARY or not isinstance(error, ImportError):
        library = library if importing else ""
    if not library or "cannot import name" in str(error):
        return None
    return InputError(
        f"{library} cannot be imported ({' '.join(str(error).split())}): run `prdp-hpc doctor`, "
        "which lists what is missing and how to install it"
    )


def _failed_library(error: Exception) -> str:
    """The library whose code raised an error; empty if this package raised it."""
    frame = _last_frame(error)
    if frame is None or _is_ours(frame.filename):
        return ""
    return next((one for one in LIBRARIES if f"/{one}/" in frame.filename), SOME_LIBRARY)


def report_of(error: Exception) -> Report:
    """The report of an error, as text that can be sent to another rank."""
    missing = missing_library(error) if isinstance(error, ImportError) else None
    expected = isinstance(error, PrdpError) or missing is not None
    frame, text = _last_frame(error), str(missing or error)
    echo = frame is not None and frame.filename == str(_PACKAGE / "distributed" / "collective.py")
    if not expected:
        text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return Report(
        text,
        "".join(traceback.format_exception(error)),
        expected,
        echo and re.search(r"\brank \d+: ", str(error)) is not None,
        _place_in_user_code(error),
    )


def _place_in_user_code(error: Exception) -> str:
    """The file and line of user code that raised an error, itself or in a library that it called;
    "" if this package raised it.
    """
    libraries = {Path(path) for path in sysconfig.get_paths().values()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(_PACKAGE):
            return ""
        if file.is_file() and not any(file.is_relative_to(folder) for folder in libraries):
            return f"{file}, line {frame.lineno}"
    return ""


def _last_frame(error: Exception) -> traceback.FrameSummary | None:
    """The frame in which an error was raised, skipping the import system of Python."""
    frames = traceback.extract_tb(error.__traceback__)
    return next(
        (one for one in reversed(frames) if not one.filename.startswith("<frozen importlib")), None
    )


def _is_ours(filename: str) -> bool:
    # Frames of `importlib` are from imports that this package makes.
    folders = (_PACKAGE, Path(importlib.__file__).parent)
    return any(Path(filename).is_relative_to(folder) for folder in folders)


def _world() -> Any:
    """MPI's world communicator; None if MPI is not in use or not usable. A `ProcessMesh` uses a
    duplicate, so no other communication is pending on this one.
    """
    if launched_size() > 1 and "mpi4py.MPI" not in sys.modules:
        with suppress(Exception), block_signals():
            importlib.import_module("mpi4py.MPI")
    mpi = sys.modules.get("mpi4py.MPI")
    return None if mpi is None else mpi.COMM_WORLD


def _fail_single_process(report: Report, show_traceback: bool) -> NoReturn:
    """End a process whose MPI world has size 1. If a launcher started several such processes, the
    others print their error only if the launcher has not ended them because of the first.
    """
    rank = launched_rank()
    if rank > 0:
        time.sleep(LAUNCHER_GRACE)
    _print_error(report.text, report, rank if rank > 0 else None, show_traceback)
    sys.exit(report.code)


def _reports(world: Any, report: Report) -> Sequence[Report] | None:
    """The report of each rank; None if only some of the ranks have failed."""
    from prdp_hpc.distributed.collective import all_ranks_come  # it loads MPI

    return world.allgather(report) if all_ranks_come(world) else None


def first(reports: Sequence[Report]) -> int:
    """The rank whose error is printed: bugs before users' mistakes, origins before echoes."""
    ranks = [rank for rank, report in enumerate(reports) if not report.echo] or [0]
    return next((rank for rank in ranks if not reports[rank].expected), ranks[0])


def _fail_while_others_wait(world: Any, report: Report, show_traceback: bool) -> NoReturn:
    """Print the error of one of the failed ranks and abort the job before others print theirs."""
    from prdp_hpc.distributed.collective import abort  # it loads MPI

    if report.echo:
        time.sleep(ORIGIN_GRACE)
    elif _a_neighbour_failed(world):
        time.sleep(LAUNCHER_GRACE)
    _print_error(report.text, report, world.rank, show_traceback)
    abort(world, report.code)
    sys.exit(report.code)


def _a_neighbour_failed(world: Any) -> bool:
    """Notify the next higher ranks, and check whether one of the next lower ranks has failed too,
    e.g. another rank of the same replica.
    """
    above = range(world.rank + 1, min(world.rank + 1 + NEIGHBOURS, world.size))
    sent = [world.Isend(b"", other, _TAG) for other in above]
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        if world.Iprobe(tag=_TAG):
            return True
        time.sleep(0.01)
    del sent  # Kept until here, because the requests must stay alive until they complete.
    return False


def _print_error(text: str, report: Report, rank: int | None, show_traceback: bool) -> None:
    where = "" if rank is None else f" (rank {rank})"
    # If the log is on a full disk, only the exit code can report the error.
    with suppress(OSError):
        print(f"prdp-hpc: error{where}: {text}", file=sys.stderr)
        if show_traceback or not report.expected:
            sys.stderr.write(report.trace)
        if report.place and not report.expected:
            print(
                f"prdp-hpc: the error is in {report.place}, which is not part of prdp-hpc",
                file=sys.stderr,
            )
        elif not report.expected:
            print(
                "prdp-hpc: this is a bug: please report it with these lines and the output of "
                "`prdp-hpc doctor`",
                file=sys.stderr,
            )
        sys.stderr.flush()
