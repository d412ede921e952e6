"""Synthetic experiments: random wells, and data from a converged solve with the true field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.data import share
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.tasks.inversion.experiments import Observations
from prdp_hpc.tasks.inversion.positions import Positions


@dataclass(frozen=True)
class Wells:
    """The wells (point sources) of one experiment.

    Attributes
    ----------
    positions : coordinates `(w, dim)`, from 0 to the length of the domain.
    rates : source strengths `(w,)`; positive: injection.
    """

    positions: NDArray[np.float64]
    rates: NDArray[np.float64]


def random_wells(grid: Grid, experiments: int, wells: int, seed: int) -> list[Wells]:
    """Wells at uniformly distributed random positions, with rates ±1 whose sum is 0 or 1 in each
    experiment. They are equal for any number of ranks and for any grid of the same domain.
    """
    found = []
    for number in range(experiments):
        generator = np.random.default_rng((seed, 2, number))
        # Not close to a boundary, beyond which a part of the source would be lost.
        positions = generator.uniform(0.05, 0.95, (wells, grid.dim)) * np.asarray(grid.length)
        found.append(Wells(positions, np.where(np.arange(wells) % 2 == 0, 1.0, -1.0)))
    return found


def well_sources(grid: Grid, experiments: Sequence[Wells]) -> Tensor:
    """The sources `(E, *local_shape)` of each experiment's wells; not collective."""
    sources = [
        Positions(grid, wells.positions).sources(torch.from_numpy(np.asarray(wells.rates, float)))
        for wells in experiments
    ]
    return torch.stack(sources) if sources else torch.zeros((0, *grid.local_shape)).double()


def predictions(
    solve: Callable[[NDArray[np.int64]], Tensor], count: int, mesh: ProcessMesh
) -> Tensor:
    """Compute the observations of `count` experiments; collective.

    `solve(numbers)` returns the observations of some of them, `(len(numbers), ...)`. Each replica
    computes a share, and all replicas receive the whole result.
    """
    mine = share(np.arange(count), mesh.replica, mesh.replicas)
    with torch.no_grad():
        own = solve(mine).contiguous()
    if mesh.replicas == 1:
        return own
    shape = tuple(own.shape[1:])
    whole = np.empty((count, *shape))
    numbers = int(np.prod(shape))
    sizes = [
        len(share(np.arange(count), replica, mesh.replicas)) * numbers
        for replica in range(mesh.replicas)
    ]
    mesh.replica_comm.Allgatherv(own.numpy(), [whole, sizes, MPI.DOUBLE])
    return torch.from_numpy(whole)


def noise_level(exact: Tensor, observe: Observations, comm: MPI.Comm, relative: float) -> float:
    """`relative` times the root mean square of all exact data; collective."""
    squares, count = exact.square().sum().item(), float(exact.numel())
    if observe.local:
        squares, count = (comm.allreduce(one, op=MPI.SUM) for one in (squares, count))
    level = relative * (squares / max(count, 1.0)) ** 0.5
    if not level > 0:
        raise InputError(
            "observations: the data computed from the true field are all zero, so a noise relative "
            "to them is not defined: give sources, or values on the sides"
        )
    return float(level)


def noise(grid: Grid, observe: Observations, count: int, seed: int) -> Tensor:
    """Standard normal random numbers `(count, *observe.shape)`, equal for any number of ranks.

    For whole fields each plane perpendicular to the first axis has a separate generator, so that
    each rank only generates its planes.
    """
    if not observe.local:
        shape = (count, *observe.shape)
        return torch.from_numpy(np.random.default_rng((seed, 3)).standard_normal(shape))
    first, *others = grid.local_slices
    planes = [
        [
            np.random.default_rng((seed, 3, number, plane)).standard_normal(grid.shape[1:])[
                tuple(others)
            ]
            for plane in range(first.start, first.stop)
        ]
        for number in range(count)
    ]
    return torch.from_numpy(np.asarray(planes).reshape(count, *grid.local_shape))
