"""Synthetic coefficient fields, equal for any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid

KINDS = ("gaussian", "channels")
CHANNEL = 0.4
"""A point belongs to a channel if |g| is below this value, with g the standard normal field; this
holds for about 31 % of the points.
"""


def synthetic_field(
    grid: Grid,
    kind: str = "gaussian",
    contrast: float = 100.0,
    waves: float = 1.5,
    modes: int = 64,
    seed: int = 0,
) -> Tensor:
    """Compute this rank's part of a random `m = ln κ`, of shape `local_shape`, float64; not
    collective.

    Let g be a Gaussian random field of mean 0 and variance 1, a sum of `modes` plane waves:

    - gaussian: `m = ln(contrast) / 4 · g`, so that κ at two standard deviations above the mean is
      `contrast` times κ at two standard deviations below it;
    - channels: `m = ½ ln(contrast)` if `|g| < 0.4`, which are winding channels of high κ, and
      `m = −½ ln(contrast)` otherwise.

    Parameters
    ----------
    grid : the grid.
    kind : type of the field, "gaussian" or "channels".
    contrast : ratio of high to low values of κ, above 1.
    waves : standard deviation of the wave numbers along each axis, in waves per length of the
        domain.
    modes : number of plane waves.
    seed : random seed of the waves; a finer grid of the same domain has the same field.

    Raises
    ------
    InputError
        For an unknown kind, or a number out of range.
    """
    if kind not in KINDS:
        raise InputError(f"truth.kind: {kind!r} is not known; choose one of {', '.join(KINDS)}")
    if not (contrast > 1 and math.isfinite(contrast) and waves > 0 and modes >= 1):
        raise InputError(
            "truth: a field needs a finite contrast above 1, waves above 0 and at least 1 mode, "
            f"not {contrast!r}, {waves!r} and {modes!r}"
        )
    g = _gaussian(grid, waves, modes, np.random.default_rng((seed, 1)))
    if kind == "gaussian":
        return math.log(contrast) / 4 * g
    high = 0.5 * math.log(contrast)
    return torch.where(g.abs() < CHANNEL, high, -high)


def _gaussian(grid: Grid, waves: float, modes: int, generator: np.random.Generator) -> Tensor:
    axes = [x / length for x, length in zip(grid.coordinates(), grid.length, strict=True)]
    total = torch.zeros(grid.local_shape, dtype=torch.float64)
    for _ in range(modes):
        numbers, phase = generator.normal(0.0, waves, grid.dim), generator.uniform(0.0, 1.0)
        if grid.boundary.count("periodic"):
            numbers = np.where(np.array(grid.boundary) == "periodic", np.round(numbers), numbers)
        turns = torch.full_like(total, float(phase))
        for number, x in zip(numbers, axes, strict=True):
            turns += float(number) * x
        total += torch.cos(2 * math.pi * turns)
    return total * math.sqrt(2.0 / modes)
