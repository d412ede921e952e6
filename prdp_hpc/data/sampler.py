"""Which samples are trained on when, and by which replica."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.errors import InputError

_APART = 1
"""Distinguishes the stream of `EpochSampler.parts` from those of the epochs."""


class EpochSampler:
    """Shuffled mini-batches, the same for each (seed, epoch) whatever came before.

    Parameters
    ----------
    count : samples; each is drawn once an epoch. None make an epoch without batches.
    batch_size : samples a batch; the last batch may be smaller.
    seed : of the shuffling.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        if count < 0 or batch_size < 1:
            raise InputError(
                f"at least 0 samples and a batch size of at least 1 are needed, not {count} and "
                f"{batch_size}"
            )
        self._count, self._batch_size, self._seed = count, batch_size, seed

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Indices of the batches of an epoch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
        return [
            order[start : start + self._batch_size]
            for start in range(0, self._count, self._batch_size)
        ]

    def parts(self, draw: int, count: int) -> list[NDArray[np.int64]]:
        """Up to `count` disjoint parts, all of one size, of a random batch that belongs to no
        epoch: number `draw` of a stream of its own.

        Together they have the size of a batch, rounded down to equal parts; of batches of one
        sample, two parts where there are two samples.
        """
        order = np.random.default_rng((self._seed, draw, _APART)).permutation(self._count)
        size = max(min(self._batch_size, self._count), min(2, self._count))
        parts = min(count, size)
        return list(order[: size - size % parts].reshape(parts, -1))

    def state_dict(self) -> dict[str, Any]:
        """What the batches depend on."""
        return {"count": self._count, "batch_size": self._batch_size, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that the batches go on as before; `ValueError` if not."""
        if state != self.state_dict():
            now = self.state_dict()
            raise InputError(
                f"the checkpoint's batches come from {state}, this run's from {now}: resume with "
                "the same data"
            )


def share(batch: NDArray[np.int64], replica: int, replicas: int) -> NDArray[np.int64]:
    """The contiguous part of a batch that one replica takes; parts differ by at most one sample and
    may be empty.
    """
    # By hand: `np.array_split` takes as long as a layer of a small network.
    size, rest = divmod(len(batch), replicas)
    start = replica * size + min(replica, rest)
    return batch[start : start + size + (replica < rest)]
