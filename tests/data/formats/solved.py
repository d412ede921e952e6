"""Trajectories that the solvers of this package computed, for files with known physics."""

import numpy as np
import torch
from mpi4py import MPI

from prdp_hpc import Burgers, Grid, Heat
from prdp_hpc.linalg import Solver
from prdp_hpc.physics.stepper import initial_states

DT = 0.05
VISCOSITY = 0.01
DIFFUSIVITY = 0.02


def heat(shape=(8, 12), lengths=(1.0, 2.0), trajectories=3, steps=3, dt=DT):
    """The heat equation on a periodic grid."""
    grid = Grid(shape, "periodic", MPI.COMM_SELF, lengths)
    return _trajectories(
        Heat(grid, DIFFUSIVITY, dt, Solver("cg", "jacobi", 1e-12)), trajectories, steps
    )


def burgers(shape=(12, 12), lengths=1.0, trajectories=3, steps=3, dt=DT):
    """Burgers' equation on a periodic grid."""
    grid = Grid(shape, "periodic", MPI.COMM_SELF, lengths)
    solver = Solver("gmres", "jacobi", 1e-12)
    return _trajectories(Burgers(grid, VISCOSITY, dt, solver), trajectories, steps)


def _trajectories(stepper, count, steps):
    """`(trajectories, states, channels, *shape)` of float64."""
    states = [initial_states(stepper, np.random.default_rng(0), count, 3)]
    with torch.no_grad():
        for _ in range(steps):
            states.append(stepper(states[-1]))
    return torch.stack(states, dim=1).numpy()
