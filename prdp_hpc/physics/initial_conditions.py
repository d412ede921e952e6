"""Random initial states."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def truncated_fourier(
    generator: np.random.Generator,
    samples: int,
    axes: Sequence[NDArray[np.float64]],
    modes: int = 5,
) -> NDArray[np.float64]:
    """Random truncated Fourier series `Σ_m Σ_f a_{m,f} Π_d f_d(2π m x_d)`, shape `(samples,
    *grid)`.

    `axes`: coordinates per axis, scaled to (0, 1). For each mode number m = 1 … `modes`, f runs
    over all products of one sine or cosine per axis; amplitudes are uniform in (−1, 1).

    Source: paper, appendix on the heat experiments. Fitting the authors' data gives this family in
    1-D (sin and cos of 2πmx); in 2-D their data contain sin(2πmx)·cos(2πmx) of the same coordinate
    instead of sin(2πmx)·cos(2πmy).
    """
    total = np.zeros((samples, *(len(x) for x in axes)))
    for m in range(1, modes + 1):
        waves = [(np.sin(2 * math.pi * m * x), np.cos(2 * math.pi * m * x)) for x in axes]
        for product in itertools.product(*waves):
            shape = product[0]
            for wave in product[1:]:
                shape = np.multiply.outer(shape, wave)
            amplitude = generator.uniform(-1.0, 1.0, size=samples)
            total += np.multiply.outer(amplitude, shape)
    return total


def normalised_fourier(
    generator: np.random.Generator,
    samples: int,
    channels: int,
    axes: Sequence[NDArray[np.float64]],
    modes: int = 5,
) -> NDArray[np.float64]:
    """A `truncated_fourier` series for each channel, `(samples, channels, *grid)`; the largest
    |value| of a sample is 1.
    """
    states = np.stack(
        [truncated_fourier(generator, samples, axes, modes) for _ in range(channels)], axis=1
    )
    peaks: NDArray[np.float64] = np.abs(states).max(
        axis=tuple(range(1, states.ndim)), keepdims=True
    )
    normalised: NDArray[np.float64] = states / peaks
    return normalised
