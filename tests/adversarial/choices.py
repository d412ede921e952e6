"""Sources of choices: hypothesis, which shrinks, or a NumPy generator, ten times as fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from hypothesis import strategies as st


class Choices(Protocol):
    """A source of choices."""

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""

    def one_of(self, options: Sequence[Any]) -> Any:
        """One of some options."""

    def subset(self, options: Sequence[Any], most: int) -> set[Any]:
        """At most so many of some options."""


class Drawn:
    """Choices of hypothesis."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def one_of(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))

    def subset(self, options: Sequence[Any], most: int) -> set[Any]:
        chosen: set[Any] = self._draw(st.sets(st.sampled_from(options), max_size=most))
        return chosen


class Seeded:
    """Choices of a NumPy generator."""

    def __init__(self, *seeds: int) -> None:
        self._generator = np.random.default_rng(seeds)

    def integer(self, low: int, high: int) -> int:
        return int(self._generator.integers(low, high + 1))

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def subset(self, options: Sequence[Any], most: int) -> set[Any]:
        chosen = self._generator.permutation(len(options))[: self.integer(0, most)]
        return {options[k] for k in chosen}
