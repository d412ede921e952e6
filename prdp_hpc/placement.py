"""Which rank does what, by where the ranks are: pure functions of what all ranks know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Seat:
    """Where a rank sits.

    Attributes
    ----------
    node : the number of its node; host : its name.
    gpus : GPUs that the rank sees; visible : which, as CUDA_VISIBLE_DEVICES says ("" if unset).
    cores : the cores that it may run on.
    """

    node: int
    host: str
    gpus: int
    visible: str
    cores: frozenset[int]


def order(nodes: Sequence[int], grid_ranks: int) -> list[int]:
    """World ranks in the order in which replicas are cut from them, `grid_ranks` at a time.

    As many replicas as possible lie on one node each, whatever the launcher's placement (block or cyclic); what nodes have
    left over makes the others. Rank 0 stays first, and nothing changes where ranks are placed node by node.
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


def gpu_of(seats: Sequence[Seat], rank: int) -> int | None:
    """The index of the GPU, among those that the rank sees, that it works on; None on a machine without.

    Each rank of a node gets its own where there are enough, or where the launcher shows each another one. Ranks that are more
    than the GPUs share them in turn, neighbours together. Raises `ValueError` where some nodes have GPUs and others none.
    """
    mine = seats[rank]
    if len({seat.gpus > 0 for seat in seats}) > 1:
        without = sorted({seat.host for seat in seats if not seat.gpus})
        raise ValueError(
            f"some ranks see GPUs, those on {', '.join(without[:4])} see none: give all nodes GPUs (as --gpus-per-node), or hide "
            "them everywhere with CUDA_VISIBLE_DEVICES="
        )
    if not mine.gpus:
        return None
    here = [other for other, seat in enumerate(seats) if seat.node == mine.node]
    if _shown_apart([seats[other] for other in here]):
        return 0
    return here.index(rank) * mine.gpus // len(here) if len(here) > mine.gpus else here.index(rank)


def each_has_a_gpu(seats: Sequence[Seat]) -> bool:
    """Whether no two ranks share a GPU: NCCL needs that."""
    nodes = {seat.node: [other for other in seats if other.node == seat.node] for seat in seats}
    return all(_shown_apart(here) or len(here) <= min(seat.gpus for seat in here) for here in nodes.values())


def threads_of(seats: Sequence[Seat], rank: int) -> int:
    """A rank's share of the cores that it may run on: all of them where the launcher binds ranks to cores of their own."""
    mine = seats[rank]
    sharing = sum(seat.node == mine.node and bool(seat.cores & mine.cores) for seat in seats)
    return max(1, len(mine.cores) // max(1, sharing))


def describe(seats: Sequence[Seat]) -> str:
    """`2 nodes (a: 4 ranks, b: 4 ranks), 4 GPUs a node`, for messages."""
    counts = Counter((seat.node, seat.host) for seat in seats)
    hosts = ", ".join(f"{host}: {count}" for (_, host), count in list(counts.items())[:8])
    more = ", …" if len(counts) > 8 else ""
    return f"{len(seats)} rank(s) on {len(counts)} node(s) ({hosts}{more}), {max(seat.gpus for seat in seats)} GPU(s) each"


def _shown_apart(here: Sequence[Seat]) -> bool:
    """Whether the launcher shows each rank of a node one GPU, another to each."""
    shown = [seat.visible for seat in here]
    return all(seat.gpus == 1 for seat in here) and "" not in shown and len(set(shown)) == len(shown)
