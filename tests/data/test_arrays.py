"""Usability: a script trains on arrays, and data of another grid or PDE than the task's are refused
by name, in scripts as in configs.
"""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    MLP,
    Emulator,
    Grid,
    Heat,
    ProcessMesh,
    Recipe,
    Solver,
    TrajectoryArrays,
    TrajectoryFile,
)
from prdp_hpc.data import DataError, TrajectoryAttributes, write_trajectories

NUMBERS = {"dt": 0.01, "diffusivity": 0.1}


@pytest.fixture
def mesh():
    made = ProcessMesh.from_world(MPI.COMM_WORLD.size)
    yield made
    made.close()


def states(seed=0, points=16, dtype=np.float64):
    return np.random.default_rng(seed).random((6, 3, 1, points)).astype(dtype) + 1


def stored(folder, array):
    about = TrajectoryAttributes("heat", (16,), "dirichlet", 1.0, NUMBERS, ("u",), "Euler")
    write_trajectories(folder / "a.h5", {"train": array[:4], "validation": array[4:]}, about)
    return TrajectoryFile(folder / "a.h5")


def emulator(mesh, data, points=16, dt=0.01):
    grid = Grid((points,), comm=mesh.grid_comm)
    torch.manual_seed(1)
    heat = Heat(grid, 0.1, dt, Solver("cg", "jacobi", 3))
    return Emulator(heat, MLP(points, points, (8,)), data, mesh, Recipe(batch_size=2))


def losses(task):
    return [task.train_epoch(epoch) for epoch in (1, 2)] + list(task.validate().values())


def test_arrays_and_a_file_with_the_same_numbers_are_trained_equally(mesh, tmp_path):
    array = states()
    given = [
        TrajectoryArrays(array[:4], array[4:], attributes=NUMBERS),
        TrajectoryArrays(torch.from_numpy(array[:4]), torch.from_numpy(array[4:])),
        stored(tmp_path, array),
    ]
    assert len({tuple(losses(emulator(mesh, data))) for data in given}) == 1


@pytest.mark.parametrize("make", [stored, lambda _, a: TrajectoryArrays(a[:4], a[4:])])
def test_data_of_another_grid_are_refused_instead_of_cut(make, mesh, tmp_path):
    data = make(tmp_path, states())
    with pytest.raises(DataError, match=r"have \(16,\) points, but the grid has \(8,\)"):
        emulator(mesh, data, points=8)


@pytest.mark.parametrize(
    "make", [stored, lambda _, a: TrajectoryArrays(a[:4], a[4:], attributes=NUMBERS)]
)
def test_data_of_another_pde_are_refused_in_a_script(make, mesh, tmp_path):
    with pytest.raises(DataError, match=r"generated with dt = 0.01, but physics.dt is 0.02"):
        emulator(mesh, make(tmp_path, states()), dt=0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((4, 3, 16)), r"train must have numbers of the shape"),
        (np.ones((4, 3, 1, 16), complex), r"train must have .* not complex128"),
        (np.full((4, 3, 1, 16), "a"), r"train must have"),
        (np.ones((4, 2, 1, 16)), r"must agree in all but the number of samples"),
    ],
)
def test_arrays_of_another_kind_are_refused(wrong, message):
    with pytest.raises(DataError, match=message):
        TrajectoryArrays(wrong, np.ones((2, 3, 1, 16)))


@pytest.mark.parallel(nprocs=2)
def test_arrays_are_trained_on_two_ranks_as_on_one(mesh):
    array = states()
    data = TrajectoryArrays(array[:4], array[4:])
    alone = ProcessMesh.from_world(1, MPI.COMM_SELF)
    assert losses(emulator(mesh, data)) == pytest.approx(losses(emulator(alone, data)), rel=1e-5)
    alone.close()


@pytest.mark.parallel(nprocs=2)
def test_arrays_that_differ_between_ranks_are_refused(mesh):
    array = states(seed=mesh.world.rank)
    with pytest.raises(DataError, match="the ranks have different numbers"):
        emulator(mesh, TrajectoryArrays(array[:4], array[4:]))
