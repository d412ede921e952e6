"""The division of the trajectories of some files into groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prdp_hpc.data.layout import TEST, BadTrajectoryError, DataError

DEFAULT_SHARE = 0.1
"""Share of the trajectories for validation where neither files nor keys determine it."""
Place = tuple[int, int]
"""A trajectory: the number of the file in its group, and the number of the trajectory in the file.
"""


@dataclass(frozen=True)
class Division:
    """How the trajectories of the group "train" are divided.

    Attributes
    ----------
    validation, test : number (int) or share (float) of the trajectories of these groups; None: a
        tenth for validation, none for the test. They are the last trajectories, those of the test
        after those of validation.
    exclude : trajectories that are not used, for each group with files; those of "train" are
        numbered before the division.
    """

    validation: int | float | None = None
    test: int | float | None = None
    exclude: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def places(self, counts: Mapping[str, Sequence[int]], name: str) -> dict[str, list[Place]]:
        """The trajectories of each group, from the numbers of trajectories in its files.

        `name` is that of the data in messages.
        """
        found = {group: self._kept(group, list(sizes), name) for group, sizes in counts.items()}
        for group, asked in (("validation", self.validation), (TEST, self.test)):
            if asked is not None and group in found:
                raise DataError(
                    f"{name}: has separate trajectories for {group}: leave out data.format.{group}"
                )
        if "train" in found:
            self._divide(found, name)
        return found

    def _divide(self, found: dict[str, list[Place]], name: str) -> None:
        whole = found["train"]
        sizes = {}
        if "validation" not in found:
            asked = DEFAULT_SHARE if self.validation is None else self.validation
            sizes["validation"] = _number(asked, len(whole))
        if TEST not in found and self.test is not None:
            sizes[TEST] = _number(self.test, len(whole))
        rest = len(whole) - sum(sizes.values())
        if rest < 0:
            parts = " and ".join(f"{size} for {group}" for group, size in sizes.items())
            raise DataError(f"{name}: has {len(whole)} trajectories, too few for {parts}")
        found["train"] = whole[:rest]
        for group, size in sizes.items():
            found[group] = whole[rest : rest + size]
            rest += size

    def _kept(self, group: str, sizes: list[int], name: str) -> list[Place]:
        left_out = set(self.exclude.get(group, ()))
        everything = [(file, one) for file, size in enumerate(sizes) for one in range(size)]
        wrong = sorted(number for number in left_out if not 0 <= number < len(everything))
        if wrong:
            raise DataError(
                f"{name}: {exclude_key(group)} contains {wrong[0]}, but the trajectories of the "
                f"group {group} are numbered from 0 to {len(everything) - 1}"
            )
        return [place for number, place in enumerate(everything) if number not in left_out]


def exclude_key(group: str) -> str:
    """The key that excludes trajectories of a group with files."""
    return "data.format.exclude" + ("" if group == "train" else f"_{group}")


def bad_trajectory(what: str, group: str, number: int) -> BadTrajectoryError:
    """The error about a trajectory, with the key that leaves it out."""
    key = exclude_key(group)
    message = f"{what}; leave the trajectory out by {key}=[{number}]"
    return BadTrajectoryError(message, key, number)


def _number(asked: int | float, count: int) -> int:
    """The number of trajectories; a share of some trajectories is at least one of them."""
    if isinstance(asked, int):
        return asked
    # Not by rounding to the nearest even number, so that a share of 0.5 of 5 is 3.
    return max(1, math.floor(asked * count + 0.5)) if asked and count else 0
