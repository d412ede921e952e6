"""States that trained tasks predict, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.collective import call_together
from prdp_hpc.errors import returned
from prdp_hpc.experiments.members import Members
from prdp_hpc.linalg.torch_petsc import is_real_tensor
from prdp_hpc.tasks.validation import checked_errors


@dataclass(frozen=True)
class Predicted:
    """One state of some samples, this rank's part; tensors of shape `(b, C, *local_shape)`.

    Attributes
    ----------
    step : number of the time step; 0: the initial state.
    mean : the prediction, or the mean of those of several runs.
    spread : the standard deviation of several runs with the divisor n − 1, or None.
    truth : the true state, or None if the data do not have it.
    errors : the errors of `mean` by sample, with the names of the task's validation errors.
    member_errors : the same of each of several runs.
    spread_errors : the standard deviation of several runs, squared, in the norm of the errors.
    """

    step: int
    mean: Tensor
    spread: Tensor | None
    truth: Tensor | None
    errors: dict[str, NDArray[np.float64]]
    member_errors: list[dict[str, NDArray[np.float64]]]
    spread_errors: dict[str, NDArray[np.float64]]


Errors = Callable[[Any, Tensor], dict[str, NDArray[np.float64]]]


def combined(
    step: int, tasks: Sequence[Any], states: Sequence[Tensor], truth: Tensor | None, errors: Errors
) -> Predicted:
    """The mean and the spread of the states of several runs, and their errors; collective."""
    several = len(states) > 1
    mean = torch.stack(list(states)).mean(dim=0) if several else states[0]
    spread = torch.stack(list(states)).std(dim=0) if several else None
    if truth is None:
        return Predicted(step, mean, spread, truth, {}, [], {})
    return Predicted(
        step,
        mean,
        spread,
        truth,
        errors(tasks[0], mean),
        [errors(*one) for one in zip(tasks, states, strict=True)] if several else [],
        {} if spread is None else errors(tasks[0], truth + spread),
    )


def roll_out(
    members: Members, group: str, samples: Sequence[int], steps: int
) -> Iterator[Predicted]:
    """Predict `steps` time steps from the initial states of some trajectories; collective.

    Every run continues from its own states. `samples` may be empty on some replicas.
    """
    data = members.trajectories
    assert data is not None
    read = _Reader(data, group, samples, members)
    initial = read.state(0)
    states = [initial] * len(members.tasks)
    truth: Tensor | None = initial
    yield combined(0, members.tasks, states, truth, lambda *_: {})
    for step in range(1, steps + 1):
        states = [_advanced(task, state) for task, state in zip(members.tasks, states, strict=True)]
        before, truth = truth, read.state(step) if step <= data.steps else None

        def errors(task: Any, state: Tensor) -> dict[str, NDArray[np.float64]]:
            found = task.step_errors(step, state, truth, before)  # noqa: B023
            name = f"{type(task).__name__}.step_errors(…)"
            return checked_errors(name, found, len(state), f"error_{step}")  # noqa: B023

        yield combined(step, members.tasks, states, truth, errors)


def _advanced(task: Any, state: Tensor) -> Tensor:
    with task.evaluating():
        found: Tensor = task.advance(state)
    if not is_real_tensor(found) or found.shape != state.shape:
        wanted = f"a tensor of real numbers of the state's shape {tuple(state.shape)}"
        raise returned(f"{type(task).__name__}.advance(state)", wanted, found)
    return found


class _Reader:
    """Reads this rank's part of the states of some samples, one step at a time if the data set
    allows it.
    """

    def __init__(self, data: Any, group: str, samples: Sequence[int], members: Members) -> None:
        self._data, self._group, self._samples = data, group, list(samples)
        self._grid, self._mesh = members.grid, members.mesh
        self._like = members.tasks[0]
        self._whole: NDArray[Any] | None = None

    def state(self, step: int) -> Tensor:
        found = call_together(self._mesh.world, lambda: self._read(step))
        tensor = torch.from_numpy(np.ascontiguousarray(found))
        return tensor.to(self._mesh.device, self._like.recipe.dtype)

    def _read(self, step: int) -> NDArray[Any]:
        part = self._grid.local_slices
        if not self._samples:
            channels = len(self._like.channels)
            return np.zeros((0, channels, *self._grid.local_shape), np.float32)
        if hasattr(self._data, "read_states"):
            states = [
                self._data.read_states(self._group, sample, slice(step, step + 1, 1), part)[0]
                for sample in self._samples
            ]
            return np.stack(states)
        if self._whole is None:
            self._whole = self._data.read(self._group, self._samples, part)
        return self._whole[:, step]


def recovered(members: Members, samples: Sequence[int]) -> Iterator[Predicted]:
    """The fields that inversions have found, as the only state of each sample; collective."""
    found = [recovered_fields(task) for task in members.tasks]
    index = torch.as_tensor(list(samples), dtype=torch.long)
    truth = None if found[0][1] is None else found[0][1][index][:, None]

    def errors(task: Any, fields: Tensor) -> dict[str, NDArray[np.float64]]:
        assert truth is not None
        ratio = _squares(task, fields - truth) / _squares(task, truth)
        # Named as in validation: root of the squares for one field, squares for a network.
        return {"error": ratio} if hasattr(task, "recovered") else {"error_field": ratio**0.5}

    yield combined(0, members.tasks, [fields[index][:, None] for fields, _ in found], truth, errors)


def recovered_fields(task: Any) -> tuple[Tensor, Tensor | None]:
    """This rank's part of the recovered and true fields of an inversion, each `(N, *local_shape)`;
    collective.
    """
    if hasattr(task, "recovered"):
        found: tuple[Tensor, Tensor | None] = task.recovered()
        return found
    fields, part = task.fields(), task.grid.local_slices

    def own(name: str) -> Tensor | None:
        whole = fields.get(name)
        return None if whole is None else torch.from_numpy(np.array(whole[part]))[None]

    field = own("log_permeability")
    assert field is not None
    return field, own("truth")


def _squares(task: Any, fields: Tensor) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = fields.square().flatten(1).sum(dim=1).numpy().copy()
    task.mesh.grid_comm.Allreduce(MPI.IN_PLACE, squares)
    return squares
