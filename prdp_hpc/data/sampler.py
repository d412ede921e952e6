"""The order of the training samples, and their distribution among the replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.errors import InputError

_APART = 1
"""Part of the seed that distinguishes the batches of `EpochSampler.parts` from those of epochs."""


class EpochSampler:
    """Shuffled mini-batches that depend only on the seed and the epoch.

    Parameters
    ----------
    count : number of samples; each is used once per epoch. With 0 an epoch has no batches.
    batch_size : samples per batch; the last batch may be smaller.
    seed : random seed of the shuffling.
    windows : numbers that determine what the samples are, besides their number; by default none.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, windows: Mapping[str, int] | None = None
    ) -> None:
        if count < 0 or batch_size < 1:
            raise InputError(
                f"at least 0 samples and a batch size of at least 1 are needed, not {count} and "
                f"{batch_size}"
            )
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._windows = dict(windows or {})

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """The sample indices of each batch of an epoch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
        return [
            order[start : start + self._batch_size]
            for start in range(0, self._count, self._batch_size)
        ]

    def parts(self, draw: int, count: int) -> list[NDArray[np.int64]]:
        """Split a random batch that belongs to no epoch into up to `count` disjoint parts of equal
        size. The batch depends on the seed and the integer `draw`.

        Together the parts have the size of a batch, rounded down to equal parts. If batches have
        one sample, there are two parts as long as there are two samples.
        """
        order = np.random.default_rng((self._seed, draw, _APART)).permutation(self._count)
        size = max(min(self._batch_size, self._count), min(2, self._count))
        parts = min(count, size)
        return list(order[: size - size % parts].reshape(parts, -1))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that determines the batches."""
        sizes = {"count": self._count, "batch_size": self._batch_size, "seed": self._seed}
        return sizes | self._windows

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that the batches are those of the checkpoint; raise `InputError` if not."""
        if state != self.state_dict():
            now = self.state_dict()
            raise InputError(
                f"the batches of the checkpoint are from {state}, those of this run from {now}: "
                "resume with the same data and the same data.stride (a run of an earlier version "
                "has one sample per trajectory: give the number of steps of a trajectory)"
            )


def share(batch: NDArray[np.int64], replica: int, replicas: int) -> NDArray[np.int64]:
    """The contiguous part of a batch for one replica. The sizes of the parts differ by at most one
    sample, and parts may be empty.
    """
    # Not by `np.array_split`, which takes as long as a layer of a small network.
    size, rest = divmod(len(batch), replicas)
    start = replica * size + min(replica, rest)
    return batch[start : start + size + (replica < rest)]
