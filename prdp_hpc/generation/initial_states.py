"""Random initial states of each PDE, on a grid and its ranks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.data import normalised_fourier, truncated_fourier
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics import Heat, NavierStokes
from prdp_hpc.tasks.stepper import Stepper

SMOOTHING = 3e-3
"""ν dt of the heat step that smooths noise, in length²."""


def initial_states(
    stepper: Stepper, grid: Grid, generator: np.random.Generator, count: int, modes: int
) -> Tensor:
    """This rank's part of random states `(count, C, *local_shape)` of a PDE, float64; collective.

    They are the same on any number of ranks.

    - heat: a truncated Fourier series of `modes` modes;
    - Burgers: one for each velocity component, scaled so that the sample's largest |u| is 1;
    - Navier–Stokes: white noise smoothed by one backward Euler step of the heat equation (ν dt =
      3e-3), each component brought to mean 0 and standard deviation 1, then made divergence-free;
      pressure 0.

    Source: paper, appendices on the heat and the Navier–Stokes experiments; Burgers' are our
    choice.
    """
    if isinstance(stepper, NavierStokes):
        return _smooth_flow(
            stepper,
            grid,
            torch.from_numpy(generator.standard_normal((count, grid.dim, *grid.shape))),
        )
    axes = [grid.axis_points(d) / grid.length[d] for d in range(grid.dim)]
    if isinstance(stepper, Heat):
        whole = truncated_fourier(generator, count, axes, modes)[:, None]
    else:
        whole = normalised_fourier(generator, count, len(stepper.channels), axes, modes)
    return grid.scatter(torch.from_numpy(whole))


def _smooth_flow(stepper: NavierStokes, grid: Grid, noise: Tensor) -> Tensor:
    smoothing = Heat(grid, SMOOTHING, 1.0, Solver("cg", "jacobi", Refinement(rtol=1e-12)))
    space = tuple(range(2, noise.dim()))
    with torch.no_grad():
        smooth = grid.gather(smoothing(grid.scatter(noise)))
        velocity = (smooth - smooth.mean(space, keepdim=True)) / smooth.std(
            space, keepdim=True, correction=0
        )
        state = torch.cat([velocity, torch.zeros_like(velocity[:, :1])], dim=1)
        flow = stepper.divergence_free(grid.scatter(state))
    flow[:, -1] = 0.0
    return flow
