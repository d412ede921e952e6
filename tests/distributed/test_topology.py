"""Properties of the arrangement of ranks, for placements that this machine does not have."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.distributed.topology import (
    RankLocation,
    describe,
    each_has_a_gpu,
    gpus_of,
    order,
    plan_mesh,
    sharing,
    spread,
    threads_of,
)


def locations(
    nodes: list[int], gpus: list[str] | int = 0, cores: list[set[int]] | None = None
) -> list[RankLocation]:
    """`gpus`: the number that is visible to all ranks of a node, or the letters for each rank."""
    own = [
        tuple(f"{node}-{i}" for i in range(gpus)) if isinstance(gpus, int) else tuple(gpus[k])
        for k, node in enumerate(nodes)
    ]
    return [
        RankLocation(node, f"n{node}", own[k], frozenset(cores[k] if cores else range(8)))
        for k, node in enumerate(nodes)
    ]


@st.composite
def placements(draw: st.DrawFn) -> tuple[list[int], int]:
    grid_ranks, replicas = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    size = grid_ranks * replicas
    return draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), grid_ranks


@given(placements())
def test_the_order_is_a_permutation_with_as_many_whole_replicas_as_nodes_allow(
    placement: tuple[list[int], int],
) -> None:
    nodes, grid_ranks = placement
    found = order(nodes, grid_ranks)
    assert sorted(found) == list(range(len(nodes)))
    assert found[0] == 0
    possible = sum(count // grid_ranks for count in Counter(nodes).values())
    assert (
        spread([nodes[rank] for rank in found], grid_ranks) == len(nodes) // grid_ranks - possible
    )


@given(placements())
def test_a_plan_gives_each_rank_one_part_of_one_replica(
    placement: tuple[list[int], int],
) -> None:
    nodes, grid_ranks = placement
    plan = plan_mesh(locations(nodes, gpus=2), grid_ranks)
    for groups in (plan.replicas, plan.counterparts):
        assert sorted(rank for group in groups for rank in group) == list(range(len(nodes)))
    for replica, members in enumerate(plan.replicas):
        for part, rank in enumerate(members):
            assert plan.counterparts[part][replica] == rank
    assert [location.node for location in plan.locations] == [nodes[rank] for rank in plan.order]
    assert all(gpu in (0, 1) for gpu in plan.gpus)
    with pytest.raises(ValueError, match="set grid_ranks to one of"):
        plan_mesh(locations(nodes), len(nodes) + 1)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_node_by_node_placement_stays_as_it_is(nodes: int, replicas: int, grid_ranks: int) -> None:
    block = [node for node in range(nodes) for _ in range(replicas * grid_ranks)]
    assert order(block, grid_ranks) == list(range(len(block)))


def test_cyclic_placement_is_put_right() -> None:
    assert order([0, 1, 0, 1, 0, 1, 0, 1], 2) == [0, 2, 4, 6, 1, 3, 5, 7]
    assert order([0, 0, 0, 1, 1, 1], 2) == [0, 1, 3, 4, 2, 5]


def test_gpus_are_bound_by_the_rank_on_the_node() -> None:
    two_nodes = locations([0, 0, 1, 1], gpus=2)
    assert gpus_of(two_nodes) == [0, 1, 0, 1]
    assert each_has_a_gpu(two_nodes)
    assert gpus_of(locations([0, 1, 0, 1], gpus=2)) == [0, 0, 1, 1]
    assert gpus_of(locations([0, 0])) == [None, None]
    assert not each_has_a_gpu(locations([0, 0]))


def test_a_gpu_that_the_launcher_shows_to_one_rank_is_its_own() -> None:
    apart = locations([0, 0], gpus=["A", "B"])
    assert gpus_of(apart) == [0, 0]
    assert each_has_a_gpu(apart)
    pairs = locations([0, 0, 0, 0], gpus=["AB", "AB", "CD", "CD"])
    assert gpus_of(pairs) == [0, 1, 0, 1]
    assert each_has_a_gpu(pairs)


def test_ranks_that_share_a_gpu_are_counted() -> None:
    same = locations([0, 0, 1, 1], gpus=["A", "A", "A", "B"])
    assert not each_has_a_gpu(same)
    assert sharing(same) == {"n0": (2, 1)}
    # Seen through different windows, and yet the same one.
    overlapping = locations([0, 0], gpus=["AB", "A"])
    assert gpus_of(overlapping) == [0, 0]
    assert sharing(overlapping) == {"n0": (2, 1)}


@given(st.integers(1, 8), st.integers(1, 16))
def test_ranks_share_gpus_evenly_and_neighbours_together(gpus: int, ranks: int) -> None:
    here = locations([0] * ranks, gpus=gpus)
    found = gpus_of(here)
    assert all(gpu is not None and 0 <= gpu < gpus for gpu in found)
    assert found == sorted(found, key=lambda gpu: gpu or 0)
    counts = Counter(found).values()
    assert max(counts) <= -(-ranks // gpus)
    assert each_has_a_gpu(here) == (max(counts) == 1)
    assert sharing(here) == ({} if ranks <= gpus else {"n0": (ranks, gpus)})


def test_nodes_without_gpus_beside_nodes_with_are_named() -> None:
    with pytest.raises(ValueError, match=r"those on n1 have none: request GPUs"):
        gpus_of(locations([0], gpus=1) + locations([1], gpus=0))


def test_threads_are_the_share_of_cores() -> None:
    assert [threads_of(locations([0, 0, 1]), rank) for rank in range(3)] == [4, 4, 8]
    bound = locations([0, 0], cores=[{0, 1, 2}, {3, 4, 5}])
    assert [threads_of(bound, rank) for rank in range(2)] == [3, 3]
    assert threads_of(locations([0] * 20), 3) == 1
    promised = [replace(location, most_threads=2) for location in locations([0, 0])]
    assert threads_of(promised, 0) == 2


def test_the_description_counts_ranks_by_node() -> None:
    assert (
        describe(locations([0, 0, 1], gpus=2))
        == "3 rank(s) on 2 node(s) (n0: 2, n1: 1), 2 GPU(s) per node"
    )
