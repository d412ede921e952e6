"""The states of an iteration that are kept for its backward pass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from prdp_hpc.linalg.unrolled.state import State


class Checkpoints:
    """Keeps about √K of K states: every s-th state, where s doubles as K grows, because K is not
    given in advance.

    At most 2 s states are kept, s apart, and s doubles only when there would be more. Hence s and
    the number of states are at most a small multiple of √K (and of `period`, of which s is a
    multiple).
    """

    def __init__(self, period: int, keeps_none: bool = False) -> None:
        self.keeps_none = keeps_none
        self._every = period
        self._kept: list[tuple[int, State]] = []

    def offer(self, iteration: int, state: State) -> None:
        """Add the state before an iteration; called for each iteration in order."""
        if self.keeps_none or iteration % self._every:
            return
        self._kept.append((iteration, state))
        if len(self._kept) > 2 * self._every:
            self._every *= 2
            self._kept = [(i, kept) for i, kept in self._kept if i % self._every == 0]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the kept states."""
        return [tensor for _, state in self._kept for tensor in state.tensors]

    def segments(self, end: int) -> Iterator[tuple[int, int, State]]:
        """Segments (first iteration, end, state before it), the last one first; `end`: the number
        of iterations.
        """
        for iteration, state in reversed(self._kept):
            if iteration >= end:  # a step after convergence
                continue
            yield iteration, end, state
            end = iteration
