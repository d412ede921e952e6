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


def free_communicators():
    """The number of communicators that can still be made."""
    made = []
    try:
        while True:
            made.append(WORLD.Dup())
    except MPI.Exception:
        pass
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
def test_closed_meshes_keep_no_communicators(use, replicas, tmp_path):
    folder = type(tmp_path)(WORLD.bcast(str(tmp_path)))
    counts = []
    for number in range(3):
        mesh = ProcessMesh.from_world(WORLD.size // replicas)
        with suppress(Preempted):
            try:
                use(mesh, folder, number)
            finally:
                mesh.close()
        counts.append(free_communicators())
    assert counts[1] == counts[0] == counts[2]
