"""Initial guesses of solves: zero, the state before a time step, or the last solution."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import Numbers, copied, in_memory_of, on_host, split_rows
from prdp_hpc.linalg.operator import Operator

Sample = int | str
Key = tuple[Sample, ...]


class LastSolutions:
    """The last solution of each sample, operator and direction: this rank's part, in double
    precision.
    """

    def __init__(self) -> None:
        self._kept: dict[Key, Numbers] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """The memory of the solutions on this rank, in bytes."""
        return sum(rows.nbytes for rows in self._kept.values())

    def recall(self, keys: Sequence[Key], start: Numbers) -> bool:
        """Copy stored solutions into the start `(rows, n_local)` of solves, with equally many rows
        per key; returns whether any was stored.
        """
        is_known = False
        for key, own in zip(keys, split_rows(start, len(keys)), strict=True):
            found = self._kept.get(key)
            if found is not None and found.shape == own.shape:
                own[:], is_known = in_memory_of(found, own), True
        return is_known

    def keep(self, keys: Sequence[Key], solutions: Numbers) -> None:
        """Store a copy of the solutions `(rows, n_local)`."""
        for key, own in zip(keys, split_rows(solutions, len(keys)), strict=True):
            self._kept[key] = copied(own)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the stored solutions after a block."""
        before = dict(self._kept)
        try:
            yield
        finally:
            self._kept = before

    def state_dict(self) -> dict[str, Any]:
        """All stored solutions, as plain values and tensors."""
        return {
            "keys": [list(key) for key in self._kept],
            "solutions": [torch.from_numpy(on_host(rows)) for rows in self._kept.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        pairs = zip(state["keys"], state["solutions"], strict=True)
        self._kept = {tuple(key): rows.numpy().copy() for key, rows in pairs}


@dataclass(frozen=True)
class Recollection:
    """Where one solve, and its adjoint, start and store their solutions.

    Attributes
    ----------
    kept : the stored solutions.
    keys : the keys of the solve's samples, without the direction.
    """

    kept: LastSolutions
    keys: tuple[Key, ...]

    def recall(self, direction: str, start: Numbers) -> bool:
        """See `LastSolutions.recall`."""
        return self.kept.recall(self._of(direction), start)

    def keep(self, direction: str, solutions: Numbers) -> None:
        """See `LastSolutions.keep`."""
        self.kept.keep(self._of(direction), solutions)

    def _of(self, direction: str) -> list[Key]:
        return [(direction, *key) for key in self.keys]


class SampleNames:
    """The samples of the solves in a block.

    Attributes
    ----------
    samples : the user's names.
    solves : number of solves of each operator since the block began.
    """

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = [_checked(sample) for sample in samples]
        self.solves: dict[int, int] = {}

    def keys(self, operator: int, rows: int) -> tuple[Key, ...]:
        """The keys of the next solve of an operator. A second solve in a block, e.g. of the next
        time step, has other keys.

        Raises
        ------
        ValueError
            If the number of right-hand sides is not a multiple of the number of samples.
        """
        if not self.samples or rows % len(self.samples):
            raise InputError(
                f"solver.samples names {len(self.samples)} samples, and this solve has {rows} "
                "right-hand sides: each sample must have the same number of them"
            )
        count = self.solves[operator] = self.solves.get(operator, -1) + 1
        return tuple((operator, count, sample) for sample in self.samples)


def _checked(sample: Any) -> Sample:
    if isinstance(sample, str):
        return sample
    if isinstance(sample, int | np.integer) and not isinstance(sample, bool):
        return int(sample)
    raise InputError(f"solver.samples must be integers or strings, not {sample!r}")


InitialGuess = Literal["zero", "state", "last"]
INITIAL_GUESSES: tuple[InitialGuess, ...] = get_args(InitialGuess)


class InitialGuesses:
    """The part of `Solver` that chooses initial guesses and keeps the last solutions."""

    def __init__(self, initial_guess: InitialGuess) -> None:
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


def checked_guess(name: InitialGuess) -> InitialGuess:
    """Return the name of a kind of initial guess, or raise an InputError."""
    if name not in INITIAL_GUESSES:
        raise InputError(f"initial_guess must be one of {', '.join(INITIAL_GUESSES)}, not {name!r}")
    return name
