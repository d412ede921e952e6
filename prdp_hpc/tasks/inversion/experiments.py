"""Experiments: sources, observations and noise."""

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
    """The measured quantities of a solution, `O u`.

    Attributes
    ----------
    local : whether each rank has a part of the measurements (True) or all of them (False).
    """

    local: bool

    def __call__(self, fields: Tensor) -> Tensor:
        """Map fields `(E, *local_shape)` to measurements `(E, ...)`; differentiable, collective."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the measurements of one experiment on this rank."""
        ...


@dataclass(frozen=True)
class PointObservations:
    """Observations of the solution at points.

    Called with fields of shape `(E, *local_shape)`, it returns the values `(E, n)` at the n points,
    equal on all ranks.

    Parameters
    ----------
    positions : Positions
        The points.

    Attributes
    ----------
    local : bool
        False: every rank has all measurements.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, PointObservations, Positions
    >>> grid = Grid((3,), boundary="neumann")  # cell centres 1/6, 1/2 and 5/6
    >>> observe = PointObservations(Positions(grid, [[0.5], [2 / 3]]))
    >>> observe(torch.tensor([[1.0, 2.0, 4.0]]).double())
    tensor([[2., 3.]], dtype=torch.float64)
    """

    positions: Positions
    local = False

    def __call__(self, fields: Tensor) -> Tensor:
        """Interpolate the fields to the points."""
        return self.positions.values(fields)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the measurements of one experiment, `(n,)`."""
        return (self.positions.count,)


@dataclass(frozen=True)
class FieldObservations:
    """Observations of the whole solution.

    Called with fields of shape `(E, *local_shape)`, it returns them unchanged.

    Parameters
    ----------
    grid : Grid
        The grid of the fields.

    Attributes
    ----------
    local : bool
        True: each rank has the measurements at its points.

    Examples
    --------
    >>> from prdp_hpc import FieldObservations, Grid
    >>> FieldObservations(Grid((8, 4))).shape
    (8, 4)
    """

    grid: Grid
    local = True

    def __call__(self, fields: Tensor) -> Tensor:
        """Return the fields unchanged."""
        return fields

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the measurements of one experiment on this rank, `local_shape`."""
        return self.grid.local_shape


Sides = Mapping[tuple[int, str], Tensor]
"""Boundary values by axis and end ("low" or "high"), one per experiment, each of shape
`(E, *grid.face_shape(axis, end))`.
"""


@dataclass(frozen=True)
class Experiments:
    """The sources and measurements of E experiments on one coefficient field.

    With the solution u of an experiment, its residual is `(O u − d) / σ`, where O is `observe`, d
    the data and σ the noise.

    Parameters
    ----------
    sources : Tensor
        Right-hand sides of shape `(E, *local_shape)`, float64.
    observe : Observations
        The measured quantities of each solution: `PointObservations` or `FieldObservations`.
    data : Tensor
        Measurements of shape `(E, *observe.shape)`, in units of the solution.
    noise : float or Tensor
        Standard deviation of the measurements, in units of the solution; a tensor must have a shape
        that broadcasts to that of `data`.
    sides : mapping, optional
        Boundary values that differ between the experiments: by `(axis, "low" or "high")` a tensor
        of shape `(E, *grid.face_shape(axis, end))`. Default: none.

    Raises
    ------
    InputError
        If shapes do not match, the noise is not positive and finite, or the data are not finite.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Experiments, FieldObservations, Grid
    >>> grid = Grid((4,))
    >>> sources = torch.ones(2, 4, dtype=torch.float64)
    >>> data = torch.zeros(2, 4, dtype=torch.float64)
    >>> experiments = Experiments(sources, FieldObservations(grid), data, noise=0.5)
    >>> experiments.count, experiments.misfit(torch.ones(2, 4, dtype=torch.float64)).item()
    (2, 16.0)
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
            raise InputError("experiments: the data contain NaN or infinity")
        for place, values in self.sides.items():
            if len(values) != wanted[0]:
                raise InputError(
                    f"experiments: side {place} has values for {len(values)} experiments, but "
                    f"there are {wanted[0]}"
                )

    @property
    def count(self) -> int:
        """Number of experiments."""
        return len(self.sources)

    def select(self, chosen: Sequence[int] | np.ndarray) -> Experiments:
        """Return some of the experiments.

        Parameters
        ----------
        chosen : sequence of int
            Indices of the experiments.

        Returns
        -------
        Experiments
            These experiments.
        """
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
        """Compute `(O u − d) / σ` on this rank; collective.

        Parameters
        ----------
        fields : Tensor
            Solutions u of shape `(E, *local_shape)`.

        Returns
        -------
        Tensor
            Residuals of shape `(E, *observe.shape)`.
        """
        return (self.observe(fields) - self.data) / self.noise

    def misfit(self, fields: Tensor) -> Tensor:
        """Compute `½ Σ ‖O u − d‖² / σ²` over the residuals on this rank; collective.

        If every rank has all residuals, the result is the whole sum on each rank, and the backward
        pass computes the part of the gradient at this rank's points.

        Parameters
        ----------
        fields : Tensor
            Solutions u of shape `(E, *local_shape)`.

        Returns
        -------
        Tensor
            The misfit, of shape `()`.
        """
        return 0.5 * self.residual(fields).square().sum()

    def numbers(self, comm: MPI.Comm) -> int:
        """Count the measurements on all ranks of the grid; collective.

        Parameters
        ----------
        comm : mpi4py.MPI.Comm
            The ranks of the grid.

        Returns
        -------
        int
            Number of measurements.
        """
        mine = self.data.numel()
        return int(comm.allreduce(mine, op=MPI.SUM)) if self.observe.local else mine

    def whole(self, comm: MPI.Comm, value: float) -> float:
        """Add up a sum over residuals from all ranks of the grid; collective.

        Parameters
        ----------
        comm : mpi4py.MPI.Comm
            The ranks of the grid.
        value : float
            The sum over the residuals on this rank.

        Returns
        -------
        float
            The sum over all residuals.
        """
        return float(comm.allreduce(value, op=MPI.SUM)) if self.observe.local else value
