"""Which states of an iteration are kept for its backward pass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from prdp_hpc.linalg.unrolled.state import State


class Checkpoints:
    """Keeps about √K of K states, without knowing K beforehand: every s-th one, where s doubles as
    K grows.

    At most 2 s states are kept, s apart, and s doubles only when there would be more: both s and
    the number of states stay within a small multiple of √K (and of `period`, of which s is a
    multiple).
    """

    def __init__(self, period: int, keeps_none: bool = False) -> None:
        self.keeps_none = keeps_none
        self._every = period
        self._kept: list[tuple[int, State]] = []

    def offer(self, iteration: int, state: State) -> None:
        """The state before an iteration, in order."""
        if self.keeps_none or iteration % self._every:
            return
        self._kept.append((iteration, state))
        if len(self._kept) > 2 * self._every:
            self._every *= 2
            self._kept = [(i, kept) for i, kept in self._kept if i % self._every == 0]

    @property
    def tensors(self) -> list[Tensor]:
        """All that is kept."""
        return [tensor for _, state in self._kept for tensor in state.tensors]

    def segments(self, end: int) -> Iterator[tuple[int, int, State]]:
        """(first iteration, end, state before it), last segment first; `end`: the number of all
        iterations.
        """
        for iteration, state in reversed(self._kept):
            if iteration >= end:  # a step that found nothing left to do
                continue
            yield iteration, end, state
            end = iteration
