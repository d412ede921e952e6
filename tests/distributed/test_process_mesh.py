"""Property: ranks are divided into replicas × grid ranks."""

import pytest
import torch
import torch.distributed as dist
from mpi4py import MPI

from prdp_hpc import ProcessMesh


def test_one_rank():
    mesh = ProcessMesh.from_world()
    assert (mesh.grid_ranks, mesh.replicas, mesh.replica, mesh.is_root) == (1, 1, 0, True)
    assert not dist.is_initialized()
    mesh.close()


@pytest.mark.parametrize("grid_ranks", [0, -1, 2])
def test_one_rank_cannot_be_divided(grid_ranks):
    with pytest.raises(
        ValueError,
        match=r"1 ranks cannot be split into replicas of .* set grid_ranks to one of \[1\]",
    ):
        ProcessMesh.from_world(grid_ranks, MPI.COMM_SELF)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"},
            r"torchrun started 4 processes, but MPI .* import prdp_hpc before mpi4py",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "3"},
            r"launcher started 3 processes, but MPI .* has one rank in each: use the mpirun of",
        ),
        ({"SLURM_STEP_NUM_TASKS": "8"}, r"launcher started 8 processes.*srun --mpi=list"),
    ],
)
@pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="on one rank")
def test_a_launcher_that_mpi_does_not_know_is_named(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        ProcessMesh.from_world(1, MPI.COMM_SELF)


@pytest.mark.parallel(nprocs=4)
def test_four_ranks():
    world = MPI.COMM_WORLD
    try:
        ProcessMesh.from_world(grid_ranks=3)
        message = ""
    except ValueError as error:
        message = str(error)
    wanted = (
        "4 ranks cannot be split into replicas of 3 grid ranks: set grid_ranks to one of [1, 2, 4]"
    )
    assert all(wanted in told for told in world.allgather(message))
    for grid_ranks in (1, 2, 4):
        mesh = ProcessMesh.from_world(grid_ranks)
        assert (mesh.grid_ranks, mesh.replicas) == (grid_ranks, 4 // grid_ranks)
        assert mesh.replica == world.rank // grid_ranks
        assert mesh.grid_comm.allgather(world.rank) == [
            mesh.replica * grid_ranks + i for i in range(grid_ranks)
        ]
        assert mesh.replica_comm.allgather(world.rank) == [
            i * grid_ranks + mesh.grid_comm.rank for i in range(4 // grid_ranks)
        ]
        assert world.allreduce(int(mesh.is_root)) == 1
        ranks = torch.tensor([float(world.rank)])
        dist.all_reduce(ranks)
        assert (dist.get_rank(), ranks.item()) == (world.rank, 6.0)
        mesh.close()
        assert not dist.is_initialized()
