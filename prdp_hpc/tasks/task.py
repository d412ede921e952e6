"""What a trainer needs of a task, and what a task of a config is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prdp_hpc.data import TrajectoryDataset
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import NonlinearSolver, Solver, SolveReport
from prdp_hpc.tasks.recipe import Recipe

AfterStep = Callable[[Callable[[], list[float]]], None]


class Task(Protocol):
    """Something that is trained epoch by epoch through one solver.

    A task that learns from trajectories is a short subclass of `SupervisedTask`; anything else has
    these attributes and methods. In a config it is named by `task: file.py:Name` and made by its
    class method `from_config(section, parts)`, see `Parts`; `section` are the keys of
    `task: {kind: file.py:Name, key: value}`, validated by its pydantic model `Config` where it has
    one. Trajectories have at least its attribute `steps` steps.

    `gradient` is needed by `prdp-hpc gradients` and by schedules that measure gradients. A task
    whose loss has samples may also have `sampled_gradient(draw)`: the gradient of a random batch,
    the same for the same integer `draw`, and `Var(g)/|B|`, the variance of such gradients summed
    over their entries; without it the loss counts as one without noise. A task whose validation
    errors are those of single samples may have `test()`, see `SupervisedTask.test`.

    Attributes
    ----------
    mesh : the ranks.
    solver : the coordinator refines it.
    stopwatch : `Stopwatch(solver)`; a task counts what it does in its parts.
    """

    mesh: ProcessMesh
    stopwatch: Stopwatch

    @property
    def solver(self) -> Solver | NonlinearSolver:
        """Whose level the coordinator changes."""
        ...

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """Train one epoch (counted from 1) and return its mean loss; collective.

        `earlier`: the losses of the steps that were done before; the epoch goes on after them.
        `after_step` is called after each step but the last one, with a function that gives the
        losses so far (collective); it may end the epoch by raising.
        """
        ...

    def validate(self) -> dict[str, Any]:
        """The validation error as `error`, and whatever else belongs in the metrics; collective,
        equal on all ranks.
        """
        ...

    def gradient(self) -> Tensor:
        """The gradient of the loss at the solver's level, as one vector; nothing is changed;
        collective, equal on all ranks.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes, whole on rank 0; collective."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class Parts(Protocol):
    """What a task of a config is made of; each part is made when it is first asked for, on all
    ranks together.
    """

    @property
    def config(self) -> Any:
        """The whole config, validated."""
        ...

    @property
    def mesh(self) -> ProcessMesh:
        """The ranks."""
        ...

    @property
    def grid(self) -> Grid:
        """Of the section `grid`."""
        ...

    @property
    def solver(self) -> Solver:
        """Of the section `solver`, without a level; the coordinator refines it."""
        ...

    def stepper(self, solver: Solver | None = None) -> Any:
        """Of the section `physics`, with `solver` or another one."""
        ...

    @property
    def data(self) -> TrajectoryDataset:
        """Of the section `data`, generated first where it names no file."""
        ...

    @property
    def network(self) -> nn.Module:
        """Of the section `network`, for the data's channels."""
        ...

    @property
    def inputs(self) -> Tensor | None:
        """The network's other inputs, of `network_inputs`."""
        ...

    @property
    def recipe(self) -> Recipe:
        """Of the section `training`."""
        ...


class Stopwatch:
    """Wall-clock seconds of training outside the solver, on the solver's timer: what a physics step
    takes inside a part is counted by the solver's report instead.

    Attributes
    ----------
    network_seconds : of networks, losses and the optimiser, forward and backward, with the
        all-reduce of gradients.
    data_seconds : of choosing a batch.
    validation_seconds : of validation, with solves by a solver of its own.
    """

    def __init__(
        self, solver: Solver | NonlinearSolver, device: torch.device | None = None
    ) -> None:
        self.network_seconds = self.data_seconds = self.validation_seconds = 0.0
        self._report = solver.report
        if device is not None and device.type == "cuda":
            self._report.timer.synchronise = partial(torch.cuda.synchronize, device)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Count a block as "network", "data" or "validation"."""
        return self._report.timer.part(self, name)

    def physics(self, step: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
        """`step(state)`; what the solver's report does not count of it, forward and backward, is
        assembly.
        """
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
    """The identity; its backward pass begins, or ends, the assembly part of adjoint solves.

    Autograd goes through what is between two marks in one go: it takes the functions that were
    called last first.
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
