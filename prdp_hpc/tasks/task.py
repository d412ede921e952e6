"""The interface of a task, and the components from which a config creates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prdp_hpc.data import TrajectoryDataset
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError, check_members, returned
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import NonlinearSolver, Solver, SolveReport
from prdp_hpc.metric_names import CUMULATIVE, LEVELS, RATES, STEP_NUMBERS
from prdp_hpc.tasks.recipe import Recipe

_OF_TRAINERS = {"epoch", "step", "loss", *LEVELS, *STEP_NUMBERS, *CUMULATIVE, *RATES}
"""Entries of the metrics that are not those of a task."""
AfterStep = Callable[[Callable[[], list[float]]], None]


class Task(Protocol):
    """Interface of a task: a loss that is minimised epoch by epoch through one solver.

    A task that trains a network on trajectories is a short subclass of `SupervisedTask`; other
    tasks have these attributes and methods. A config names a user-defined task by
    `task: file.py:Name`, and its class method `from_config(section, parts)` creates it, see
    `Parts`; `section` has the keys of `task: {kind: file.py:Name, key: value}`, validated by the
    pydantic model `Config` of the class if it has one. Trajectories must have at least as many
    steps as its attribute `steps`.

    `gradient` is needed by `prdp-hpc gradients` and by schedules that measure gradients. A task
    whose loss has samples may also have `sampled_gradient(draw)`, which returns the gradient of a
    random batch, equal for equal integers `draw`, and `Var(g)/|B|`, the variance of such gradients
    summed over their entries. Without it the loss is assumed to have no noise. A task with
    validation errors of single samples may have `test()`, see `SupervisedTask.test`. A task that
    trains on mini-batches may have `steps_per_epoch` and `train_steps(first, last)`, which trains
    single steps of the optimiser, and `step_numbers()` with numbers of the last step for the
    metrics, see `SupervisedTask`. Entries of `validate()` that describe training, which `evaluate`
    leaves out, may be named in the attribute `metrics_of_training`.

    Attributes
    ----------
    mesh : ProcessMesh
        The ranks.
    solver : Solver or NonlinearSolver
        The solver that the schedule refines.
    validation_solver : Solver, optional
        A separate solver of validation whose state is to be part of checkpoints, or None.
    stopwatch : Stopwatch
        `Stopwatch(solver)`, with which the task measures its parts.

    Examples
    --------
    A task with one parameter and one linear solve per epoch:

    >>> import torch
    >>> from prdp_hpc import ProcessMesh, Solver, SparseOperator, solve
    >>> from prdp_hpc.tasks.task import Stopwatch
    >>> class Scale:
    ...     def __init__(self, mesh):
    ...         self.mesh, self.solver = mesh, Solver("cg", "jacobi")
    ...         self.stopwatch = Stopwatch(self.solver)
    ...         self._operator = SparseOperator([0, 1], [0, 1], (2, 2), symmetric=True)
    ...         self._theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    ...
    ...     def _loss(self):
    ...         values, b = torch.tensor([2.0, 4.0]).double(), self._theta.expand(2)
    ...         return (solve(self._operator, values, b, self.solver) - 1.0).square().sum()
    ...
    ...     def train_epoch(self, epoch, earlier=(), after_step=None):
    ...         with self.stopwatch.part("network"):
    ...             loss = self._loss()
    ...             (gradient,) = torch.autograd.grad(loss, self._theta)
    ...             self._theta.data -= 0.5 * gradient
    ...         return loss.item()
    ...
    ...     def validate(self):
    ...         return {"error": self._loss().item()}
    ...
    ...     def gradient(self):
    ...         return torch.autograd.grad(self._loss(), self._theta)[0].reshape(1)
    ...
    ...     def state_dict(self):
    ...         return {"theta": self._theta.detach().clone()}
    ...
    ...     def load_state_dict(self, state):
    ...         self._theta.data.copy_(state["theta"])
    ...
    ...     def close(self):
    ...         pass
    >>> mesh = ProcessMesh.from_world()
    >>> task = Scale(mesh)
    >>> task.train_epoch(1) > task.train_epoch(2)
    True
    >>> mesh.close()
    """

    mesh: ProcessMesh
    stopwatch: Stopwatch

    @property
    def solver(self) -> Solver | NonlinearSolver:
        """The solver whose level the schedule chooses."""
        ...

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """Train one epoch; collective.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1.
        earlier : sequence of float, default ()
            Losses of the steps of this epoch that were already done before a restart; the epoch
            continues after them.
        after_step : callable, optional
            Called after each step but the last one, with a function that returns the losses so far
            (collective). It may end the epoch by an exception.

        Returns
        -------
        float
            Mean loss of the epoch.
        """
        ...

    def validate(self) -> dict[str, Any]:
        """Compute the validation error; collective, equal on all ranks.

        Returns
        -------
        dict
            The validation error as `error`, and further entries of the metrics.
        """
        ...

    def gradient(self) -> Tensor:
        """Compute the gradient of the loss at the solver's level; collective, equal on all ranks.

        The state of the task is not changed, so two calls at one level return the same vector: they
        use the same batch and the same random numbers, e.g. for dropout.

        Returns
        -------
        Tensor
            Gradient of shape `(parameters,)`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes, complete on rank 0; collective."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...

    def close(self) -> None:
        """Close open files."""
        ...


def check_task(task: object) -> None:
    """Raise `InputError` for an object that lacks what a trainer needs of a task."""
    needed = ("mesh", "solver", "stopwatch", "validate", "state_dict", "load_state_dict", "close")
    check_members("task", task, needed, "a task, e.g. an Emulator")


def validated(task: Any) -> dict[str, Any]:
    """The result of the task's `validate()`, with plain numbers; `InputError` for anything else.
    Collective.
    """
    found = task.validate()
    name = f"{type(task).__name__}.validate()"
    if not isinstance(found, Mapping) or "error" not in found:
        keys = f" with the keys {list(found)}" if isinstance(found, Mapping) else ""
        raise InputError(f"{returned(name, 'a dict with the number error', found)}{keys}")
    taken = sorted(found.keys() & _OF_TRAINERS)
    if taken:
        raise InputError(
            f"{name} must not return {', '.join(map(repr, taken))}, which the trainer writes into "
            "the same line of the metrics: choose another name"
        )
    plain = {key: _plain(f"{name} for {key!r}", own) for key, own in found.items()}
    if isinstance(plain["error"], bool) or not isinstance(plain["error"], int | float):
        raise returned(f"{name} for 'error'", "a number", found["error"])
    return plain


def _plain(what: str, value: Any) -> Any:
    """A value as JSON and checkpoints store it."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(what, one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(what, one) for key, one in value.items()}
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise returned(what, "a number, text, list or dict", value)


class Parts(Protocol):
    """The components from which a config creates a task. Each component is created at its first
    use, which is collective.
    """

    @property
    def config(self) -> Any:
        """The complete, validated config."""
        ...

    @property
    def mesh(self) -> ProcessMesh:
        """The ranks."""
        ...

    @property
    def grid(self) -> Grid:
        """The grid of the section `grid`."""
        ...

    @property
    def solver(self) -> Solver:
        """The solver of the section `solver`, without a level, since the schedule chooses it."""
        ...

    def stepper(self, solver: Solver | None = None) -> Any:
        """The PDE of the section `physics`, with this config's solver or the given one."""
        ...

    @property
    def data(self) -> TrajectoryDataset:
        """The data set of the section `data`, which is generated if the section names no file."""
        ...

    @property
    def network(self) -> nn.Module:
        """The network of the section `network`, for the channels of the data."""
        ...

    @property
    def inputs(self) -> Tensor | None:
        """The further input fields of the network, from `network_inputs`."""
        ...

    @property
    def recipe(self) -> Recipe:
        """The training settings of the section `training`."""
        ...


class Stopwatch:
    """Wall-clock seconds of training outside the solver, measured by the solver's timer. The time
    of a PDE's step within a part is in the report of the solver instead.

    Attributes
    ----------
    network_seconds : forward and backward passes of networks, losses, the optimiser, and the
        all-reduce of gradients.
    data_seconds : selection of batches.
    validation_seconds : validation, including its solves with a separate solver.
    output_seconds : metrics and checkpoints between two steps; not part of the metrics.
    """

    def __init__(
        self, solver: Solver | NonlinearSolver, device: torch.device | None = None
    ) -> None:
        self.network_seconds = self.data_seconds = self.validation_seconds = 0.0
        self.output_seconds = 0.0
        self._report = solver.report
        if device is not None and device.type == "cuda":
            self._report.timer.synchronise = partial(torch.cuda.synchronize, device)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Return a context whose time belongs to "network", "data", "validation" or "output"."""
        return self._report.timer.part(self, name)

    def physics(self, step: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
        """Return `step(state)`; its time outside of solves, forward and backward, is assembly."""
        records = torch.is_grad_enabled() and state.requires_grad
        with self._report.part("forward", "assembly"):
            if not records:
                return step(state)
            result = step(_mark(state, self._report, begins=False))
            return _mark(result, self._report, begins=True)


def _mark(x: Tensor, report: SolveReport, begins: bool) -> Tensor:
    marked: Tensor = _Mark.apply(x, report, begins)  # type: ignore[no-untyped-call]
    return marked


class _Mark(torch.autograd.Function):
    """The identity. Its backward pass starts or stops the assembly part of adjoint solves.

    Autograd runs the functions between two marks without interruption, since it always continues
    with the function that was called last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, report: SolveReport, begins: bool) -> Tensor:
        ctx.report, ctx.begins = report, begins
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        timer, owner = ctx.report.timer, ctx.report.adjoint
        (timer.begin if ctx.begins else timer.end)(owner, "assembly")
        return grads[0], None, None
