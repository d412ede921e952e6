"""Usability: an argument of another kind gets a message with what it must be."""

import numpy as np
import pytest
from mpi4py import MPI
from torch import nn

from prdp_hpc import (
    MLP,
    Conductivity,
    Coordinator,
    Emulator,
    Grid,
    Heat,
    IterationLadder,
    NetworkUnknown,
    Poisson,
    PreemptionWatch,
    ProcessMesh,
    Solver,
    Trainer,
    TrajectoryArrays,
)
from prdp_hpc.errors import InputError
from prdp_hpc.networks.build import build_network

LADDER = IterationLadder(1, 1, 3)


@pytest.fixture(scope="module")
def given():
    mesh = ProcessMesh.from_world(1, MPI.COMM_SELF)
    grid = Grid((8,), comm=mesh.grid_comm)
    ones = np.ones((2, 3, 1, 8))
    yield {
        "stepper": Heat(grid, 0.1, 0.1, Solver("cg", "jacobi", 2)),
        "network": MLP(8, 8, (4,)),
        "data": TrajectoryArrays(ones, ones),
        "mesh": mesh,
    }
    mesh.close()


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("stepper", 5, "stepper must be a PDE, see Stepper: a int has no __call__, channels"),
        ("stepper", Heat, "not the class Heat: call it to make one"),
        ("network", "mlp", "network must be a torch.nn.Module: a str has no forward, parameters"),
        ("network", MLP, "not the class MLP"),
        ("network", nn.LazyLinear(8), "network: weight of LazyLinear has no size yet, .* lazy"),
        ("data", "a.h5", r"data must be a data set, e.g. TrajectoryFile\(path\): a str has no"),
        ("data", np.ones(3), "a ndarray has no steps, count, read"),
        ("mesh", MPI.COMM_SELF, "mesh must be a ProcessMesh"),
        ("recipe", {"batch_size": 3}, "recipe must be a Recipe: a dict has no batch_size"),
    ],
)
def test_a_task_names_the_argument(given, name, wrong, message):
    with pytest.raises(InputError, match=message):
        Emulator(**{**given, name: wrong})


def test_a_trainer_names_the_argument(given, tmp_path):
    task = Emulator(**given)
    with pytest.raises(InputError, match=r"task must be a task, e.g. an Emulator: a Heat has no"):
        Trainer(given["stepper"], Coordinator(LADDER), tmp_path, epochs=1)
    with pytest.raises(InputError, match=r"schedule must be .*, e.g. a Coordinator: a Iter"):
        Trainer(task, LADDER, tmp_path, epochs=1)


def test_parts_of_an_own_loop_name_the_argument(given):
    mesh = given["mesh"]
    grid = given["stepper"].grid
    with pytest.raises(InputError, match=r"comm must be a communicator, e.g. mesh.world"):
        PreemptionWatch(mesh)
    with pytest.raises(InputError, match=r"network must be a torch.nn.Module"):
        mesh.data_parallel("mlp")
    lazy = nn.Sequential(nn.LazyConv1d(2, 1), nn.LazyBatchNorm1d())
    for receive in (mesh.data_parallel, lambda network: NetworkUnknown(network, grid, mesh)):
        with pytest.raises(InputError, match=r"network: 0\.weight of Sequential has no size yet"):
            receive(lazy)
    with pytest.raises(InputError, match=r"network: 0\.weight of Sequential has no size yet"):
        build_network(lambda *channels: lazy, grid.partition, 1, 1, {}, seed=1)
    with pytest.raises(InputError, match="grid must be a Grid: a tuple has no gather, scatter"):
        mesh.data_parallel(nn.Linear(1, 1), (8,))


@pytest.mark.parametrize("wrong", [Grid((8,)), 5, "poisson", Poisson], ids=lambda it: str(it)[:9])
def test_a_conductivity_is_made_of_a_pde(wrong):
    with pytest.raises(InputError, match="poisson must be a Poisson, or a PDE with a diffusivity"):
        Conductivity(wrong)
