"""How a command that has failed ends on all ranks: with one message, and for a bug its traceback.

Loads MPI only where several processes were started.
"""

from __future__ import annotations

import importlib
import re
import sys
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
"""What this package imports besides Python's own modules."""
SOME_LIBRARY = "a library"
ENDED_BY_LAUNCHER = 25.0
"""Seconds in which launchers end the other processes once one has failed; srun waits for 20."""

ORIGIN_SPEAKS = 5.0
"""Seconds that a rank waits which has only heard of an error, so that its origin speaks."""
NEIGHBOURS = 8

_PACKAGE = Path(__file__).parents[1]
_TAG = 857
"""Of the messages by which ranks that fail alone say so."""


@dataclass(frozen=True)
class Report:
    """What one rank has to say of an error: `expected` of a user's mistake, `echo` where it only
    heard of another rank's.
    """

    text: str
    trace: str
    expected: bool
    echo: bool

    @property
    def code(self) -> int:
        """The exit code."""
        return 2 if self.expected else 1


def fail(error: Exception, show_traceback: bool, alone: bool = False) -> NoReturn:
    """End the job on all ranks: with one message and exit code 2 for a user's mistake, with one
    traceback that names its rank and exit code 1 for a bug.

    `alone`: the other ranks of the job, if there are any, have left already.
    """
    report = report_of(error)
    world = None if alone else _world()
    if world is None or world.size == 1:
        _fail_by_itself(report, show_traceback)
    reports = _reports(world, report)
    if reports is None:
        _fail_while_others_wait(world, report, show_traceback)
    rank = first(reports)
    if world.rank == 0:
        chosen = reports[rank]
        # Of a mistake rank 0 has the whole sentence, which names the rank where that matters.
        text = reports[0].text if chosen.expected else chosen.text
        _say(text, chosen, None if chosen.expected else rank, show_traceback)
    sys.exit(reports[rank].code)


def missing_library(error: Exception, importing: bool = False) -> InputError | None:
    """What to tell where a library that this package needs is missing or broken; None for other
    errors, such as a module of this package that is not there.

    `importing`: the error came while this package's modules were imported, so that what other code
    raised was raised by a library that is being loaded.
    """
    what = (getattr(error, "name", None) or "").partition(".")[0]
    if what not in LIBRARIES:
        what = _foreign(error)
    if what == SOME_LIBRARY or not isinstance(error, ImportError):
        what = what if importing else ""
    if not what or "cannot import name" in str(error):
        return None
    return InputError(
        f"{what} cannot be imported ({' '.join(str(error).split())}): `prdp-hpc doctor` says what "
        "is missing and what to do"
    )


def _foreign(error: Exception) -> str:
    """The library whose code raised an error; empty if this package did."""
    place = _last_frame(error)
    if place is None or _is_ours(place.filename):
        return ""
    return next((one for one in LIBRARIES if f"/{one}/" in place.filename), SOME_LIBRARY)


def report_of(error: Exception) -> Report:
    """What to say of an error, as text that can be sent to another rank."""
    missing = missing_library(error) if isinstance(error, ImportError) else None
    expected = isinstance(error, PrdpError) or missing is not None
    place, text = _last_frame(error), str(missing or error)
    echo = place is not None and place.filename == str(_PACKAGE / "distributed" / "collective.py")
    if not expected:
        text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return Report(
        text,
        "".join(traceback.format_exception(error)),
        expected,
        echo and re.search(r"\brank \d+: ", str(error)) is not None,
    )


def _last_frame(error: Exception) -> traceback.FrameSummary | None:
    """Where an error was raised, leaving out Python's own machinery of imports."""
    frames = traceback.extract_tb(error.__traceback__)
    return next(
        (one for one in reversed(frames) if not one.filename.startswith("<frozen importlib")), None
    )


def _is_ours(filename: str) -> bool:
    # `importlib` only passes on what this package asked it to import.
    folders = (_PACKAGE, Path(importlib.__file__).parent)
    return any(Path(filename).is_relative_to(folder) for folder in folders)


def _world() -> Any:
    """MPI's world; None where MPI is not in use, or cannot be. A `ProcessMesh` works on a copy, so
    nothing else is pending on this one.
    """
    if launched_size() > 1 and "mpi4py.MPI" not in sys.modules:
        with suppress(Exception), block_signals():
            importlib.import_module("mpi4py.MPI")
    mpi = sys.modules.get("mpi4py.MPI")
    return None if mpi is None else mpi.COMM_WORLD


def _fail_by_itself(report: Report, show_traceback: bool) -> NoReturn:
    """Of processes that MPI sees each alone, the others speak only where the first does not."""
    rank = launched_rank()
    if rank > 0:
        time.sleep(ENDED_BY_LAUNCHER)
    _say(report.text, report, rank if rank > 0 else None, show_traceback)
    sys.exit(report.code)


def _reports(world: Any, report: Report) -> Sequence[Report] | None:
    """What each rank has to say; None where only some of the ranks have failed."""
    from prdp_hpc.distributed.collective import all_ranks_come  # it loads MPI

    return world.allgather(report) if all_ranks_come(world) else None


def first(reports: Sequence[Report]) -> int:
    """The rank whose error is told: a bug rather than a mistake, the origin rather than an echo."""
    ranks = [rank for rank, report in enumerate(reports) if not report.echo] or [0]
    return next((rank for rank in ranks if not reports[rank].expected), ranks[0])


def _fail_while_others_wait(world: Any, report: Report, show_traceback: bool) -> NoReturn:
    """One of the ranks that have failed speaks, and ends the job before others come to speak."""
    from prdp_hpc.distributed.collective import abort  # it loads MPI

    if report.echo:
        time.sleep(ORIGIN_SPEAKS)
    elif _a_neighbour_failed(world):
        time.sleep(ENDED_BY_LAUNCHER)
    _say(report.text, report, world.rank, show_traceback)
    abort(world, report.code)
    sys.exit(report.code)


def _a_neighbour_failed(world: Any) -> bool:
    """Whether one of the ranks just below has failed as well, as the ranks of a replica do; it is
    told to those just above.
    """
    above = range(world.rank + 1, min(world.rank + 1 + NEIGHBOURS, world.size))
    sent = [world.Isend(b"", other, _TAG) for other in above]
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        if world.Iprobe(tag=_TAG):
            return True
        time.sleep(0.01)
    del sent  # kept until here: what is sent must outlive its sending
    return False


def _say(text: str, report: Report, rank: int | None, show_traceback: bool) -> None:
    where = "" if rank is None else f" (rank {rank})"
    # Where the log is on the disk that is full, the exit code has to do.
    with suppress(OSError):
        print(f"prdp-hpc: error{where}: {text}", file=sys.stderr)
        if show_traceback or not report.expected:
            sys.stderr.write(report.trace)
        if not report.expected:
            print(
                "prdp-hpc: this is a bug: please report it, with these lines and what "
                "`prdp-hpc doctor` says",
                file=sys.stderr,
            )
        sys.stderr.flush()
