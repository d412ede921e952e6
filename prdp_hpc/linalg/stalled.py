"""An end for PETSc's restarted methods that make no progress.

`pipefgmres` restarts where rounding makes a squared length negative (3.26). If that is so in the
first iteration after the restart, the next one starts from the same vector, without end: the number
of iterations stays below its maximum.
"""

from __future__ import annotations

from typing import Any

from prdp_hpc.linalg import errors

RESTARTING_KSPS = frozenset({"pipefgmres", "pipefcg", "pipegcr"})
MOST = 10
"""A method reports each iteration at most twice if it makes progress."""


class _Progress:
    """A monitor that raises an error for an iteration that is reported again and again; on all
    ranks together, since the iterations are the same.
    """

    def __init__(self) -> None:
        self._last, self._times = -1, 0

    def __call__(self, ksp: Any, iteration: int, norm: float) -> None:
        self._times = self._times + 1 if iteration == self._last else 0
        self._last = iteration
        if self._times > MOST:
            self._last = -1
            raise errors.no_progress(ksp.getType(), iteration)


def end_without_progress(ksp: Any) -> None:
    """Let the solves of one of `RESTARTING_KSPS` end with a SolveError if they make no progress."""
    ksp.setMonitor(_Progress())
