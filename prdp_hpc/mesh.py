"""The world of ranks as replicas × grid ranks."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI

from prdp_hpc.collective import abort_on_error


@dataclass(frozen=True)
class ProcessMesh:
    """MPI ranks arranged as `replicas × grid_ranks`.

    The ranks of one replica share one grid (each holds a part of every field and the same samples); the
    replicas hold the same network and different samples. World rank `r` is grid rank `r % grid_ranks` of
    replica `r // grid_ranks`, so the ranks of a replica are neighbours and, under the usual placement,
    on one node.

    Attributes
    ----------
    world : all ranks.
    grid_comm : the ranks of this replica; PETSc works on it.
    replica_comm : the ranks of all replicas that hold the same part of the grid.
    replica_group : the same ranks for `torch.distributed` (what DDP reduces over); None with one replica.
    device : where this rank's network lives; a GPU of this node if there is one.
    """

    world: MPI.Comm
    grid_comm: MPI.Comm
    replica_comm: MPI.Comm
    replica_group: dist.ProcessGroup | None
    device: torch.device

    @classmethod
    def from_world(cls, grid_ranks: int = 1, comm: MPI.Comm | None = None) -> ProcessMesh:
        """Split `comm` (default: all ranks started by mpirun or srun) and start `torch.distributed` on it.

        Each rank gets its share of the node's cores as torch threads, unless OMP_NUM_THREADS is set.
        With more than one rank, an uncaught exception on one rank ends the job.

        Raises
        ------
        ValueError
            If the number of ranks is not a multiple of `grid_ranks`, or if torchrun started processes
            that MPI does not know.
        """
        given = MPI.COMM_WORLD if comm is None else comm
        _check_launch(given.size, grid_ranks)
        # A copy: what goes on here cannot be mixed up with what others do on `comm`, even after a failure.
        world = given.Dup()
        abort_on_error(world)
        replica, grid_rank = divmod(world.rank, grid_ranks)
        node = world.Split_type(MPI.COMM_TYPE_SHARED)
        local_rank, local_size = node.rank, node.size
        node.Free()
        _share_cores(local_size)
        device = _local_device(local_rank)
        if world.size > 1 and not dist.is_initialized():
            _start_torch_distributed(world, local_size, device)
        group = _replica_group(world, grid_ranks)
        return cls(world, world.Split(replica, grid_rank), world.Split(grid_rank, replica), group, device)

    @property
    def grid_ranks(self) -> int:
        """Ranks that share one grid."""
        return int(self.grid_comm.size)

    @property
    def replicas(self) -> int:
        """Copies of the network that see different samples."""
        return int(self.replica_comm.size)

    @property
    def replica(self) -> int:
        """Which replica this rank belongs to, from 0."""
        return int(self.replica_comm.rank)

    @property
    def is_root(self) -> bool:
        """True on the one rank that writes files and prints."""
        return bool(self.world.rank == 0)

    def close(self) -> None:
        """Free the communicators and stop `torch.distributed`; collective."""
        if dist.is_initialized():
            dist.destroy_process_group()
        for comm in (self.grid_comm, self.replica_comm, self.world):
            comm.Free()


def _check_launch(size: int, grid_ranks: int) -> None:
    if grid_ranks < 1 or size % grid_ranks:
        fitting = [n for n in range(1, size + 1) if size % n == 0]
        raise ValueError(
            f"{size} ranks cannot be split into replicas of {grid_ranks} grid ranks: "
            f"grid_ranks must be one of {fitting}, or start another number of ranks"
        )
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if launched > 1 and size == 1:
        raise ValueError(f"torchrun started {launched} processes, but MPI sees each alone: start the job with mpirun or srun")


def _share_cores(local_size: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))


def _local_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _start_torch_distributed(world: MPI.Comm, local_size: int, device: torch.device) -> None:
    """Rank 0 chooses the address and a free port; MPI tells the others."""
    one_node = world.allreduce(local_size, op=MPI.MIN) == world.size
    if one_node:
        # A machine without a network (or without an entry for its own name) must work too.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    tcp_store: Any = dist.TCPStore  # type: ignore[attr-defined]
    store = None
    if world.rank == 0:
        host = "127.0.0.1" if one_node else socket.gethostbyname(socket.gethostname())
        store = tcp_store(host, 0, world.size, is_master=True, wait_for_workers=False)
    address = world.bcast((store.host, store.port) if store is not None else None)
    if store is None:
        store = tcp_store(*address, world.size, is_master=False)
    own_gpu = device.type == "cuda" and torch.cuda.device_count() >= local_size
    every_rank = world.allreduce(own_gpu, op=MPI.LAND)
    dist.init_process_group("nccl" if every_rank else "gloo", store=store, rank=world.rank, world_size=world.size)


def _replica_group(world: MPI.Comm, grid_ranks: int) -> dist.ProcessGroup | None:
    """This rank's group; `new_group` wants every rank to take part in making each."""
    if world.size == grid_ranks:
        return None
    groups = [dist.new_group(list(range(first, world.size, grid_ranks))) for first in range(grid_ranks)]
    mine: dist.ProcessGroup = groups[world.rank % grid_ranks]
    return mine
