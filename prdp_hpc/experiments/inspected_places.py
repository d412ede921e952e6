"""The states of a data set that are inspected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prdp_hpc.data import GROUPS

MOST_CHECKED = 3
"""Number of trajectories that are compared, and of states on which changes are tried."""


@dataclass(frozen=True)
class Place:
    """A state of a data set."""

    group: str
    sample: int
    state: int


def places(data: Any, samples: int) -> list[Place]:
    """The states that are inspected: the first, the middle and the last one with a next state, of
    `samples` trajectories of each group; of all for 0.
    """
    states = sorted({0, (data.steps - 1) // 2, data.steps - 1})
    return [
        Place(group, sample, state)
        for group in getattr(data, "groups", GROUPS)
        for sample in _spread(range(data.count(group)), samples)
        for state in states
    ]


def few(where: Sequence[Place]) -> list[Place]:
    """Those of a first, a middle and a last trajectory of the first group, and of the first one of
    each other group.
    """
    kept: set[tuple[str, int]] = set()
    for group in dict.fromkeys(place.group for place in where):
        samples = sorted({place.sample for place in where if place.group == group})
        kept |= {(group, sample) for sample in _spread(samples, 1 if kept else MOST_CHECKED)}
    return [place for place in where if (place.group, place.sample) in kept]


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` numbers with equal distances, with the first and the last; all for 0."""
    wanted = min(len(numbers), count or len(numbers))
    places = {round(i * (len(numbers) - 1) / max(1, wanted - 1)) for i in range(wanted)}
    return [numbers[place] for place in sorted(places)]
