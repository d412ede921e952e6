"""Initial guesses of solves: zero, the state before a time step, or the last solution."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.last_solutions import LastSolutions, Recollection, SampleNames
from prdp_hpc.linalg.operator import Operator

INITIAL_GUESSES = ("zero", "state", "last")


class InitialGuesses:
    """The part of `Solver` that chooses initial guesses and keeps the last solutions."""

    def __init__(self, initial_guess: str) -> None:
        self.initial_guess = checked_guess(initial_guess)
        self._last = LastSolutions()
        self._samples: SampleNames | None = None
        # The order of the operators' first solves, which identifies them in a resumed run.
        self._numbers: weakref.WeakKeyDictionary[Operator, int] = weakref.WeakKeyDictionary()

    def _number(self, operator: Operator) -> int:
        return self._numbers.setdefault(operator, len(self._numbers))

    @contextmanager
    def samples(self, names: Sequence[Any]) -> Iterator[None]:
        """Name the samples that the right-hand sides of solves in a block belong to.

        With `initial_guess="last"` each solve then starts at the last solution of the same sample,
        in its adjoint solve too. The n-th solve of an operator in a block starts at the n-th
        solution of earlier blocks. Without such a block a solve starts at the last solution of the
        same operator with the same number of right-hand sides.

        Parameters
        ----------
        names : sequence of int or str
            One name per sample, equal on all ranks that solve together. A solve of B right-hand
            sides has B / len(names) consecutive ones per sample.

        Examples
        --------
        >>> import torch
        >>> from prdp_hpc import Grid, Heat, Solver
        >>> heat = Heat(Grid((30,)), 1.0, 1e-3, Solver("cg", "jacobi", 1e-6, initial_guess="last"))
        >>> states = torch.ones(5, 1, 30).double()
        >>> for batch in ([0, 1], [1, 2]):
        ...     with heat.solver.samples(batch):
        ...         after = heat(states[batch])
        >>> heat.solver.last_solution_bytes  # of samples 0, 1 and 2
        720
        """
        before, self._samples = self._samples, SampleNames(names)
        try:
            yield
        finally:
            self._samples = before

    def guess_of(self, state: Tensor) -> Tensor | None:
        """Return the guess that a stepper passes to `solve`: the state, or None.

        It is the state before the step if `initial_guess` is "state".
        """
        return state if self.initial_guess == "state" else None

    def recollection(self, operator: Operator, rows: int) -> Recollection | None:
        """Return where the next solve starts; None unless `initial_guess` is "last"."""
        if self.initial_guess != "last":
            return None
        number = self._number(operator)
        if self._samples is None:
            return Recollection(self._last, ((number, -1, rows),))
        return Recollection(self._last, self._samples.keys(number, rows))

    def restored_solutions(self) -> AbstractContextManager[None]:
        """Restore the stored solutions after a block, so that it does not affect later solves."""
        return self._last.restored()

    @property
    def last_solution_bytes(self) -> int:
        """Bytes on this rank of the solutions that are stored for `initial_guess="last"`."""
        return self._last.nbytes


def recollection_of(
    starts: InitialGuesses, operator: Operator, b: Tensor
) -> tuple[Recollection | None, InputError | None]:
    """Where the next solve for b starts, or the error on this rank; not collective."""
    try:
        return starts.recollection(operator, b.shape[0] if b.dim() > 1 else 1), None
    except InputError as error:
        return None, error


def checked_guess(name: str) -> str:
    """Return the name of a kind of initial guess, or raise an InputError."""
    if name not in INITIAL_GUESSES:
        raise InputError(f"initial_guess must be one of {', '.join(INITIAL_GUESSES)}, not {name!r}")
    return name
