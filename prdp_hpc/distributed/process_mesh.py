"""The world of ranks as replicas × grid ranks."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import nn

from prdp_hpc.distributed.allocation import share_arenas_under_a_limit
from prdp_hpc.distributed.data_parallel import DataParallel, Fields, on_parts
from prdp_hpc.distributed.launch import launched_size, under_torchrun
from prdp_hpc.distributed.mpi_gradients import MpiGradients
from prdp_hpc.distributed.network_checks import check_network
from prdp_hpc.distributed.preemption import Preempted
from prdp_hpc.distributed.topology import (
    MeshPlan,
    RankLocation,
    plan_mesh,
    rank_locations,
    threads_of,
)
from prdp_hpc.distributed.torch_start import start_torch_distributed
from prdp_hpc.errors import InputError, check_members
from prdp_hpc.logs import LOGGER

Gradients = Literal["auto", "mpi", "torch"]
GRADIENTS: tuple[Gradients, ...] = get_args(Gradients)
"""Choices of what averages the gradients of a network over the ranks."""
FEW = 1_000_000
"""Number of parameters up to which MPI replaces gloo on one node. In
`benchmarks/gradients_transport.py`, on a machine with 2 cores, it took 0.2 to 0.7 times as long up
to this number; with 10⁷ parameters 0.8 times on 2 ranks, but 1.15 times on 4.
"""


@dataclass(frozen=True)
class ProcessMesh:
    """MPI ranks arranged as `replicas × grid_ranks`.

    The ranks of one replica share one grid: each has a part of every field, for the same samples.
    The replicas have the same network and different samples. Rank `r` of `world` is grid rank `r %
    grid_ranks` of replica `r // grid_ranks`. `world` numbers the ranks so that the grid ranks of a
    replica are on one node if possible; the numbers are unchanged if the launcher places ranks node
    by node. Use `from_world` to make one.

    Parameters
    ----------
    world : mpi4py.MPI.Comm
        All ranks.
    grid_comm : mpi4py.MPI.Comm
        The ranks of this replica, for PETSc.
    replica_comm : mpi4py.MPI.Comm
        The ranks of all replicas that have the same part of the grid.
    replica_group : torch.distributed.ProcessGroup or None
        The same ranks for `torch.distributed` (DDP reduces over them); None with one replica.
    grid_group : torch.distributed.ProcessGroup or None
        The ranks of this replica for `torch.distributed`, if halos between GPUs use NCCL.
    device : torch.device
        The device of this rank's network: a GPU of this node if there is one.
    locations : tuple of RankLocation
        The node of every rank of `world`, with the cores and GPUs that it may use.
    gradients : str
        What averages the gradients, see `from_world`.
    shard_network : bool
        Whether networks are divided among the ranks, see `from_world`.
    _opened : tuple of torch.distributed.ProcessGroup
        The groups that `close` destroys.

    Examples
    --------
    >>> from prdp_hpc import ProcessMesh
    >>> mesh = ProcessMesh.from_world(grid_ranks=1)
    >>> mesh.replicas, mesh.grid_ranks, mesh.is_root
    (1, 1, True)
    >>> mesh.mean(2.5)
    2.5
    >>> mesh.close()
    """

    world: MPI.Comm
    grid_comm: MPI.Comm
    replica_comm: MPI.Comm
    replica_group: dist.ProcessGroup | None
    grid_group: dist.ProcessGroup | None
    device: torch.device
    locations: tuple[RankLocation, ...]
    gradients: Gradients = "auto"
    shard_network: bool = False
    _opened: tuple[dist.ProcessGroup | None, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_world(
        cls,
        grid_ranks: int = 1,
        comm: MPI.Comm | None = None,
        gradients: Gradients = "auto",
        shard_network: bool = False,
    ) -> ProcessMesh:
        """Make the mesh of all ranks and start `torch.distributed` on it; collective.

        The grid ranks of a replica are on one node if possible, for any placement by the launcher.
        Each rank gets an equal share of the node's cores as torch threads, at most
        SLURM_CPUS_PER_TASK, unless OMP_NUM_THREADS is set, and a GPU of the node if there is one; a
        warning is issued if ranks share a GPU. torch.distributed uses NCCL if each rank has a GPU
        for itself, else gloo, through an address of rank 0 that all nodes can reach. A process
        group that was started before is used; its ranks must have the numbers of `world`.

        Parameters
        ----------
        grid_ranks : int, default 1
            Ranks per replica; it must divide the number of ranks.
        comm : mpi4py.MPI.Comm, optional
            The ranks to split. Default: all ranks that mpirun, srun or torchrun started.
        gradients : str, default "auto"
            What averages the gradients of a network over the ranks: "mpi", "torch" (the backend of
            torch.distributed: NCCL or gloo, which uses TCP), or "auto": MPI instead of gloo if the
            ranks are on several nodes or the network has at most 10⁶ parameters.
        shard_network : bool, default False
            Whether each rank keeps only its part of a network's parameters, gradients and
            optimiser's state, for networks that do not fit into one rank's memory, see
            `data_parallel`.

        Returns
        -------
        ProcessMesh
            The mesh.

        Raises
        ------
        InputError
            On all ranks: if the number of ranks is not a multiple of `grid_ranks`, if the launcher
            started processes that are not in MPI's world, if only some nodes have GPUs, if the
            nodes cannot reach each other, or if torch.distributed already runs with other ranks.
        """
        if gradients not in GRADIENTS:
            raise InputError(f"gradients must be one of {', '.join(GRADIENTS)}, not {gradients!r}")
        share_arenas_under_a_limit()  # before torch.distributed starts its threads
        given = MPI.COMM_WORLD if comm is None else comm
        check_launch(given)
        plan = plan_mesh(rank_locations(given), grid_ranks)
        # A copy, so that messages here cannot match others on `comm`, even after a failure.
        world = given.Split(0, plan.order.index(given.rank))
        if world.rank == 0:
            _warn_of_shared_gpus(plan)
        device = _configure(plan, world.rank)
        return cls._start(world, plan, device, gradients, shard_network)

    @classmethod
    def _start(
        cls,
        world: MPI.Comm,
        plan: MeshPlan,
        device: torch.device,
        gradients: Gradients,
        shard_network: bool,
    ) -> ProcessMesh:
        """Make the communicators and groups; collective."""
        opened: list[dist.ProcessGroup | None] = []
        if world.size > 1 and start_torch_distributed(world, plan.locations):
            opened.append(dist.group.WORLD)
        replica, grid_rank = divmod(world.rank, plan.grid_ranks)
        several = world.size > plan.grid_ranks
        replica_groups = _groups(plan.counterparts) if several else []
        # Halos between CPUs use MPI.
        by_nccl = world.size > 1 and plan.grid_ranks > 1 and dist.get_backend() == "nccl"
        grid_groups = _groups(plan.replicas) if by_nccl else []
        return cls(
            world,
            world.Split(replica, grid_rank),
            world.Split(grid_rank, replica),
            replica_groups[grid_rank] if replica_groups else None,
            grid_groups[replica] if grid_groups else None,
            device,
            plan.locations,
            gradients,
            shard_network,
            (*replica_groups, *grid_groups, *opened),
        )

    @property
    def grid_ranks(self) -> int:
        """Number of ranks that share one grid."""
        return int(self.grid_comm.size)

    @property
    def replicas(self) -> int:
        """Number of copies of the network, each with different samples."""
        return int(self.replica_comm.size)

    @property
    def replica(self) -> int:
        """The replica of this rank, from 0."""
        return int(self.replica_comm.rank)

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0 of `world`, the only one that writes files and prints."""
        return bool(self.world.rank == 0)

    def data_parallel(
        self,
        network: nn.Module,
        grid: Fields | None = None,
        autocast: torch.dtype | None = None,
        shard: bool | None = None,
    ) -> DataParallel:
        """Wrap a network for training on all ranks of the mesh; collective.

        Its parameters must be equal on all ranks, on `device`. See `DataParallel` for the weight of
        each rank's loss.

        Parameters
        ----------
        network : torch.nn.Module
            The network.
        grid : Grid, optional
            The grid by which the network's fields are divided. Default: inputs are passed
            unchanged.
        autocast : torch.dtype, optional
            The type of the network's layers, if it differs from that of the parameters.
        shard : bool, optional
            Whether to divide the parameters among all ranks. They are gathered block by block for
            each forward and backward pass. Create the optimiser after this call. On one rank
            nothing changes. Default: `shard_network` of the mesh.

        Returns
        -------
        DataParallel
            The wrapped network.

        Raises
        ------
        InputError
            If the network cannot be divided, see `prdp_hpc.distributed.sharding`.
        """
        check_network(network)
        if grid is not None:
            check_members("grid", grid, ("gather", "scatter"), "a Grid")
        if (self.shard_network if shard is None else shard) and self.world.size > 1:
            return self._sharded(network, grid, autocast)
        parts = on_parts(network)
        weight, group = (self.world.size, None) if parts else (self.replicas, self.replica_group)
        mpi = None
        if weight > 1 and (self.gradients == "mpi" or self._mpi_is_faster(network)):
            mpi = MpiGradients(self.world if parts else self.replica_comm)
        found = DataParallel(network, self.device, weight, group, grid, autocast, mpi)
        if weight > 1:
            LOGGER.info("gradients are averaged over %d ranks by %s", weight, found.transport)
        return found

    def _sharded(
        self, network: nn.Module, grid: Fields | None, autocast: torch.dtype | None
    ) -> DataParallel:
        if self.gradients == "mpi":
            raise InputError(
                "gradients: torch.distributed averages those of a divided network: give auto or "
                "torch instead of mpi, or do not divide the network"
            )
        # The gradients of a replica's grid ranks are equal for a network on whole fields, so that
        # their mean over all ranks is that over the replicas.
        weight = self.world.size if on_parts(network) else self.replicas
        found = DataParallel(network, self.device, weight, None, grid, autocast, sharded=True)
        LOGGER.info("the network is divided among %d ranks", self.world.size)
        return found

    def _mpi_is_faster(self, network: nn.Module) -> bool:
        """Whether "auto" means MPI; it depends on nothing that a restart changes on equal nodes."""
        if self.gradients != "auto" or dist.get_backend() != "gloo":
            return False
        nodes = {location.node for location in self.locations}
        return len(nodes) > 1 or sum(p.numel() for p in network.parameters()) <= FEW

    def sum(self, value: float | torch.Tensor) -> float:
        """Return the sum of a number over all ranks; collective.

        Parameters
        ----------
        value : float or Tensor
            This rank's number; a tensor has the shape `()`.

        Returns
        -------
        float
            The sum, equal on all ranks.
        """
        return float(self.world.allreduce(_number(value), op=MPI.SUM))

    def mean(self, value: float | torch.Tensor) -> float:
        """Return the mean of a number over all ranks; collective.

        Parameters
        ----------
        value : float or Tensor
            This rank's number; a tensor has the shape `()`.

        Returns
        -------
        float
            The mean, equal on all ranks.
        """
        return self.sum(value) / float(self.world.size)

    def close(self) -> None:
        """Free the communicators and the groups of `torch.distributed`; collective."""
        error = sys.exc_info()[1]
        if error is None or isinstance(error, Preempted):
            _drop_variables(error)
            _free_petsc_objects(self.grid_comm, self.world)
        for group in self._opened:
            # Closing the group of all ranks has closed its subgroups.
            if dist.is_initialized():
                dist.destroy_process_group(group)
        for comm in (self.grid_comm, self.replica_comm, self.world):
            comm.Free()


def _free_petsc_objects(*comms: MPI.Comm) -> None:
    """Free the PETSc objects of these ranks that Python no longer references. Each keeps PETSc's
    copy of a communicator, of which MPI has about 2,000. Collective, so not while an error
    propagates that other ranks may not have.
    """
    from prdp_hpc.petsc import PETSc

    gc.collect()
    for comm in comms:
        if comm.size > 1:
            PETSc.garbage_cleanup(comm)


def _drop_variables(error: BaseException | None) -> None:
    """Remove the variables of the functions that an exception and its contexts have left, because
    their references keep PETSc objects.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _number(value: float | torch.Tensor) -> float:
    return value.item() if isinstance(value, torch.Tensor) else float(value)


def check_launch(comm: MPI.Comm) -> None:
    """Raise `InputError` if the launcher started more processes than are in MPI's world."""
    launched = launched_size()
    if comm.size == 1 and MPI.COMM_WORLD.size == 1 and launched > 1:
        vendor = " ".join(str(part) for part in MPI.get_vendor()[:1])
        if under_torchrun():
            raise InputError(
                f"torchrun started {launched} processes, but MPI ({vendor}) has one rank in each: "
                "import prdp_hpc before mpi4py, "
                "with MPICH or an MPI derived from it; or start the job with mpirun or srun"
            )
        raise InputError(
            f"the launcher started {launched} processes, but MPI ({vendor}) has one rank in each: "
            "use the mpirun of the MPI that mpi4py was built with, or srun with the right --mpi=… "
            "(`srun --mpi=list`)"
        )


def _configure(plan: MeshPlan, rank: int) -> torch.device:
    """Set the threads and the GPU of this process."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_of(plan.locations, rank))
    gpu = plan.gpus[rank]
    if gpu is None:
        return torch.device("cpu")
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
    return device


def _warn_of_shared_gpus(plan: MeshPlan) -> None:
    if plan.shared:
        shown = ", ".join(
            f"{ranks} on {gpus} of {host}" for host, (ranks, gpus) in list(plan.shared.items())[:4]
        )
        warnings.warn(
            f"there are more ranks than GPUs ({shown}): neighbouring ranks share one, and gloo is "
            "used instead of NCCL, which is slower; "
            "start one rank per GPU, e.g. by --ntasks-per-node=GPUS",
            RuntimeWarning,
            stacklevel=3,
        )


def _groups(members: list[list[int]]) -> list[Any]:
    """A torch.distributed group per list; every rank must participate in making each group."""
    return [dist.new_group(ranks) for ranks in members]
