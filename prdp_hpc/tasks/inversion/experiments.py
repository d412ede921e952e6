"""What was done in experiments and what was measured: sources, observations, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.tasks.inversion.positions import Positions


class Observations(Protocol):
    """What is measured of a solution.

    Attributes
    ----------
    local : whether each rank of a grid has its part of the numbers; else all ranks have all.
    """

    local: bool

    def __call__(self, fields: Tensor) -> Tensor:
        """From fields `(E, *local_shape)` to what is measured, `(E, ...)`; differentiable,
        collective.
        """
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one experiment's numbers on this rank."""
        ...


@dataclass(frozen=True)
class PointObservations:
    """The solution at points, `(E, n)` on every rank."""

    positions: Positions
    local = False

    def __call__(self, fields: Tensor) -> Tensor:
        return self.positions.values(fields)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n,)`."""
        return (self.positions.count,)


@dataclass(frozen=True)
class FieldObservations:
    """The whole solution, `(E, *local_shape)`."""

    grid: Grid
    local = True

    def __call__(self, fields: Tensor) -> Tensor:
        return fields

    @property
    def shape(self) -> tuple[int, ...]:
        """`local_shape`."""
        return self.grid.local_shape


Sides = Mapping[tuple[int, str], Tensor]
"""By axis and end ("low", "high"): values of the conditions there, one for each experiment, `(E,
*grid.face_shape(axis, end))`.
"""


@dataclass(frozen=True)
class Experiments:
    """E experiments on one coefficient field.

    Parameters
    ----------
    sources : right-hand sides `(E, *local_shape)`, float64.
    observe : what is measured of each solution.
    data : what was measured, `(E, *observe.shape)`.
    noise : standard deviation of the data's errors: a number, or a tensor that broadcasts with
        `data`.
    sides : values on the sides that differ between experiments; default: none.

    Raises
    ------
    ValueError
        For shapes that do not fit, a noise that is not positive, or data that are not finite.
    """

    sources: Tensor
    observe: Observations
    data: Tensor
    noise: float | Tensor
    sides: Sides = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = (len(self.sources), *self.observe.shape)
        if tuple(self.data.shape) != wanted:
            raise InputError(
                f"experiments: {wanted[0]} sources and {list(wanted[1:])} observations of each "
                f"need data of shape {wanted} on this rank, not {tuple(self.data.shape)}"
            )
        noise = torch.as_tensor(self.noise)
        if not bool(((noise > 0) & noise.isfinite()).all()):
            raise InputError(
                "experiments: the noise is a standard deviation and must be positive and finite"
            )
        if not bool(self.data.isfinite().all()):
            raise InputError("experiments: the data hold NaN or infinity")
        for place, values in self.sides.items():
            if len(values) != wanted[0]:
                raise InputError(
                    f"experiments: side {place} has values for {len(values)} experiments, there "
                    f"are {wanted[0]}"
                )

    @property
    def count(self) -> int:
        """How many experiments there are."""
        return len(self.sources)

    def select(self, chosen: Sequence[int] | np.ndarray) -> Experiments:
        """Some of the experiments, by number."""
        index = torch.as_tensor(np.asarray(chosen), dtype=torch.long)
        noise = self.noise
        if isinstance(noise, Tensor) and noise.dim() == self.data.dim() and len(noise) > 1:
            noise = noise[index]
        return replace(
            self,
            sources=self.sources[index],
            data=self.data[index],
            noise=noise,
            sides={place: values[index] for place, values in self.sides.items()},
        )

    def residual(self, fields: Tensor) -> Tensor:
        """`(O u − d) / σ`, on this rank; collective."""
        return (self.observe(fields) - self.data) / self.noise

    def misfit(self, fields: Tensor) -> Tensor:
        """`½ Σ ‖O u − d‖² / σ²` over what this rank has of the residual; collective.

        Where all ranks have all of it, it is the whole sum on each, and each takes its own part of
        the gradient.
        """
        return 0.5 * self.residual(fields).square().sum()

    def numbers(self, comm: MPI.Comm) -> int:
        """How many numbers were measured in all, over the ranks of the grid; collective."""
        mine = self.data.numel()
        return int(comm.allreduce(mine, op=MPI.SUM)) if self.observe.local else mine

    def whole(self, comm: MPI.Comm, value: float) -> float:
        """A sum over the residual on all ranks of the grid, from that on this one; collective."""
        return float(comm.allreduce(value, op=MPI.SUM)) if self.observe.local else value
