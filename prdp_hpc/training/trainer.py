"""The training loop: train, validate, choose the next level, write metrics and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prdp_hpc.console import note
from prdp_hpc.distributed.allocation import keep_freed_memory
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.preemption import Preempted, PreemptionWatch
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.linalg.garbage import free_dropped_objects
from prdp_hpc.logs import LOGGER
from prdp_hpc.metric_names import LEVELS
from prdp_hpc.refinement import Schedule, check_schedule, chosen_levels, is_probing
from prdp_hpc.tasks.random_states import restore_random_state
from prdp_hpc.tasks.task import Task, check_task, validated
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.clock import Clock
from prdp_hpc.training.early_stopping import EarlyStopping
from prdp_hpc.training.measures import Measures, cumulative
from prdp_hpc.training.output import RunOutput
from prdp_hpc.training.probes import Probes
from prdp_hpc.training.requeue import note_start_together
from prdp_hpc.training.saving import Saving, restore_solvers, shown_until
from prdp_hpc.training.step_log import StepLog
from prdp_hpc.training.trackers.tensorboard import TensorBoard
from prdp_hpc.training.trackers.tracker import TrackedRun, Tracker


@dataclass
class Trainer:
    """Train a task, at the level of solve accuracy that a schedule chooses.

    The task is validated before the first step and then once per epoch, or at other intervals. The
    schedule receives the error and chooses the level of the steps until the next validation, also
    in the middle of an epoch. A schedule that measures gradients (`ProbingSchedule`) may do so
    after a validation; the task then needs the method `gradient`. All ranks use the numbers of rank
    0 for these decisions.

    Checkpoints are written in the background. If this took more than 2 % of the time, they are
    delayed by at most 2 s, or to the next multiple of `checkpoint_every`. A validation is shown,
    and written to `metrics.jsonl`, only when a killed run can lose at most `checkpoint_every` shown
    epochs or steps; the validations not yet shown are in the checkpoint. On SIGUSR1 or SIGTERM to
    any rank, all ranks finish the same step, a checkpoint is written, and they exit with code 85; a
    resumed run continues with the next step. A run makes glibc keep freed memory.

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
    checkpoint_every : int or str, default 1
        Interval of checkpoints: a number of epochs, "200 steps", or "10 minutes" by the clock of
        rank 0. The last step is always saved.
    steps : int, optional
        Number of steps of the optimiser, instead of `epochs`. Default: `epochs` applies.
    validate_every : int or str, default 1
        Interval of validations: a number of epochs, or "500 steps". The last step is always
        validated.
    log_every : int, optional
        Steps between two lines of `steps.jsonl`. Default: none are written.
    early_stopping : EarlyStopping, optional
        When to end before the last step. Default: never.
    keep_best : bool, default True
        Whether to keep the state of the lowest validation error as `checkpoints/best.pt`.
    trackers : sequence of Tracker, optional
        Where the metrics are shown. Default: `[TensorBoard()]`.
    settings : mapping, optional
        Nested settings that the trackers show. Default: none.
    clock : callable, default time.monotonic
        The time in seconds for `checkpoint_every` in minutes.

    Attributes
    ----------
    tested : dict or None
        Result of the task's method `test()` after the last step, see `SupervisedTask.test`; None
        before, and for a task without this method.
    ended : str
        Why training has ended; empty before.

    Raises
    ------
    InputError
        If the schedule measures gradients and the task has no method `gradient`, for an invalid
        interval, and for steps if the task has no method `train_steps`.

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
    >>> metrics["epoch"], metrics["level"], metrics["error"] < 1.5, trainer.ended
    (2, 1, True, 'all 2 epochs were trained')
    >>> mesh.close()
    """

    task: Task
    schedule: Schedule
    folder: str | Path
    epochs: int
    label: str = ""
    checkpoints: Checkpoints = field(default=None)  # type: ignore[assignment]
    checkpoint_every: int | str = 1
    steps: int | None = None
    validate_every: int | str = 1
    log_every: int | None = None
    early_stopping: EarlyStopping | None = None
    keep_best: bool = True
    trackers: Sequence[Tracker] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    tested: dict[str, Any] | None = field(default=None, init=False)
    ended: str = field(default="", init=False)
    _at: int = field(default=-1, init=False)
    _earlier: list[float] = field(default_factory=list, init=False)
    _resumed: bool = field(default=False, init=False)
    _row: dict[str, Any] = field(default_factory=dict, init=False)
    _unshown: list[dict[str, Any]] = field(default_factory=list, init=False)
    _probes: Probes | None = field(default=None, init=False)
    _output: RunOutput = field(init=False)

    def __post_init__(self) -> None:
        check_task(self.task)
        check_schedule(self.schedule)
        self.folder = Path(self.folder)
        self.label = self.label or self.folder.name
        if self.checkpoints is None:
            self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self._probes = Probes(self.task, self.schedule) if is_probing(self.schedule) else None
        every = self.validate_every, self.checkpoint_every
        self._time = Clock(self.task, self.epochs, self.steps, *every, self.log_every)
        self._saving = Saving(self.task, self.checkpoints, self._time, self.clock, self.keep_best)
        self._measures = Measures(self.task, self._probes)

    @property
    def mesh(self) -> ProcessMesh:
        """The ranks of the task."""
        return self.task.mesh

    @property
    def best(self) -> dict[str, Any] | None:
        """Lowest validation error so far as `error`, with its `epoch` and `step`."""
        return self._saving.best

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the last validation; empty before the first one."""
        return self._row

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
        self._at, self._resumed = -1, True
        found = self._saving.load()
        if found is None:
            return
        state, own = found
        self.task.load_state_dict(state["task"])
        self.schedule.load_state_dict(state["schedule"])
        if "random" in own:
            restore_random_state(own["random"])
        restore_solvers(self.task, own)
        self._row, self._unshown = state["row"], state["unshown"]
        self._measures.restore(state["work"])
        self._earlier = state["losses"]
        if self.early_stopping is not None and state.get("early_stopping") is not None:
            self.early_stopping.load_state_dict(state["early_stopping"])
        self._saving.restore_best(state)
        self._at = self._time.validated(*self.checkpoints.saved, len(self._earlier))

    def run(self) -> dict[str, Any]:
        """Train; collective.

        Returns
        -------
        dict
            The metrics of the last validation.

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
        with PreemptionWatch(self.mesh.world) as watch:
            for _ in self.in_parts(watch):
                pass
        return self._row

    def in_parts(self, watch: PreemptionWatch) -> Generator[None, None, None]:
        """Train as `run`, and yield after each validation, so that others can train; collective.

        The caller enters `watch`, and separates the states of the random generators.
        """
        if not self._has_ended():
            place = self._time.place(max(self._at, 0), len(self._earlier))
            note_start_together(self.mesh, self.folder, self.label, place, self._resumed)
        keep_freed_memory()
        self._open()
        # After the first tracker of a process has loaded TensorBoard, which is not training.
        self._measures.start()
        self._saving.start()
        with self._output:
            self._log = StepLog(self._time, self._measures, self._output.show_step)
            self._log.start(max(self._at, 0) + len(self._earlier))
            self._show()
            while not self._has_ended():
                due = self._to_next_validation(watch)
                self._output.add(self._row)
                call_together(self.mesh.world, self.checkpoints.check)
                self._show()
                free_dropped_objects(self.mesh.grid_comm, self.mesh.world)
                if watch.now() and not self._has_ended():
                    self._leave([], cumulative(self._row))
                if due or self._has_ended():
                    self._save([], cumulative(self._row))
                with self._measures.paused():
                    yield
            self._finish()
            LOGGER.info("%s: %s", self.label, self.ended)
            self._output.trackers.finish({**self._row, "ended": self.ended})
        test = getattr(self.task, "test", None)
        self.tested = test() if test is not None else None
        self.task.close()

    def _open(self) -> None:
        """Open the files of the run; collective."""
        shown = self._row.get("epoch", -1) if self._resumed else None
        done = self._saving.saved if self._resumed else None
        trackers = [TensorBoard()] if self.trackers is None else self.trackers
        run = TrackedRun(self.label, Path(self.folder), self.settings, done)
        self._output = call_together(
            self.mesh.world,
            lambda: RunOutput(run, self.mesh.is_root, shown, self._time, trackers, self._unshown),
        )

    def _has_ended(self) -> bool:
        """Whether training ends, and why."""
        stopping = self.early_stopping
        if self._at >= self._time.total:
            self.ended = self._time.why_ended
        elif stopping is not None and stopping.ended and not self._earlier:
            self.ended = stopping.why_ended(self.schedule.level)
        return bool(self.ended)

    def _show(self) -> None:
        """Write and show the validations of which a kill can lose at most `checkpoint_every`."""
        until = shown_until(self._time, self.checkpoints)
        self._output.show(lambda row: self._time.step_of(row) <= until)

    def _finish(self) -> None:
        """Wait for the last checkpoint; collective."""
        call_together(self.mesh.world, self.checkpoints.finish)
        self._show()

    def _to_next_validation(self, watch: PreemptionWatch) -> bool:
        """Train until the next validation, and validate; the first one is before all steps. Return
        whether a checkpoint is due.
        """
        first, last = self._at, self._time.next_validation(self._at)
        # If the steps were interrupted by a signal, their probe was done before the first of them.
        if self._probes is not None and last > 0 and not self._earlier:
            self._probes.run(self._time.validations(last), self._row)
        levels = dict(zip(LEVELS, chosen_levels(self.schedule), strict=True))
        self.task.solver.refine(*levels.values())
        loss = None if last == 0 else self._train(first, last, watch, levels)
        step_numbers = self._measures.step_numbers()
        self._at, self._earlier = last, []
        # Rounding may differ between replicas, but the decision must be the same.
        with self.task.stopwatch.part("validation"):
            validation, due = self.mesh.world.bcast(
                (validated(self.task), self._saving.due_at_validation(last))
            )
        self._observe(validation["error"], levels)
        trained = self._time.samples_of(last - max(first, 0))
        measured = self._measures.since(self._row if last else None, trained)
        place = {"epoch": self._time.epoch(last), "step": last}
        self._row = {**place, "loss": loss, **validation, **levels, **step_numbers, **measured}
        self._saving.keep_best(self.task, last, self._row)
        return bool(due)

    def _train(
        self, first: int, last: int, watch: PreemptionWatch, levels: Mapping[str, Any]
    ) -> float:
        """Train the steps from one validation to the next; returns the mean loss. Collective."""
        done = len(self._earlier)

        def after_step(losses: Callable[[], list[float]]) -> None:
            nonlocal done
            done += 1
            self._after_step(first, done, watch, losses, levels)

        earlier = list(self._earlier)
        loss = self._time.train(first, last, earlier, after_step)
        self._log.at_validation(first, last, loss, earlier, levels)
        return loss

    def _observe(self, error: float, levels: Mapping[str, Any]) -> None:
        """Pass the error of a validation to the schedule, early stopping and the task."""
        LOGGER.debug("%s: error %g after step %d", self.label, error, self._at)
        self.schedule.observe(error)
        after = chosen_levels(self.schedule)
        if after != (levels["level"], levels["adjoint_level"]):
            LOGGER.info(
                "%s: level %g, adjoint level %g, after step %d", self.label, *after, self._at
            )
        if self.early_stopping is not None:
            self.early_stopping.observe(error, after)
        after_validation: Any = getattr(self.task, "after_validation", None)
        if after_validation is not None:
            after_validation(error)

    def _after_step(
        self,
        first: int,
        done: int,
        watch: PreemptionWatch,
        losses: Callable[[], list[float]],
        levels: Mapping[str, Any],
    ) -> None:
        """Stop, write and save what is due `done` steps after the validation at time `first`;
        collective.
        """
        step = self._time.time_within(first, done)
        stops = watch.after_step(self._saving.asks())
        # Before a stop too, since the resumed run begins after this step.
        if self._log.due(step):
            with self.task.stopwatch.part("output"):
                self._log.after_step(first, step, losses(), levels)
        if stops:
            self._leave(losses(), self._measures.work())
        if self._saving.due_after(step, watch.requested):
            with self.task.stopwatch.part("output"):
                self._save(losses(), self._measures.work())
        if self._time.ends_epoch(step):
            free_dropped_objects(self.mesh.grid_comm, self.mesh.world)

    def _leave(self, losses: Sequence[float], work: Mapping[str, Any]) -> None:
        """Write a checkpoint after the steps with these losses, and end the process; collective."""
        self._save(losses, work)
        self._finish()
        if self.mesh.is_root:
            where = self.checkpoints.path(*self._time.place(self._at, len(losses)))
            note(f"prdp-hpc: stopped by a signal, saved {where}: continue with --resume")
        LOGGER.warning("%s: stopped by a signal", self.label)
        raise Preempted

    def _save(self, losses: Sequence[float], work: Mapping[str, Any]) -> None:
        """Save after the steps with these losses since the last validation; collective."""
        stopping = self.early_stopping
        state = {
            "row": self._row,
            "unshown": self._output.pending,
            "work": work,
            "losses": list(losses),
            "early_stopping": None if stopping is None else stopping.state_dict(),
        }
        place = self._time.place(self._at, len(losses))
        self._saving.save(self.task, self.schedule, place, state, self._output.sync)
