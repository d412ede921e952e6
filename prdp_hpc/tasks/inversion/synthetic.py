"""Synthetic experiments: random wells, and data made with a converged solve on the true field."""

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
    """Where something is pumped in or out in one experiment.

    Attributes
    ----------
    positions : `(w, dim)`, in units of the domain's length.
    rates : `(w,)`; in is positive.
    """

    positions: NDArray[np.float64]
    rates: NDArray[np.float64]


def random_wells(grid: Grid, experiments: int, wells: int, seed: int) -> list[Wells]:
    """Wells at uniform random positions, with rates of ±1 that sum to 0 or 1 in each experiment;
    the same on any number of ranks, and for any grid of the same domain.
    """
    found = []
    for number in range(experiments):
        generator = np.random.default_rng((seed, 2, number))
        # Not next to a boundary, where what is pumped would be lost.
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
    """What `count` experiments would measure; collective.

    `solve(numbers)` gives the observations of some of them, `(len(numbers), ...)`; the replicas
    take their shares, and all get all.
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
            "observations: the data made from the true field are all zero, so that a noise "
            "relative to them is none: give sources, or values on the sides"
        )
    return float(level)


def noise(grid: Grid, observe: Observations, count: int, seed: int) -> Tensor:
    """Standard normal numbers `(count, *observe.shape)`, the same on any number of ranks.

    Of a whole field each plane across the first axis has a generator of its own, so that no rank
    draws for more than its own planes.
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
