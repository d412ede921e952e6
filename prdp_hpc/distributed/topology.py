"""Which rank does what, by where the ranks are: pure functions of what all ranks know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prdp_hpc.errors import InputError


@dataclass(frozen=True)
class RankLocation:
    """The node of a rank, and what it may use there.

    Attributes
    ----------
    node : the number of its node; host : its name.
    gpus : what tells the GPUs that the rank sees from all others, in the order of their indices.
    cores : the cores that it may run on.
    most_threads : cores that it was promised (`--cpus-per-task`); None where nobody said.
    """

    node: int
    host: str
    gpus: tuple[str, ...]
    cores: frozenset[int]
    most_threads: int | None = None


@dataclass(frozen=True)
class MeshPlan:
    """Which rank does what in a mesh of `replicas × grid_ranks`.

    Rank r of the mesh is grid rank `r % grid_ranks` of replica `r // grid_ranks`.

    Attributes
    ----------
    grid_ranks : ranks that share one grid.
    order : ranks of the communicator that was given, in the order of the mesh's.
    locations : where each rank of the mesh is.
    gpus : the index of each rank's GPU; None for ranks without.
    """

    grid_ranks: int
    order: tuple[int, ...]
    locations: tuple[RankLocation, ...]
    gpus: tuple[int | None, ...]

    @property
    def replicas(self) -> list[list[int]]:
        """The ranks of each replica."""
        return [list(range(r, r + self.grid_ranks)) for r in range(0, self._size, self.grid_ranks)]

    @property
    def counterparts(self) -> list[list[int]]:
        """For each part of the grid the ranks of all replicas that hold it."""
        return [list(range(r, self._size, self.grid_ranks)) for r in range(self.grid_ranks)]

    @property
    def _size(self) -> int:
        return len(self.locations)


def plan_mesh(locations: Sequence[RankLocation], grid_ranks: int) -> MeshPlan:
    """The mesh of ranks that are at these locations.

    Raises
    ------
    ValueError
        If the number of ranks is not a multiple of `grid_ranks`, or only some of them see GPUs.
    """
    size = len(locations)
    if grid_ranks < 1 or size % grid_ranks:
        fitting = [n for n in range(1, size + 1) if size % n == 0]
        raise InputError(
            f"{size} ranks cannot be split into replicas of {grid_ranks} grid ranks: "
            f"grid_ranks must be one of {fitting}, or start another number of ranks"
        )
    ranks = order([location.node for location in locations], grid_ranks)
    placed = [locations[rank] for rank in ranks]
    return MeshPlan(grid_ranks, tuple(ranks), tuple(placed), tuple(gpus_of(placed)))


def order(nodes: Sequence[int], grid_ranks: int) -> list[int]:
    """World ranks in the order in which replicas are cut from them, `grid_ranks` at a time.

    As many replicas as possible lie on one node each, whatever the launcher's placement (block or
    cyclic); what nodes have left over makes the others. Rank 0 stays first, and nothing changes
    where ranks are placed node by node.
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
    """Replicas that lie on more than one node, for ranks in the order of `order`."""
    return sum(len(set(nodes[i : i + grid_ranks])) > 1 for i in range(0, len(nodes), grid_ranks))


def gpus_of(locations: Sequence[RankLocation]) -> list[int | None]:
    """For each rank the index of its GPU, among those that it sees; None on machines without.

    Ranks that see the same GPUs take them in turn, each its own where there are enough; where they
    are more, neighbours share one. A launcher that shows each rank another GPU is thereby followed.
    Raises `ValueError` where some ranks see GPUs and others none.
    """
    if len({bool(location.gpus) for location in locations}) > 1:
        without = sorted({location.host for location in locations if not location.gpus})
        raise InputError(
            f"some ranks see GPUs, those on {', '.join(without[:4])} see none: give all nodes GPUs "
            "(as --gpus-per-node), or hide "
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
    """By host, where ranks share GPUs: how many ranks there are, and on how many GPUs they work."""
    indices = gpus_of(locations)
    used = [
        (location.host, location.gpus[index])
        for location, index in zip(locations, indices, strict=True)
        if index is not None
    ]
    ranks, gpus = Counter(host for host, _ in used), Counter(host for host, _ in set(used))
    return {host: (ranks[host], gpus[host]) for host in ranks if ranks[host] > gpus[host]}


def each_has_a_gpu(locations: Sequence[RankLocation]) -> bool:
    """Whether every rank has a GPU that no other works on: NCCL needs that."""
    return all(location.gpus for location in locations) and not sharing(locations)


def threads_of(locations: Sequence[RankLocation], rank: int) -> int:
    """A rank's share of the cores that it may run on: all of them where the launcher binds ranks to
    cores of their own.
    """
    mine = locations[rank]
    others = sum(
        location.node == mine.node and bool(location.cores & mine.cores) for location in locations
    )
    share = max(1, len(mine.cores) // max(1, others))
    return min(share, mine.most_threads or share)


def describe(locations: Sequence[RankLocation]) -> str:
    """`3 rank(s) on 2 node(s) (a: 2, b: 1), 2 GPU(s) a node`, for messages."""
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
        f"{' or '.join(map(str, gpus))} GPU(s) a node"
    )
