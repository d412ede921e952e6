"""Trajectories that a script has in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.data.content import content_id
from prdp_hpc.data.layout import DataError
from prdp_hpc.data.number_types import is_number_type


class TrajectoryArrays:
    """Trajectories in arrays instead of a file.

    Every rank has the whole arrays, which must be equal on all ranks, e.g. from the same random
    seed; a task reads this rank's part of the grid.

    Parameters
    ----------
    train, validation : numpy array or Tensor
        States of shape `(samples, steps + 1, C, *shape)` with the initial state first.
    test : numpy array or Tensor, optional
        Trajectories that are evaluated once, at the end of training, of the same shape. Default:
        none.
    attributes : mapping, optional
        Numbers that must be those of the PDE, e.g. `{"dt": 0.1}`. Default: none are compared.

    Attributes
    ----------
    steps : int
        Number of time steps of a trajectory after its initial state.
    shape : tuple of int
        Points of the grid per axis.
    groups : tuple of str
        Names of the groups.
    attributes : dict
        The given numbers.

    Raises
    ------
    DataError
        For an array of another shape or type.

    See Also
    --------
    TrajectoryFile : Trajectories in an HDF5 file.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import TrajectoryArrays
    >>> states = numpy.zeros((6, 3, 1, 16))
    >>> data = TrajectoryArrays(states[:4], states[4:], attributes={"dt": 0.01})
    >>> data.count("train"), data.steps, data.shape
    (4, 2, (16,))
    """

    def __init__(
        self,
        train: NDArray[Any] | Tensor,
        validation: NDArray[Any] | Tensor,
        test: NDArray[Any] | Tensor | None = None,
        *,
        attributes: Mapping[str, float] | None = None,
    ) -> None:
        given = {"train": train, "validation": validation, "test": test}
        self._states = {k: _array(k, found) for k, found in given.items() if found is not None}
        shapes = {group: array.shape for group, array in self._states.items()}
        if len({shape[1:] for shape in shapes.values()}) > 1:
            shown = ", ".join(f"{group}: {shape}" for group, shape in shapes.items())
            raise DataError(
                f"TrajectoryArrays: must agree in all but the number of samples, not {shown}"
            )
        self.groups, self.attributes = tuple(shapes), dict(attributes or {})
        self.steps, self.shape = shapes["train"][1] - 1, shapes["train"][3:]

    def count(self, group: str) -> int:
        """Return the number of trajectories in a group.

        Parameters
        ----------
        group : str
            Name of the group.

        Returns
        -------
        int
            Number of trajectories; 0 for a group that does not exist.
        """
        return len(self._states.get(group, ()))

    def read(self, group: str, samples: Sequence[int], part: Sequence[slice]) -> NDArray[Any]:
        """Return a part of some trajectories.

        Parameters
        ----------
        group : str
            Name of the group.
        samples : sequence of int
            Indices of the trajectories.
        part : sequence of slice
            The points: one slice per axis of the grid.

        Returns
        -------
        numpy array
            States of shape `(len(samples), steps + 1, C, *part)`.
        """
        points: Any = (..., *part)
        found: NDArray[Any] = self._states[group][list(samples)][points]
        return found

    def read_states(
        self, group: str, sample: int, states: slice, part: Sequence[slice]
    ) -> NDArray[Any]:
        """Return a part of some states of one trajectory.

        Parameters
        ----------
        group : str
            Name of the group.
        sample : int
            Index of the trajectory.
        states : slice
            The states.
        part : sequence of slice
            The points: one slice per axis of the grid.

        Returns
        -------
        numpy array
            States of shape `(len(states), C, *part)`.
        """
        points: Any = (..., *part)
        found: NDArray[Any] = self._states[group][sample, states][points]
        return found

    def check_equal(self, comm: MPI.Comm) -> None:
        """Raise `DataError` on all ranks if their arrays differ; collective.

        Parameters
        ----------
        comm : mpi4py.MPI.Comm
            The ranks that train together.
        """
        if comm.size > 1 and len(set(comm.allgather(content_id(self, self.shape)))) > 1:
            raise DataError(
                "TrajectoryArrays: the ranks have different numbers: make them on every rank from "
                "the same random seed, or broadcast those of one rank"
            )


def _array(group: str, given: NDArray[Any] | Tensor) -> NDArray[Any]:
    """The states of a group as an array."""
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.ndim < 4 or not is_number_type(array.dtype):
        raise DataError(
            f"TrajectoryArrays: {group} must have numbers of the shape (samples, steps + 1, "
            f"channels, *shape of the grid), not {array.dtype} of the shape {array.shape}"
        )
    return array
