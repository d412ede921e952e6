"""Schedules that measure gradients: what they are given, and how two gradients are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from prdp_hpc.refinement.ladders import Level
from prdp_hpc.refinement.schedules import Schedule


def _same(number: float) -> float:
    return number


@dataclass(frozen=True, eq=False)
class MeasuredGradient:
    """The gradient of one batch's loss at one pair of levels.

    Attributes
    ----------
    vector : all its entries, as a one-dimensional tensor or array.
    variance : `Var(g) / |B|`, the variance of such a mini-batch gradient, summed over its entries;
        default 0: the loss has no samples, or the batch is all of them.
    agree : makes a number the same on all ranks, e.g. `mesh.world.bcast`, so that rounding cannot
        lead to other decisions on other ranks; default: leaves it as it is. Then comparing is
        collective.
    """

    vector: Any
    variance: float = 0.0
    agree: Callable[[float], float] = _same

    def squared_norm(self) -> float:
        """`‖g‖²`."""
        return self.agree(_squares(self.vector))

    def squared_distance(self, other: MeasuredGradient) -> float:
        """`‖g − other‖²`."""
        return self.agree(_squares(self.vector - other.vector))


Measure = Callable[[Level, Level], MeasuredGradient]
"""From a level of forward solves and one of adjoint solves to the gradient of one batch there; the
batch, and whatever else is random, is the same at each call.
"""


class ProbingSchedule(Schedule, Protocol):
    """A schedule that looks at gradients as well as at validation errors.

    Before an epoch for which `probe_due` holds, the trainer calls `probe` with a function that
    measures gradients on a batch of its own. What the probe solves counts like all other solves.
    """

    def probe_due(self, training_iterations: int, probe_iterations: int) -> bool:
        """Whether to probe before the next epoch, from the inner iterations, forward and adjoint,
        that training and probes have taken so far.
        """
        ...

    def probe(self, measure: Measure) -> bool:
        """Choose the levels of the epochs to come; True when one has changed."""
        ...


def is_probing(schedule: object) -> bool:
    """Whether a schedule measures gradients."""
    return callable(getattr(schedule, "probe", None))


def _squares(vector: Any) -> float:
    """The sum of squares, in double precision."""
    # Tensors have `double`, arrays `astype`.
    double = vector.double() if hasattr(vector, "double") else vector.astype(float)
    return float((double * double).sum())
