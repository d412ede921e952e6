"""What a trainer asks of a task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from prdp_hpc.linalg import Solver

AfterStep = Callable[[Callable[[], list[float]]], None]


class Task(Protocol):
    """Something that is trained epoch by epoch through one solver."""

    solver: Solver
    stopwatch: Stopwatch

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """Train one epoch (counted from 1) and return its mean loss; collective.

        `earlier`: the losses of the steps that were done before; the epoch goes on after them.
        `after_step` is called after each step but the last one, with a function that gives the
        losses so far (collective); it may end the epoch by raising.
        """
        ...

    def validate(self) -> dict[str, Any]:
        """The validation error as `error`, and whatever else belongs in the metrics; collective,
        equal on all ranks.
        """
        ...

    def gradient(self) -> Tensor:
        """The gradient of the loss at the solver's level, as one vector; nothing is changed;
        collective, equal on all ranks.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class Stopwatch:
    """Wall-clock seconds of a part of the work, as training steps: the network's share of those is
    what the solver leaves.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
