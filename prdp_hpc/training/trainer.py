"""The training loop: train, validate, choose the next level, write metrics and checkpoints."""

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
    """Train a task for a number of epochs, at the level of solve accuracy that a schedule chooses.

    The task is validated before the first epoch and after each one. The schedule receives the error
    and chooses the level of the next epoch. A schedule that measures gradients (`ProbingSchedule`)
    may do so before an epoch; the task then needs the method `gradient`. All ranks use the numbers
    of rank 0 for these decisions.

    Checkpoints are written in the background. If this took more than 2 % of the time, they are
    delayed by at most 2 s. An epoch is shown, and written to `metrics.jsonl`, only when a killed
    run can lose at most `checkpoint_every` shown epochs; the epochs not yet shown are in the
    checkpoint. On SIGUSR1 or SIGTERM to any rank, all ranks finish the same step, a checkpoint is
    written, and they exit with code 85 (`prdp_hpc.distributed.preemption`); a resumed run continues
    with the next step. A run makes glibc keep freed memory (`prdp_hpc.training.allocation`).

    Parameters
    ----------
    task : Task
        The task, which is trained on the ranks of its mesh.
    schedule : Schedule
        A `Coordinator` or another schedule.
    folder : str or Path
        The run folder, in which rank 0 writes metrics and checkpoints.
    epochs : int
        Number of epochs.
    label : str, optional
        First word of the progress lines. Default: the name of the folder.
    checkpoints : Checkpoints, optional
        The checkpoints. Default: the last two, in `folder/checkpoints`, without a check of
        settings.
    checkpoint_every : int, default 1
        Epochs between two checkpoints; the last epoch is always saved.

    Attributes
    ----------
    tested : dict or None
        Result of the task's method `test()` after the last epoch, see `SupervisedTask.test`; None
        before, and for a task without this method.

    Raises
    ------
    InputError
        If the schedule measures gradients and the task has no method `gradient`.

    Examples
    --------
    >>> from prdp_hpc import Coordinator, Grid, Inverse, IterationLadder, Poisson, ProcessMesh
    >>> from prdp_hpc import Solver, Trainer
    >>> mesh = ProcessMesh.from_world()
    >>> grid = Grid((16,), comm=mesh.grid_comm)
    >>> physics, exact = (Poisson(grid, Solver("cg", "jacobi", 1e-10)) for _ in range(2))
    >>> task = Inverse(physics, exact, mesh, reference=[2.0], start=[5.0], learning_rate=275.0)
    >>> trainer = Trainer(task, Coordinator(IterationLadder(1, 1, 16)), "runs/mine", epochs=2)
    >>> trainer.restore()  # continue after the last checkpoint, if there is one
    >>> metrics = trainer.run()
    >>> metrics["epoch"], metrics["level"], metrics["error"] < 1.5
    (2, 1, True)
    >>> mesh.close()
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
        """The ranks of the task."""
        return self.task.mesh

    def restore(self) -> None:
        """Load the last checkpoint, after which `run` then continues; collective.

        The resumed run computes the same numbers as an uninterrupted one. Without a checkpoint it
        starts at the beginning.

        Raises
        ------
        CheckpointError
            On all ranks, if the checkpoint is of other settings or of more epochs, or if none can
            be read.
        """
        world = self.mesh.world
        state = call_together(
            world, self.checkpoints.load_latest if self.mesh.is_root else lambda: None
        )
        # Rank 0 chooses the file, so that all ranks load the same one if a file is damaged.
        saved = world.bcast(None if state is None else (state["epoch"], state["step"]))
        self._first, self._resumed = 0, True
        if saved is None:
            return
        epoch, path = saved[0], self.checkpoints.path(*saved)
        if epoch > self.epochs:
            raise CheckpointError(
                f"{path}: the run already has {epoch} epochs; give training.epochs={epoch} or more"
            )
        state = call_together(world, lambda: state or self.checkpoints.load(path))
        self.task.load_state_dict(state["task"])
        self.schedule.load_state_dict(state["schedule"])
        if len(state["random"]) == world.size:
            restore_random_state(state["random"][world.rank])
            # The state contains parts of fields, which depend on the number of ranks.
            if "solver" in state:
                self.task.solver.load_state_dict(state["solver"][world.rank])
        self._row, self._unshown = state["row"], state["unshown"]
        self._before, self._earlier = state["work"], state["losses"]
        if self._probes is not None:
            self._probes.work |= {key: self._before[key] for key in self._probes.work}
        self._first, self._submitted = epoch + 1, epoch

    def run(self) -> dict[str, Any]:
        """Train; collective.

        Returns
        -------
        dict
            The metrics of the last epoch.

        Raises
        ------
        SolveError
            If a solve fails.
        RefinementError
            If the validation error is not finite.
        CheckpointError
            If a checkpoint cannot be written.
        RestartError
            For a requeued job that makes no progress.
        Preempted
            After a signal, once the checkpoint is written; it ends the process with exit code 85.
        """
        self._note_start()
        keep_freed_memory()
        active = self.mesh.is_root
        shown = self._unshown[0]["epoch"] - 1 if self._unshown else self._first - 1
        writer = call_together(
            self.mesh.world,
            lambda: MetricsWriter(Path(self.folder), active, shown if self._resumed else None),
        )
        # Started here, because the first writer of a process loads TensorBoard, whose time is not
        # that of training.
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
        """Write and show the epochs of which at most `checkpoint_every` can be lost by a kill."""
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
        """Log the restart of a requeued job; raise `RestartError` if it makes no progress."""
        if self._first > self.epochs:
            return
        start = partial(
            note_start,
            Path(self.folder),
            max(self._first - 1, 0),
            len(self._earlier),
            self._resumed,
        )
        message = call_together(self.mesh.world, start if self.mesh.is_root else lambda: None)
        if message is not None:
            note(f"{self.label}  {message}")

    def _one_epoch(self, epoch: int, watch: PreemptionWatch) -> None:
        """Train and validate one epoch; epoch 0 only validates the initial state."""
        # If the epoch was interrupted by a signal, its probe has been done before its first step.
        if self._probes is not None and epoch > 0 and not self._earlier:
            self._probes.run(epoch, self._row)
        level, adjoint_level = self.schedule.level, self.schedule.adjoint_level
        self.task.solver.refine(level, adjoint_level)
        after_step = partial(self._after_step, epoch, watch)
        loss = self.task.train_epoch(epoch, self._earlier, after_step) if epoch > 0 else None
        self._earlier = []
        # Rounding may differ between replicas, but the decision must be the same.
        with self.task.stopwatch.part("validation"):
            validation, self._ready = self.mesh.world.bcast(
                (self.task.validate(), self.checkpoints.ready)
            )
        self.schedule.observe(validation["error"])
        after_validation: Any = getattr(self.task, "after_validation", None)
        if after_validation is not None:
            after_validation(validation["error"])
        levels = {"level": level, "adjoint_level": adjoint_level}
        self._row = {"epoch": epoch, "loss": loss, **validation, **levels, **self._work()}

    def _work(self) -> dict[str, Any]:
        """Cumulative iterations and solves, and seconds as means over the ranks."""
        since_start = (*total_counts(self.task), *self._mean_seconds())
        work = {
            key: self._before.get(key, 0) + value
            for key, value in zip(CUMULATIVE, since_start, strict=True)
        }
        return work if self._probes is None else work | self._probes.work

    def _mean_seconds(self) -> list[float]:
        """The seconds `SECONDS` as means over the ranks; collective."""
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
        """Write a checkpoint after `epoch` and the steps with these losses, and end the process;
        collective.
        """
        self._save(epoch, losses, work)
        self._finish()
        if self.mesh.is_root:
            where = self.checkpoints.path(epoch, len(losses))
            note(f"prdp-hpc: stopped by a signal, saved {where}: continue with --resume")
        raise Preempted

    def _save(self, epoch: int, losses: Sequence[float], work: dict[str, Any]) -> None:
        self._submitted = epoch
        random_states = self.mesh.world.gather(random_state())
        # Collective, since a task may have to gather its state.
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
            # Lines are synced first, so that a power failure cannot keep the checkpoint but lose
            # them.
            self.checkpoints.save_soon(epoch, state, len(losses), first=self._outputs[0].sync)

        call_together(self.mesh.world, save if self.mesh.is_root else lambda: None)
