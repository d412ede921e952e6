"""The locations of this job's ranks: their nodes, GPUs and cores."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
from mpi4py import MPI

from prdp_hpc.distributed.topology import RankLocation


def rank_locations(comm: MPI.Comm) -> list[RankLocation]:
    """The locations of all ranks; collective."""
    shared = comm.Split_type(MPI.COMM_TYPE_SHARED)
    node = shared.bcast(comm.rank)
    shared.Free()
    promised = os.environ.get("SLURM_CPUS_PER_TASK", "")
    most_threads = int(promised) if promised.isdigit() else None
    locations: list[RankLocation] = comm.allgather(
        RankLocation(node, socket.gethostname(), visible_gpus(), cores(), most_threads)
    )
    return locations


def visible_gpus() -> tuple[str, ...]:
    """Identifiers of the GPUs that are visible to this process.

    Not their indices: if SLURM makes one GPU visible to each task, it has the index 0 in all tasks.
    """
    if not torch.cuda.is_available():
        return ()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    found = []
    for index in range(torch.cuda.device_count()):
        # Earlier versions of torch do not have the UUID.
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        found.append(str(uuid or (names[index] if index < len(names) and names[index] else index)))
    return tuple(found)


def cores() -> frozenset[int]:
    """The cores that this process may run on, each by its first hardware thread; Linux."""
    return frozenset(_first_thread(thread) for thread in os.sched_getaffinity(0))


def _first_thread(thread: int) -> int:
    siblings = Path(f"/sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list")
    try:
        return int(siblings.read_text().replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return thread
