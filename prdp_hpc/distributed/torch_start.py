"""The start of `torch.distributed` on the ranks of a mesh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from mpi4py import MPI

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.rendezvous import common_address, use_interface_to
from prdp_hpc.distributed.topology import RankLocation, each_has_a_gpu
from prdp_hpc.errors import InputError


def start_torch_distributed(world: MPI.Comm, locations: Sequence[RankLocation]) -> bool:
    """Start torch.distributed unless it runs; returns whether it was started; collective."""
    running = dist.is_initialized()
    raise_together(world, _validate_process_group(world))
    if not running:
        _init_process_group(world, locations)
    return not running


def _validate_process_group(world: MPI.Comm) -> InputError | None:
    """The error for a torch.distributed that the user started with other ranks; collective."""
    mine = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else None
    found = world.allgather(mine)
    wanted = [(rank, world.size) for rank in range(world.size)]
    if found in (wanted, [None] * world.size):
        return None
    rank = next(rank for rank in range(world.size) if found[rank] != wanted[rank])
    there = (
        "runs on some ranks only"
        if None in found
        else f"numbers MPI rank {rank} of {world.size} as {found[rank][0]} of {found[rank][1]}"
    )
    return InputError(
        f"torch.distributed was started before this mesh and {there}: let it be started by "
        "ProcessMesh.from_world, or call init_process_group on all ranks with "
        "rank=MPI.COMM_WORLD.rank, world_size=MPI.COMM_WORLD.size; if the launcher places the "
        "ranks of a replica on several nodes, only the former is possible"
    )


def _init_process_group(world: MPI.Comm, locations: Sequence[RankLocation]) -> None:
    """Start torch.distributed at a free port of rank 0, which is broadcast by MPI."""
    address = common_address(world, locations[world.rank].node)
    if len({location.node for location in locations}) == 1:
        # This works also on a machine without a network, or without an entry for its host name.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    else:
        use_interface_to(address)
    tcp_store: Any = dist.TCPStore  # type: ignore[attr-defined]
    store = (
        tcp_store(address, 0, world.size, is_master=True, wait_for_workers=False)
        if world.rank == 0
        else None
    )
    port = world.bcast(store.port if store is not None else None)
    if store is None:
        store = tcp_store(address, port, world.size, is_master=False)
    backend = "nccl" if dist.is_nccl_available() and each_has_a_gpu(locations) else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
