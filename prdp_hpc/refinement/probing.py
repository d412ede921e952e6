"""Schedules that measure gradients: their interface, and the comparison of two gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from prdp_hpc.number_checks import check_number
from prdp_hpc.refinement.ladders import Level
from prdp_hpc.refinement.schedules import Schedule


def _same(number: float) -> float:
    """Return the number unchanged."""
    return number


@dataclass(frozen=True, eq=False)
class MeasuredGradient:
    """The gradient of the loss of one batch at one pair of levels.

    A `GradientCoordinator` compares two of them by `‖g − g'‖²`.

    Parameters
    ----------
    vector : Tensor or numpy array
        All entries of the gradient, of shape `(parameters,)`.
    variance : float, default 0.0
        `Var(g) / |B|`, the variance of a mini-batch gradient, summed over its entries; 0 for a
        loss without samples.
    agree : callable, optional
        Makes a number equal on all ranks, e.g. `mesh.world.bcast`, so that rounding cannot lead to
        different decisions; comparisons are then collective. Default: the number is not changed.

    Raises
    ------
    InputError
        For a variance that is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import MeasuredGradient
    >>> coarse = MeasuredGradient(torch.tensor([3.0, 4.0]), variance=0.5)
    >>> fine = MeasuredGradient(torch.tensor([3.0, 5.0]))
    >>> coarse.squared_norm(), coarse.squared_distance(fine)
    (25.0, 1.0)
    """

    vector: Any
    variance: float = 0.0
    agree: Callable[[float], float] = _same

    def __post_init__(self) -> None:
        check_number("variance", self.variance, least=0)

    def squared_norm(self) -> float:
        """Return `‖g‖²`."""
        return self.agree(_squares(self.vector))

    def squared_distance(self, other: MeasuredGradient) -> float:
        """Return `‖g − g'‖²`.

        Parameters
        ----------
        other : MeasuredGradient
            The gradient g' of the same batch at another level.

        Returns
        -------
        float
            Squared distance.
        """
        return self.agree(_squares(self.vector - other.vector))


Measure = Callable[[Level, Level], MeasuredGradient]
"""Function from a level of forward solves and one of adjoint solves to the gradient of one batch.
The batch and all random numbers are the same in each call.
"""


class ProbingSchedule(Schedule, Protocol):
    """A schedule that uses measured gradients in addition to validation errors.

    If `probe_due` returns True, the trainer calls `probe` before the next epoch, with a function
    that measures gradients on a separate batch. The solves of a probe count like all others.
    """

    def probe_due(self, training_iterations: int, probe_iterations: int) -> bool:
        """Whether to probe before the next epoch, from the inner iterations, forward and adjoint,
        of training and of probes so far.
        """
        ...

    def probe(self, measure: Measure) -> bool:
        """Choose the levels of the next epochs; return whether one has changed."""
        ...


def is_probing(schedule: object) -> bool:
    """Whether a schedule measures gradients."""
    return callable(getattr(schedule, "probe", None))


def _squares(vector: Any) -> float:
    """The sum of squares, in double precision."""
    # Tensors have `double`, arrays `astype`.
    double = vector.double() if hasattr(vector, "double") else vector.astype(float)
    return float((double * double).sum())
