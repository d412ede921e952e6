"""The interface of trackers, which show the metrics of runs, and their calls during training."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prdp_hpc.errors import InputError

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker receives at the start of a run.

    It is passed to `Tracker.start` on rank 0, once per start of the run.

    Parameters
    ----------
    name : str
        Name of the run.
    folder : Path
        The run folder, in which a tracker may write.
    config : mapping
        The settings of the run, nested.
    resumed_at : int, optional
        Number of completed steps after which a resumed run continues. None: the run is new.

    Examples
    --------
    >>> from pathlib import Path
    >>> from prdp_hpc import TrackedRun
    >>> TrackedRun("mine", Path("runs/mine"), {"seed": 1}).resumed_at is None
    True
    """

    name: str
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    resumed_at: int | None = None


class Tracker(Protocol):
    r"""Shows the metrics of a run; its methods are called on rank 0 only.

    A config names a user-defined tracker by `tracking: [file.py:Name]`, and it is created by
    `Name(**keys)` from the other keys. An exception in one of its methods does not end training: it
    is reported once, and the tracker is not called again. Only an `InputError` of `start` ends the
    run.

    Examples
    --------
    A tracker that appends to a text file:

    >>> from pathlib import Path
    >>> from prdp_hpc import TrackedRun
    >>> class Log:
    ...     def start(self, run):
    ...         self._path = run.folder / "log.txt"
    ...
    ...     def log(self, numbers, step):
    ...         with self._path.open("a") as file:
    ...             print(step, numbers["error"], file=file)
    ...
    ...     def finish(self, summary):
    ...         pass
    >>> tracker = Log()
    >>> tracker.start(TrackedRun("mine", Path(".")))
    >>> tracker.log({"error": 0.5}, step=8)
    >>> Path("log.txt").read_text()
    '8 0.5\n'
    """

    def start(self, run: TrackedRun) -> None:
        """Start to track a run, or continue with a resumed one.

        Parameters
        ----------
        run : TrackedRun
            Name, folder and settings of the run.
        """
        ...

    def log(self, numbers: Numbers, step: int) -> None:
        """Show numbers.

        Parameters
        ----------
        numbers : mapping from str to float
            Finite numbers by name. Those of single steps have names that start with `steps/`.
        step : int
            Number of completed steps of the optimiser.
        """
        ...

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """End tracking.

        Parameters
        ----------
        summary : mapping or None
            Last metrics and the reason for the end; None: the run was interrupted or failed.
        """
        ...


class Trackers:
    """Calls trackers; one that fails is reported by a warning and not called again.

    Parameters
    ----------
    trackers : the trackers; none on ranks other than 0.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def start(self, run: TrackedRun) -> None:
        """Start all trackers; an `InputError` is raised."""
        self._each("start", lambda tracker: tracker.start(run))

    def log(self, row: Mapping[str, Any], prefix: str = "") -> None:
        """Pass on the finite numbers of a row with the key `step`."""
        found = {prefix + key: number for key, number in scalars(row).items()}
        step = int(row.get("step", row["epoch"]))
        self._each("log", lambda tracker: tracker.log(found, step))

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """End tracking; later calls have no effect."""
        self._each("finish", lambda tracker: tracker.finish(summary))
        self._trackers = []

    def _each(self, action: str, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                if isinstance(error, InputError) and action == "start":
                    raise
                self._trackers.remove(tracker)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(
                    f"tracking: {type(tracker).__name__}.{action} failed ({reason}); training "
                    "continues without this tracker",
                    RuntimeWarning,
                    stacklevel=2,
                )


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row without `step`; those of a list have their index in the name."""
    cells: dict[str, Any] = {}
    for key, value in row.items():
        listed = isinstance(value, list | tuple)
        cells |= {f"{key}/{i}": item for i, item in enumerate(value)} if listed else {key: value}
    return {
        key: float(cell)
        for key, cell in cells.items()
        if key != "step"
        and isinstance(cell, numbers.Real)
        and not isinstance(cell, bool)
        and math.isfinite(cell)
    }


def missing(package: str, kind: str) -> InputError:
    """The error for a tracker whose package is not installed."""
    return InputError(
        f"tracking: {kind} needs the package {package}: pip install 'prdp-hpc[trackers]'"
    )
