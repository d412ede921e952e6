"""Which rank does what, by where the ranks are: pure functions of what all ranks know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prdp_hpc.errors import InputError


@dataclass(frozen=True)
class Seat:
    """Where a rank sits.

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


def gpus_of(seats: Sequence[Seat]) -> list[int | None]:
    """For each rank the index of its GPU, among those that it sees; None on machines without.

    Ranks that see the same GPUs take them in turn, each its own where there are enough; where they
    are more, neighbours share one. A launcher that shows each rank another GPU is thereby followed.
    Raises `ValueError` where some ranks see GPUs and others none.
    """
    if len({bool(seat.gpus) for seat in seats}) > 1:
        without = sorted({seat.host for seat in seats if not seat.gpus})
        raise InputError(
            f"some ranks see GPUs, those on {', '.join(without[:4])} see none: give all nodes GPUs "
            "(as --gpus-per-node), or hide "
            "them everywhere with CUDA_VISIBLE_DEVICES="
        )
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for rank, seat in enumerate(seats):
        alike.setdefault((seat.node, seat.gpus), []).append(rank)
    found: list[int | None] = [None] * len(seats)
    for (_, gpus), ranks in alike.items():
        for place, rank in enumerate(ranks):
            if gpus:
                found[rank] = place * len(gpus) // max(len(ranks), len(gpus))
    return found


def sharing(seats: Sequence[Seat]) -> dict[str, tuple[int, int]]:
    """By host, where ranks share GPUs: how many ranks there are, and on how many GPUs they work."""
    indices = gpus_of(seats)
    used = [
        (seat.host, seat.gpus[index])
        for seat, index in zip(seats, indices, strict=True)
        if index is not None
    ]
    ranks, gpus = Counter(host for host, _ in used), Counter(host for host, _ in set(used))
    return {host: (ranks[host], gpus[host]) for host in ranks if ranks[host] > gpus[host]}


def each_has_a_gpu(seats: Sequence[Seat]) -> bool:
    """Whether every rank has a GPU that no other works on: NCCL needs that."""
    return all(seat.gpus for seat in seats) and not sharing(seats)


def threads_of(seats: Sequence[Seat], rank: int) -> int:
    """A rank's share of the cores that it may run on: all of them where the launcher binds ranks to
    cores of their own.
    """
    mine = seats[rank]
    others = sum(seat.node == mine.node and bool(seat.cores & mine.cores) for seat in seats)
    share = max(1, len(mine.cores) // max(1, others))
    return min(share, mine.most_threads or share)


def describe(seats: Sequence[Seat]) -> str:
    """`3 rank(s) on 2 node(s) (a: 2, b: 1), 2 GPU(s) a node`, for messages."""
    counts = Counter((seat.node, seat.host) for seat in seats)
    hosts = ", ".join(f"{host}: {count}" for (_, host), count in list(counts.items())[:8])
    more = ", …" if len(counts) > 8 else ""
    gpus = sorted(
        {
            len({gpu for seat in seats if seat.node == node for gpu in seat.gpus})
            for node, _ in counts
        }
    )
    return (
        f"{len(seats)} rank(s) on {len(counts)} node(s) ({hosts}{more}), "
        f"{' or '.join(map(str, gpus))} GPU(s) a node"
    )
