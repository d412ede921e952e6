"""The locations of the ranks of this job, and their arrangement by these locations."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

import torch
from mpi4py import MPI

from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count


@dataclass(frozen=True)
class RankLocation:
    """The node of a rank, with the cores and GPUs that it may use there.

    Attributes
    ----------
    node : the number of the node; host : its name.
    gpus : identifiers of the GPUs that are visible to the rank, in the order of their indices.
    cores : the cores that it may run on.
    most_threads : the number of cores that was requested (`--cpus-per-task`), or None.
    """

    node: int
    host: str
    gpus: tuple[str, ...]
    cores: frozenset[int]
    most_threads: int | None = None


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


@dataclass(frozen=True)
class MeshPlan:
    """The arrangement of ranks in a mesh of `replicas × grid_ranks`.

    Rank r of the mesh is grid rank `r % grid_ranks` of replica `r // grid_ranks`.

    Attributes
    ----------
    grid_ranks : ranks that share one grid.
    order : ranks of the original communicator, in the order of the mesh.
    locations : the location of each rank of the mesh.
    gpus : the index of each rank's GPU; None for ranks without.
    shared : by host, where ranks share GPUs: numbers of ranks and of their GPUs.
    """

    grid_ranks: int
    order: tuple[int, ...]
    locations: tuple[RankLocation, ...]
    gpus: tuple[int | None, ...]
    shared: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def replicas(self) -> list[list[int]]:
        """The ranks of each replica."""
        return [list(range(r, r + self.grid_ranks)) for r in range(0, self._size, self.grid_ranks)]

    @property
    def counterparts(self) -> list[list[int]]:
        """For each part of the grid the ranks of all replicas that have it."""
        return [list(range(r, self._size, self.grid_ranks)) for r in range(self.grid_ranks)]

    @property
    def _size(self) -> int:
        return len(self.locations)


def plan_mesh(locations: Sequence[RankLocation], grid_ranks: int) -> MeshPlan:
    """The arrangement of ranks at these locations.

    Raises
    ------
    ValueError
        If the number of ranks is not a multiple of `grid_ranks`, or only some of them have GPUs.
    """
    size = len(locations)
    if grid_ranks is True or not isinstance(grid_ranks, Integral):
        check_count("grid_ranks", grid_ranks)
    if grid_ranks < 1 or size % grid_ranks:
        fitting = [n for n in range(1, size + 1) if size % n == 0]
        raise InputError(
            f"{size} ranks cannot be split into replicas of {grid_ranks} grid ranks: "
            f"set grid_ranks to one of {fitting}, or start another number of ranks"
        )
    ranks = order([location.node for location in locations], grid_ranks)
    placed = [locations[rank] for rank in ranks]
    gpus = tuple(gpus_of(placed))
    return MeshPlan(grid_ranks, tuple(ranks), tuple(placed), gpus, sharing(placed))


def order(nodes: Sequence[int], grid_ranks: int) -> list[int]:
    """World ranks in the order in which replicas are formed, `grid_ranks` at a time.

    As many replicas as possible are on one node each, for any placement by the launcher (block or
    cyclic); the remaining ranks of nodes form the others. Rank 0 stays first, and the order is
    unchanged if ranks are placed node by node.
    """
    whole: list[list[int]] = []
    left: list[int] = []
    for node in dict.fromkeys(nodes):
        members = [rank for rank, other in enumerate(nodes) if other == node]
        cut = len(members) - len(members) % grid_ranks
        whole += [members[i : i + grid_ranks] for i in range(0, cut, grid_ranks)]
        left += members[cut:]
    replicas = whole + [left[i : i + grid_ranks] for i in range(0, len(left), grid_ranks)]
    replicas.sort(key=lambda replica: 0 not in replica)
    return [rank for replica in replicas for rank in replica]


def spread(nodes: Sequence[int], grid_ranks: int) -> int:
    """Number of replicas on more than one node, for ranks in the order of `order`."""
    return sum(len(set(nodes[i : i + grid_ranks])) > 1 for i in range(0, len(nodes), grid_ranks))


def gpus_of(locations: Sequence[RankLocation]) -> list[int | None]:
    """For each rank the index of its GPU, among the visible ones; None on machines without GPUs.

    Ranks with the same visible GPUs get different ones if there are enough, otherwise neighbouring
    ranks share one. If the launcher makes a different GPU visible to each rank, each rank uses it.
    Raises `InputError` if GPUs are visible to some ranks only.
    """
    if len({bool(location.gpus) for location in locations}) > 1:
        without = sorted({location.host for location in locations if not location.gpus})
        raise InputError(
            f"some ranks have GPUs, but those on {', '.join(without[:4])} have none: request GPUs "
            "on all nodes (e.g. --gpus-per-node), or hide "
            "them everywhere with CUDA_VISIBLE_DEVICES="
        )
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for rank, location in enumerate(locations):
        alike.setdefault((location.node, location.gpus), []).append(rank)
    found: list[int | None] = [None] * len(locations)
    for (_, gpus), ranks in alike.items():
        for place, rank in enumerate(ranks):
            if gpus:
                found[rank] = place * len(gpus) // max(len(ranks), len(gpus))
    return found


def sharing(locations: Sequence[RankLocation]) -> dict[str, tuple[int, int]]:
    """By host, for hosts where ranks share GPUs: numbers of ranks and of their GPUs."""
    indices = gpus_of(locations)
    used = [
        (location.host, location.gpus[index])
        for location, index in zip(locations, indices, strict=True)
        if index is not None
    ]
    ranks, gpus = Counter(host for host, _ in used), Counter(host for host, _ in set(used))
    return {host: (ranks[host], gpus[host]) for host in ranks if ranks[host] > gpus[host]}


def each_has_a_gpu(locations: Sequence[RankLocation]) -> bool:
    """Whether every rank has a GPU that no other rank uses, which NCCL needs."""
    return all(location.gpus for location in locations) and not sharing(locations)


def threads_of(locations: Sequence[RankLocation], rank: int) -> int:
    """A rank's share of the cores that it may run on: all of them if the launcher binds each rank
    to different cores.
    """
    mine = locations[rank]
    others = sum(
        location.node == mine.node and bool(location.cores & mine.cores) for location in locations
    )
    share = max(1, len(mine.cores) // max(1, others))
    return min(share, mine.most_threads or share)


def describe(locations: Sequence[RankLocation]) -> str:
    """`3 rank(s) on 2 node(s) (a: 2, b: 1), 2 GPU(s) per node`, for messages."""
    counts = Counter((location.node, location.host) for location in locations)
    hosts = ", ".join(f"{host}: {count}" for (_, host), count in list(counts.items())[:8])
    more = ", …" if len(counts) > 8 else ""
    gpus = sorted(
        {
            len({gpu for location in locations if location.node == node for gpu in location.gpus})
            for node, _ in counts
        }
    )
    return (
        f"{len(locations)} rank(s) on {len(counts)} node(s) ({hosts}{more}), "
        f"{' or '.join(map(str, gpus))} GPU(s) per node"
    )
