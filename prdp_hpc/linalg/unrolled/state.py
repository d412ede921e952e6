"""States of an iteration, which are kept and differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True)
class State:
    """The iterate; a method's state adds fields, each a tensor or a tuple of tensors.

    Vectors are `(B, n_local)`, scalars `(B, 1)`.
    """

    x: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the fields."""
        found: list[Tensor] = []
        for field in fields(self):
            value = getattr(self, field.name)
            found += value if isinstance(value, tuple) else [value]
        return found

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same state with `function(tensor)` for each tensor."""
        mapped: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            several = isinstance(value, tuple)
            mapped[field.name] = tuple(map(function, value)) if several else function(value)
        return replace(self, **mapped)


@dataclass(frozen=True)
class ResidualState(State):
    """The iterate and a residual, in the form that the method uses."""

    r: Tensor
