"""Errors of predictions, collected from all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prdp_hpc.experiments.members import Members
from prdp_hpc.experiments.rollouts import Predicted

Lists = dict[str, list[float]]


class ErrorTable:
    """The errors of each sample by name, of the mean over the runs and of each run.

    Attributes
    ----------
    xdmf : the XDMF files of the prediction.
    """

    def __init__(self, members: Members, samples: Sequence[int]) -> None:
        self._mesh, self._count = members.mesh, len(samples)
        self._parts: list[Lists] = [{} for _ in range(1 + len(members.tasks))]
        self._spread: Lists = {}
        self.xdmf: list[Path] = []

    def add(self, state: Predicted) -> None:
        """Add the errors of this replica's samples after one step."""
        for lists, errors in zip(self._parts, [state.errors, *state.member_errors], strict=False):
            _extend(lists, errors)
        _extend(self._spread, state.spread_errors)

    def gather(self) -> None:
        """Collect the errors of all replicas in the order of the samples; collective."""
        whole = self._mesh.replica_comm.allgather((self._parts, self._spread))
        self._parts = [
            _joined([parts[index] for parts, _ in whole]) for index in range(len(self._parts))
        ]
        self._spread = _joined([spread for _, spread in whole])

    def content(self) -> dict[str, Any]:
        """The means over the samples, as `predict` returns them."""
        first, *others = [_means(lists) for lists in self._parts]
        if not any(others):
            return {"errors": first}
        return {"errors": first, "member_errors": others, "spread": _means(self._spread)}


def _extend(lists: Lists, errors: dict[str, Any]) -> None:
    for name, values in errors.items():
        lists.setdefault(name, []).extend(np.asarray(values).tolist())


def _joined(parts: Sequence[Lists]) -> Lists:
    return {name: [value for part in parts for value in part.get(name, [])] for name in parts[0]}


def _means(lists: Lists) -> dict[str, float]:
    return {name: float(np.mean(values)) for name, values in lists.items()}
