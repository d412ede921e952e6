"""Solutions that are kept to start the next solves from."""

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
        """What they take on this rank."""
        return sum(rows.nbytes for rows in self._kept.values())

    def recall(self, keys: Sequence[Key], start: Numbers) -> bool:
        """Put what is kept into the start `(rows, n_local)` of solves, in which each key has as
        many rows; whether there was something.
        """
        is_known = False
        for key, own in zip(keys, split_rows(start, len(keys)), strict=True):
            found = self._kept.get(key)
            if found is not None and found.shape == own.shape:
                own[:], is_known = in_memory_of(found, own), True
        return is_known

    def keep(self, keys: Sequence[Key], solutions: Numbers) -> None:
        """Keep a copy of `(rows, n_local)` for the next time."""
        for key, own in zip(keys, split_rows(solutions, len(keys)), strict=True):
            self._kept[key] = copied(own)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """After a block, be as before it."""
        before = dict(self._kept)
        try:
            yield
        finally:
            self._kept = before

    def state_dict(self) -> dict[str, Any]:
        """All of them, as plain values and tensors."""
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
    """What one solve, and its adjoint, start from and leave behind.

    Attributes
    ----------
    kept : where.
    keys : of the samples of the solve, without the direction.
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
    """Which samples the solves of a block are for.

    Attributes
    ----------
    samples : as the user gave them.
    solves : of each operator, by its number, since the block began.
    """

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = [_checked(sample) for sample in samples]
        self.solves: dict[int, int] = {}

    def keys(self, operator: int, rows: int) -> tuple[Key, ...]:
        """Those of the next solve of an operator. A second solve in a block, as of the next time
        step, is another one.

        Raises
        ------
        ValueError
            For a number of right-hand sides that is no multiple of that of the samples.
        """
        if not self.samples or rows % len(self.samples):
            raise InputError(
                f"solver.samples names {len(self.samples)} samples, and this solve has {rows} "
                "right-hand sides: each sample must have as many as the others"
            )
        count = self.solves[operator] = self.solves.get(operator, -1) + 1
        return tuple((operator, count, sample) for sample in self.samples)


def _checked(sample: Any) -> Sample:
    if isinstance(sample, str):
        return sample
    if isinstance(sample, int | np.integer) and not isinstance(sample, bool):
        return int(sample)
    raise InputError(f"solver.samples takes integers and words, not {sample!r}")
