"""When a run saves, and what."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.broadcast import broadcast
from prdp_hpc.distributed.collective import call_together, on_root
from prdp_hpc.distributed.containers import KeyPath
from prdp_hpc.logs import LOGGER
from prdp_hpc.refinement import Schedule
from prdp_hpc.tasks.random_states import random_state
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.clock import Clock
from prdp_hpc.training.settings import CheckpointError

OWN = ("random", "solver", "validation_solver")
"""Entries of a checkpoint with one state per rank."""
_OF_TRAINING = ("optimiser", "schedule")
"""Entries of a task's state that are needed only to train further."""


class Saving:
    """Decides when a checkpoint is due, and saves.

    Parameters
    ----------
    task : what is trained, on the ranks of its mesh.
    checkpoints : the files.
    clock : the time in steps.
    now : the time in seconds, for an interval in minutes.
    keep_best : whether the state of the lowest error is kept.

    Attributes
    ----------
    saved : the time of the last checkpoint that was submitted or loaded.
    best : the lowest error of all validations as `error`, with its `epoch` and `step`; None before
        the first one.
    """

    def __init__(
        self,
        task: Task,
        checkpoints: Checkpoints,
        clock: Clock,
        now: Callable[[], float],
        keep_best: bool,
    ) -> None:
        self._task, self._mesh = task, task.mesh
        self._checkpoints, self._clock, self._now = checkpoints, clock, now
        self.saved, self._keeps = -1, keep_best
        self.best: dict[str, Any] | None = None
        self._since, self._asked = now(), False

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The last checkpoint: its entries for all ranks, and this rank's own ones; None if there
        is none. Raises `CheckpointError` if it is of a later time than the run. Collective.
        """
        world, checkpoints = self._mesh.world, self._checkpoints
        # Only rank 0 reads the file, once, and sends each rank what it needs.
        state = on_root(world, checkpoints.load_latest)
        place = world.bcast(None if state is None else (state["epoch"], state["step"]))
        if place is None:
            return None
        excess = self._clock.excess(*place)
        if excess is not None:
            raise CheckpointError(f"{checkpoints.path(*place)}: {excess}")
        checkpoints.saved, self.saved = place, self._clock.time(*place)
        return share_state(world, state or {}, self._task)

    def start(self) -> None:
        """Begin to count minutes."""
        self._since = self._now()

    def due_at_validation(self, step: int) -> bool:
        """Whether a checkpoint is due after a validation, according to this rank."""
        self._asked = False
        if not self._clock.saves:
            return self._minutes_passed()
        return self._checkpoints.ready and self._clock.save_due(step, self.saved)

    def asks(self) -> bool:
        """Whether a checkpoint is due after a step by the clock of rank 0; True only once."""
        if self._clock.saves or self._asked or not self._mesh.is_root:
            return False
        self._asked = self._minutes_passed()
        return self._asked

    def due_after(self, step: int, requested: bool) -> bool:
        """Whether a checkpoint is due after a step between two validations; equal on all ranks.
        Collective at the multiples of the interval.
        """
        if requested or not self._clock.may_save(step, self.saved):
            return requested
        ready: bool = self._mesh.world.bcast(self._checkpoints.ready)
        return ready

    def save(
        self,
        task: Task,
        schedule: Schedule,
        place: tuple[int, int],
        state: Mapping[str, Any],
        first: Callable[[], object],
    ) -> None:
        """Save the task, the schedule, random numbers, the solver and `state`; collective.

        `first` is called in the background before the file is written.
        """
        self.saved, self._since, self._asked = self._clock.time(*place), self._now(), False
        random_states = self._mesh.world.gather(random_state())
        # Collective, since a task may have to gather its state.
        task_state = call_together(self._mesh.world, task.state_dict)
        solver_states = {
            name: self._mesh.world.gather(solver.state_dict())
            for name, solver in _solvers(task).items()
        }

        def save() -> None:
            whole = {
                "best": self.best,
                "task": task_state,
                "schedule": schedule.state_dict(),
                "random": random_states,
                "ranks": [self._mesh.replicas, self._mesh.grid_ranks],
                **solver_states,
                **state,
            }
            path = self._checkpoints.save_soon(place[0], whole, place[1], first=first)
            LOGGER.info("checkpoint %s", path)

        on_root(self._mesh.world, save)

    def keep_best(self, task: Task, step: int, row: Mapping[str, Any]) -> None:
        """Keep the state after a validation if its error is the lowest so far; collective."""
        if self.best is not None and not row["error"] < self.best["error"]:
            return
        self.best = {key: row[key] for key in ("error", "epoch", "step")}
        if not self._keeps:
            return
        epoch, rest = self._clock.place(step, 0)
        task_state = call_together(self._mesh.world, task.state_dict)
        kept = {key: value for key, value in task_state.items() if key not in _OF_TRAINING}
        state = {"task": kept, "best": self.best}
        keep = partial(self._checkpoints.keep_best, epoch, state, rest)
        on_root(self._mesh.world, keep)

    def restore_best(self, state: Mapping[str, Any]) -> None:
        """Continue from the lowest error of an earlier start; collective.

        After a kill `best.pt` may be of a later step than the checkpoint. It then has the numbers
        of the steps that are repeated, so that its error applies instead of that in `state`.
        """
        if not self._keeps:
            self.best = state.get("best")
            return
        found = self._load_best() if self._mesh.is_root else None
        self.best = self._mesh.world.bcast(found)

    def _load_best(self) -> dict[str, Any] | None:
        try:
            found = self._checkpoints.load_best()
        except CheckpointError as error:
            message = f"{error}; the next lower error replaces the file"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            return None
        return None if found is None else found["best"]

    def _minutes_passed(self) -> bool:
        return self._now() - self._since >= 60 * self._clock.minutes


def shown_until(clock: Clock, checkpoints: Checkpoints) -> float:
    """The time until which rows may be shown: a kill then loses at most one interval of them."""
    return clock.time(*checkpoints.saved) + clock.saves if clock.saves else float("inf")


def share_state(
    world: MPI.Comm, state: dict[str, Any], task: Task
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of a checkpoint that all ranks need, and this rank's own ones, from rank 0, which
    has read the file; collective.

    Of the task's tensors a rank keeps what the task's method `kept_part` returns, if it has one.

    The own ones, `OWN`, contain parts of fields and random streams of ranks, see `states_of_ranks`.
    """
    own = states_of_ranks(state, task.mesh.replicas, task.mesh.grid_ranks)
    names = world.bcast(tuple(own))
    mine = {key: world.scatter(own.get(key)) for key in names}
    shared = {key: value for key, value in state.items() if key not in OWN}
    return broadcast(world, shared, _keep(task)), mine


def states_of_ranks(
    state: Mapping[str, Any], replicas: int, grid_ranks: int
) -> dict[str, list[Any]]:
    """The entries of a checkpoint with one state per rank from which other ranks can continue, in
    the order of those ranks.

    The states of solvers are of parts of fields, and need the same replicas and grid ranks. The
    grid ranks of a replica have the same random stream, so that streams need the same replicas
    only. Checkpoints of earlier versions do not contain how their ranks were divided, and are
    assumed to be of the same division if the number of ranks is the same.
    """
    own = {key: list(state[key]) for key in OWN if key in state}
    if "ranks" not in state:
        return {key: each for key, each in own.items() if len(each) == replicas * grid_ranks}
    before, parts = state["ranks"]
    if (before, parts) == (replicas, grid_ranks):
        return own
    if before != replicas or "random" not in own:
        return {}
    return {
        "random": [own["random"][r * parts] for r in range(replicas) for _ in range(grid_ranks)]
    }


def restore_solvers(task: Task, own: Mapping[str, Any]) -> None:
    """Load the states of this rank's solvers from its entries of a checkpoint."""
    for name, solver in _solvers(task).items():
        if name in own:
            solver.load_state_dict(own[name])


def _solvers(task: Task) -> dict[str, Any]:
    """The solvers whose states are saved, by their entries in a checkpoint."""
    own = {name: getattr(task, name, None) for name in ("solver", "validation_solver")}
    return {name: solver for name, solver in own.items() if solver is not None}


def _keep(task: Any) -> Callable[[KeyPath, Tensor], Any] | None:
    own: Any = getattr(task, "kept_part", None)
    if own is None:
        return None
    return lambda path, tensor: own(path[1:], tensor) if path[0] == "task" else tensor
