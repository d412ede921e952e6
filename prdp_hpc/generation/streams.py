"""Random initial states of generated trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.physics.stepper import Stepper, initial_states


class InitialStates(Protocol):
    """The initial states of all samples."""

    def read(self, group: str, samples: range) -> Tensor:
        """Return this rank's part of some initial states, `(samples, C, *local_shape)`, float64;
        collective over the grid ranks.
        """
        ...


class SampleStreams:
    """Initial states from one random stream per sample.

    The stream of sample i of a group is `SeedSequence(seed, spawn_key=(number of the group, i))`.
    So a sample does not depend on the number of samples, on the other groups, or on the samples
    that are computed together with it, and no sample has to be kept in memory.

    Reference: NumPy manual, Parallel random number generation.

    Parameters
    ----------
    stepper : the PDE.
    seed : seed of the data set.
    groups : names of the groups, in the order of their numbers.
    modes : number of Fourier modes.
    """

    def __init__(self, stepper: Stepper, seed: int, groups: tuple[str, ...], modes: int) -> None:
        self._stepper, self._seed, self._groups, self._modes = stepper, seed, groups, modes

    def read(self, group: str, samples: range) -> Tensor:
        """Return this rank's part of some initial states; collective over the grid ranks."""
        number = self._groups.index(group)
        states = []
        for sample in samples:
            stream = np.random.SeedSequence(self._seed, spawn_key=(number, sample))
            generator = np.random.default_rng(stream)
            states.append(initial_states(self._stepper, generator, 1, self._modes))
        return torch.cat(states)


class OneStream:
    """Initial states from one random stream for the whole data set, as in versions up to 0.1.

    All initial states are in memory, and a sample depends on the number of samples of its group and
    of the earlier groups.

    Parameters
    ----------
    stepper : the PDE.
    seed : seed of the data set.
    counts : number of samples of each group, in the order in which they are drawn.
    modes : number of Fourier modes.
    """

    def __init__(self, stepper: Stepper, seed: int, counts: Mapping[str, int], modes: int) -> None:
        self._stepper, self._modes = stepper, modes
        self._generator, self._counts = np.random.default_rng(seed), iter(counts.items())
        self._states: dict[str, Tensor] = {}

    def read(self, group: str, samples: range) -> Tensor:
        """Return this rank's part of some initial states; collective over the grid ranks."""
        while group not in self._states:
            # The groups are drawn in their order, whichever is read first.
            name, count = next(self._counts)
            self._states[name] = initial_states(self._stepper, self._generator, count, self._modes)
        return self._states[group][samples.start : samples.stop]
