"""The training loop: train, validate, let the schedule decide, write down, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.console import note
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.preemption import Preempted, PreemptionWatch
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.linalg.garbage import free_dropped_objects
from prdp_hpc.metric_names import CUMULATIVE, PROBES, SECONDS, SOLVER_PARTS
from prdp_hpc.refinement import Schedule, is_probing
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.allocation import keep_freed_memory
from prdp_hpc.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    random_state,
    restore_random_state,
)
from prdp_hpc.training.metrics import MetricsWriter, Progress
from prdp_hpc.training.probes import Probes, total_counts
from prdp_hpc.training.requeue import note_start


@dataclass
class Trainer:
    """Trains a task for a number of epochs and keeps its solver at the schedule's level.

    Before the first epoch and after each one the task is validated; the error goes to the schedule,
    whose level holds for the next epoch. A schedule that measures gradients (`ProbingSchedule`) may
    do so before an epoch; it needs a task with `gradient`. Decisions are made on rank 0's numbers
    and hold on all ranks.

    Checkpoints are written while training goes on; where that would take more than 2 % of the time
    they are put off, by at most 2 s. An epoch is shown, in `metrics.jsonl` too, once a kill cannot
    take more than `checkpoint_every` epochs that were shown; those not yet shown are in the
    checkpoint. On SIGUSR1 or SIGTERM to any rank, all save after the same step and leave with exit
    code 85 (`prdp_hpc.distributed.preemption`); a resume goes on with the next step. From the first
    run on, the process keeps the memory that it frees (`prdp_hpc.training.allocation`).

    Parameters
    ----------
    task : what is trained, on the ranks of its mesh.
    schedule : a `Coordinator`, or another schedule.
    folder : the run's folder; rank 0 writes metrics and checkpoints there.
    epochs : how many.
    label : what lines of progress begin with; default: the folder's name.
    checkpoints : default: the last two, in `folder/checkpoints`, of whatever settings.
    checkpoint_every : epochs between two checkpoints; the last epoch is saved always.

    Attributes
    ----------
    tested : what the task's `test()` returned after the last epoch, see `SupervisedTask.test`; None
        before, and for a task without it.

    Example
    -------
        trainer = Trainer(task, Coordinator(IterationLadder(1, 1, 60)), "runs/mine", epochs=100)
        trainer.restore()  # go on after the last checkpoint, if there is one
        print(trainer.run()["error"])
    """

    task: Task
    schedule: Schedule
    folder: str | Path
    epochs: int
    label: str = ""
    checkpoints: Checkpoints = field(default=None)  # type: ignore[assignment]
    checkpoint_every: int = 1
    tested: dict[str, Any] | None = field(default=None, init=False)
    _first: int = field(default=0, init=False)
    _earlier: list[float] = field(default_factory=list, init=False)
    _resumed: bool = field(default=False, init=False)
    _row: dict[str, Any] = field(default_factory=dict, init=False)
    _unshown: list[dict[str, Any]] = field(default_factory=list, init=False)
    _outputs: tuple[MetricsWriter, Progress] | None = field(default=None, init=False)
    _ready: bool = field(default=True, init=False)
    _submitted: int = field(default=-1, init=False)
    _before: dict[str, Any] = field(default_factory=dict, init=False)
    _probes: Probes | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.label = self.label or self.folder.name
        if self.checkpoints is None:
            self.checkpoints = Checkpoints(self.folder / "checkpoints")
        if is_probing(self.schedule):
            self._probes = Probes(self.task, self.schedule)

    @property
    def mesh(self) -> ProcessMesh:
        """The ranks, which are the task's."""
        return self.task.mesh

    def restore(self) -> None:
        """Let `run` continue after the newest checkpoint, to the same numbers as a run that was
        never stopped. Collective.

        Without a checkpoint it starts at the beginning. Raises `CheckpointError` on all ranks for
        one that does not fit.
        """
        world = self.mesh.world
        state = call_together(
            world, self.checkpoints.load_latest if self.mesh.is_root else lambda: None
        )
        # Rank 0 chooses, so that no two ranks fall back to different files.
        place = world.bcast(None if state is None else (state["epoch"], state["step"]))
        self._first, self._resumed = 0, True
        if place is None:
            return
        epoch, path = place[0], self.checkpoints.path(*place)
        if epoch > self.epochs:
            raise CheckpointError(
                f"{path}: the run has {epoch} epochs already; give training.epochs={epoch} or more"
            )
        state = call_together(world, lambda: state or self.checkpoints.load(path))
        self.task.load_state_dict(state["task"])
        self.schedule.load_state_dict(state["schedule"])
        if len(state["random"]) == world.size:
            restore_random_state(state["random"][world.rank])
            # Parts of fields, which are other ones on other ranks.
            if "solver" in state:
                self.task.solver.load_state_dict(state["solver"][world.rank])
        self._row, self._unshown = state["row"], state["unshown"]
        self._before, self._earlier = state["work"], state["losses"]
        if self._probes is not None:
            self._probes.work |= {key: self._before[key] for key in self._probes.work}
        self._first, self._submitted = epoch + 1, epoch

    def run(self) -> dict[str, Any]:
        """Train and return the last epoch's metrics; collective.

        Raises
        ------
        SolveError, RefinementError
            When a solve fails or the error is not a number.
        CheckpointError
            When a checkpoint cannot be written.
        RestartError
            For a requeued job that makes no progress.
        Preempted
            After a signal, once the state is saved; it ends the process with exit code 85.
        """
        self._note_start()
        keep_freed_memory()
        active = self.mesh.is_root
        shown = self._unshown[0]["epoch"] - 1 if self._unshown else self._first - 1
        writer = call_together(
            self.mesh.world,
            lambda: MetricsWriter(Path(self.folder), active, shown if self._resumed else None),
        )
        # Not before: the first writer of a process loads TensorBoard, which is no part of training.
        self._start = time.perf_counter()
        watch = PreemptionWatch(self.mesh.world)
        with watch, writer as metrics, Progress(self.epochs, active, self.label) as progress:
            self._outputs = metrics, progress
            self._show()
            for epoch in range(self._first, self.epochs + 1):
                self._one_epoch(epoch, watch)
                self._unshown += [self._row] if active else []
                call_together(self.mesh.world, self.checkpoints.check)
                self._show()
                free_dropped_objects(self.mesh.grid_comm, self.mesh.world)
                if watch.now() and epoch < self.epochs:
                    self._leave(epoch, [], self._cumulative())
                if self._due(epoch):
                    self._save(epoch, [], self._cumulative())
            self._finish()
        test = getattr(self.task, "test", None)
        self.tested = test() if test is not None else None
        self.task.close()
        return self._row

    def _due(self, epoch: int) -> bool:
        every = self.checkpoint_every
        return epoch == self.epochs or (self._ready and epoch // every > self._submitted // every)

    def _show(self) -> None:
        """Write down the epochs that can be lost only with the ones that `checkpoint_every` allows
        to be lost.
        """
        assert self._outputs is not None
        while (
            self._unshown
            and self._unshown[0]["epoch"] <= self.checkpoints.saved + self.checkpoint_every
        ):
            row = self._unshown.pop(0)
            self._outputs[0].write(row)
            self._outputs[1].update(row)

    def _finish(self) -> None:
        """Wait for the last checkpoint; collective."""
        call_together(self.mesh.world, self.checkpoints.finish)
        self._show()

    def _note_start(self) -> None:
        """What a requeued job says in its log; on all ranks an error where it makes no progress."""
        if self._first > self.epochs:
            return
        start = partial(
            note_start,
            Path(self.folder),
            max(self._first - 1, 0),
            len(self._earlier),
            self._resumed,
        )
        said = call_together(self.mesh.world, start if self.mesh.is_root else lambda: None)
        if said is not None:
            note(f"{self.label}  {said}")

    def _one_epoch(self, epoch: int, watch: PreemptionWatch) -> None:
        """Epoch 0 only validates the untrained network."""
        # An epoch that a signal cut short was probed for before its first step.
        if self._probes is not None and epoch > 0 and not self._earlier:
            self._probes.run(epoch, self._row)
        level, adjoint_level = self.schedule.level, self.schedule.adjoint_level
        self.task.solver.refine(level, adjoint_level)
        after_step = partial(self._after_step, epoch, watch)
        loss = self.task.train_epoch(epoch, self._earlier, after_step) if epoch > 0 else None
        self._earlier = []
        # Rounding may differ between replicas, the decision must not.
        with self.task.stopwatch.part("validation"):
            validation, self._ready = self.mesh.world.bcast(
                (self.task.validate(), self.checkpoints.ready)
            )
        self.schedule.observe(validation["error"])
        levels = {"level": level, "adjoint_level": adjoint_level}
        self._row = {"epoch": epoch, "loss": loss, **validation, **levels, **self._work()}

    def _work(self) -> dict[str, Any]:
        """Cumulative iterations and right-hand sides solved, and the ranks' mean seconds."""
        since_start = (*total_counts(self.task), *self._mean_seconds())
        work = {
            key: self._before.get(key, 0) + value
            for key, value in zip(CUMULATIVE, since_start, strict=True)
        }
        return work if self._probes is None else work | self._probes.work

    def _mean_seconds(self) -> list[float]:
        """As in `SECONDS`; collective."""
        report, outside = self.task.solver.report, self.task.stopwatch
        found = {
            f"{part}_seconds": report.forward.seconds_of(part) + report.adjoint.seconds_of(part)
            for part in SOLVER_PARTS
        }
        found |= {
            "solver_seconds": sum(found.values()),
            "network_seconds": outside.network_seconds,
            "data_seconds": outside.data_seconds,
            "validation_seconds": outside.validation_seconds,
            "total_seconds": time.perf_counter() - self._start,
        }
        seconds = np.array([found[key] for key in SECONDS])
        self.mesh.world.Allreduce(MPI.IN_PLACE, seconds)
        means: list[float] = (seconds / self.mesh.world.size).tolist()
        return means

    def _cumulative(self) -> dict[str, Any]:
        return {key: self._row[key] for key in (*CUMULATIVE, *PROBES) if key in self._row}

    def _after_step(
        self, epoch: int, watch: PreemptionWatch, losses: Callable[[], list[float]]
    ) -> None:
        if watch.after_step():
            self._leave(epoch - 1, losses(), self._work())

    def _leave(self, epoch: int, losses: Sequence[float], work: dict[str, Any]) -> None:
        """Save what is done after `epoch` and the steps of these losses, and end the process;
        collective.
        """
        self._save(epoch, losses, work)
        self._finish()
        if self.mesh.is_root:
            where = self.checkpoints.path(epoch, len(losses))
            note(f"prdp-hpc: stopped by a signal, saved {where}: go on with --resume")
        raise Preempted

    def _save(self, epoch: int, losses: Sequence[float], work: dict[str, Any]) -> None:
        self._submitted = epoch
        random_states = self.mesh.world.gather(random_state())
        # On all ranks: a task whose state is divided among them puts it together.
        task_state = call_together(self.mesh.world, self.task.state_dict)
        solver_states = self.mesh.world.gather(self.task.solver.state_dict())

        def save() -> None:
            state = {
                "task": task_state,
                "schedule": self.schedule.state_dict(),
                "random": random_states,
                "solver": solver_states,
                "row": self._row,
                "unshown": self._unshown,
                "work": work,
                "losses": list(losses),
            }
            assert self._outputs is not None
            # A node that loses power must not keep the checkpoint and lose the lines before it.
            self.checkpoints.save_soon(epoch, state, len(losses), first=self._outputs[0].sync)

        call_together(self.mesh.world, save if self.mesh.is_root else lambda: None)
