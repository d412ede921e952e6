"""Stored solutions that later solves start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import Numbers, copied, in_memory_of, on_host, split_rows

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
