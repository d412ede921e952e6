"""When a run saves, and what."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.logs import LOGGER
from prdp_hpc.refinement import Schedule
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.checkpoint import CheckpointError, Checkpoints, random_state
from prdp_hpc.training.clock import Clock

_OF_TRAINING = ("optimiser", "schedule")
"""Entries of a task's state that are needed only to train further."""


class Saving:
    """Decides when a checkpoint is due, and saves.

    Parameters
    ----------
    mesh : the ranks.
    checkpoints : the files.
    clock : the time in steps.
    now : the time in seconds, for an interval in minutes.

    Attributes
    ----------
    saved : the time of the last checkpoint that was submitted or loaded.
    """

    def __init__(
        self,
        mesh: ProcessMesh,
        checkpoints: Checkpoints,
        clock: Clock,
        now: Callable[[], float],
    ) -> None:
        self._mesh, self._checkpoints, self._clock, self._now = mesh, checkpoints, clock, now
        self.saved = -1
        self._since, self._asked = now(), False

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
        """Whether this rank asks for a checkpoint after a step because of its clock, once."""
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
        solver_states = self._mesh.world.gather(task.solver.state_dict())

        def save() -> None:
            whole = {
                "task": task_state,
                "schedule": schedule.state_dict(),
                "random": random_states,
                "solver": solver_states,
                **state,
            }
            path = self._checkpoints.save_soon(place[0], whole, place[1], first=first)
            LOGGER.info("checkpoint %s", path)

        call_together(self._mesh.world, save if self._mesh.is_root else lambda: None)

    def keep_best(self, task: Task, place: tuple[int, int], best: Mapping[str, Any]) -> None:
        """Keep the state of the task as that of the lowest error; collective."""
        state = call_together(self._mesh.world, task.state_dict)
        kept = {key: value for key, value in state.items() if key not in _OF_TRAINING}
        keep = partial(
            self._checkpoints.keep_best, place[0], {"task": kept, "best": dict(best)}, place[1]
        )
        call_together(self._mesh.world, keep if self._mesh.is_root else lambda: None)

    def load_best(self) -> dict[str, Any] | None:
        """The entry `best` of the file `best.pt`, or None; on one rank.

        After a kill the file may be of a later step than the checkpoint. It then has the numbers of
        the steps that are repeated.
        """
        try:
            found = self._checkpoints.load_best()
        except CheckpointError as error:
            warnings.warn(
                f"{error}; it is written again at the next lower error",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return None if found is None else found["best"]

    def _minutes_passed(self) -> bool:
        return self._now() - self._since >= 60 * self._clock.minutes


def shown_until(clock: Clock, checkpoints: Checkpoints) -> float:
    """The time until which rows may be shown: a kill then loses at most one interval of them."""
    return clock.time(*checkpoints.saved) + clock.saves if clock.saves else float("inf")
