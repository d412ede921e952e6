"""A closed mesh keeps no communicator, of which MPI has about 2,000."""

import os
import signal
from contextlib import suppress
from unittest.mock import patch

import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, ProcessMesh, Solver
from prdp_hpc.config import validate
from prdp_hpc.distributed.preemption import Preempted, PreemptionWatch
from prdp_hpc.experiments.run import run_experiment

WORLD = MPI.COMM_WORLD


FREE = 200
"""More than any use here makes at a time."""


def made_communicators(most=None):
    """As many new communicators as there can be, or `most`."""
    made = []
    with suppress(MPI.Exception):
        while most is None or len(made) < most:
            made.append(WORLD.Dup())
    return made


@pytest.fixture(scope="module")
def few_are_left():
    """All but some communicators are in use: making all of them takes longer than the tests."""
    made = made_communicators()
    for comm in made[:FREE]:
        comm.Free()
    yield
    for comm in made[FREE:]:
        comm.Free()


def free_communicators():
    """The number of communicators that can still be made."""
    made = made_communicators(2 * FREE)
    for comm in made:
        comm.Free()
    return len(made)


def a_step(mesh, folder, number):
    grid = Grid((8, 8), comm=mesh.grid_comm)
    state = torch.rand(2, 1, *grid.local_shape, dtype=torch.float64, requires_grad=True)
    Heat(grid, 1.0, 0.1, Solver("cg", "jacobi"))(state).sum().backward()


def a_run(mesh, folder, number):
    config = validate(tiny.emulator(folder, training={"epochs": 1}), "here")
    run_experiment(config, mesh, folder / f"run_{number}", resume=False)


def a_stopped_run(mesh, folder, number):
    def enter(self, own=PreemptionWatch.__enter__):
        watch = own(self)
        os.kill(os.getpid(), signal.SIGUSR1)
        return watch

    a_run(mesh, folder, f"whole_{number}")  # so that the next one stops in training
    with patch.object(PreemptionWatch, "__enter__", enter):
        a_run(mesh, folder, number)


@pytest.mark.parametrize("use", [a_step, a_run, a_stopped_run])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parallel(nprocs=2)
@pytest.mark.usefixtures("few_are_left")
def test_closed_meshes_keep_no_communicators(use, replicas, tmp_path):
    folder = type(tmp_path)(WORLD.bcast(str(tmp_path)))
    counts = []
    for number in range(2):
        mesh = ProcessMesh.from_world(WORLD.size // replicas)
        with suppress(Preempted):
            try:
                use(mesh, folder, number)
            finally:
                mesh.close()
        counts.append(free_communicators())
    assert counts[1] == counts[0] > FREE / 2
