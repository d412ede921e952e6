"""The training loop: train, validate, let the schedule decide, write down, save."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.learning.checkpoint import Checkpoints, random_state, restore_random_state
from prdp_hpc.learning.metrics import MetricsWriter, Progress
from prdp_hpc.learning.task import Task
from prdp_hpc.mesh import ProcessMesh
from prdp_hpc.refinement import Schedule


@dataclass
class Trainer:
    """Trains a task for a number of epochs and keeps its solver at the schedule's level.

    Before the first epoch and after each one the task is validated; the error goes to the schedule, whose level holds for
    the next epoch. Decisions are made on rank 0's error and hold on all ranks.

    Attributes
    ----------
    folder : the run's folder; rank 0 writes metrics and checkpoints there.
    checkpoint_every : epochs between two checkpoints; the last epoch is saved always.
    """

    task: Task
    schedule: Schedule
    mesh: ProcessMesh
    folder: Path
    label: str
    epochs: int
    checkpoints: Checkpoints
    checkpoint_every: int = 1

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Train and return the last epoch's metrics; collective.

        With `resume`, continue after the newest checkpoint, to the same numbers as a run that was never stopped.

        Raises
        ------
        SolveError, RefinementError
            When a solve fails or the error is not a number.
        """
        self._row: dict[str, Any] = {}
        self._seconds_before = 0.0
        first = self._restore() if resume else 0
        self._start = time.perf_counter()
        active = self.mesh.is_root
        resume_epoch = first - 1 if resume else None
        with MetricsWriter(self.folder, active, resume_epoch) as metrics, Progress(self.epochs, active, self.label) as progress:
            for epoch in range(first, self.epochs + 1):
                self._one_epoch(epoch)
                metrics.write(self._row)
                progress.update(self._row)
                if epoch % self.checkpoint_every == 0 or epoch == self.epochs:
                    self._save(epoch)
        self.task.close()
        return self._row

    def _one_epoch(self, epoch: int) -> None:
        """Epoch 0 only validates the untrained network."""
        level, adjoint_level = self.schedule.level, self.schedule.adjoint_level
        self.task.solver.refine(level, adjoint_level)
        loss = self.task.train_epoch(epoch) if epoch > 0 else None
        # Rounding may differ between replicas, the decision must not.
        validation = self.mesh.world.bcast(self.task.validate())
        self.schedule.observe(validation["error"])
        levels = {"level": level, "adjoint_level": adjoint_level}
        self._row = {"epoch": epoch, "loss": loss, **validation, **levels, **self._work()}

    def _work(self) -> dict[str, Any]:
        """Cumulative iterations, right-hand sides solved, and seconds; the slowest rank's seconds, since the others wait for it."""
        report, world = self.task.solver.report, self.mesh.world
        solver_seconds = report.forward.seconds + report.adjoint.seconds
        total = self._seconds_before + time.perf_counter() - self._start
        counts = [report.forward.iterations, report.adjoint.iterations, report.forward.solves + report.adjoint.solves]
        # The ranks of a replica share each solve; the replicas solve for different samples.
        forward, adjoint, solves = (self.mesh.replica_comm.allreduce(n, op=MPI.SUM) for n in counts)
        slowest = world.allreduce(solver_seconds, op=MPI.MAX)
        return {
            "forward_iterations": forward,
            "adjoint_iterations": adjoint,
            "solves": solves,
            "solver_seconds": slowest,
            "network_seconds": max(0.0, world.allreduce(self.task.stopwatch.seconds, op=MPI.MAX) - slowest),
            "total_seconds": world.allreduce(total, op=MPI.MAX),
        }

    def _save(self, epoch: int) -> None:
        world = self.mesh.world
        own = {
            "random": random_state(),
            "report": self.task.solver.report.state_dict(),
            "stopwatch": self.task.stopwatch.seconds,
        }
        of_ranks = world.gather(own)
        if self.mesh.is_root:
            state = {
                "task": self.task.state_dict(),
                "schedule": self.schedule.state_dict(),
                "ranks": of_ranks,
                "row": self._row,
            }
            self.checkpoints.save(epoch, state)
        world.barrier()

    def _restore(self) -> int:
        """Load the newest checkpoint on every rank; the epoch to go on with, 0 when there is none."""
        world = self.mesh.world
        state = self.checkpoints.load_latest() if self.mesh.is_root else None
        # Rank 0 chooses, so that no two ranks fall back to different files.
        epoch = world.bcast(None if state is None else state["epoch"])
        if epoch is None:
            return 0
        if state is None:
            state = self.checkpoints.load(self.checkpoints.folder / f"epoch_{epoch:04d}.pt")
        self.task.load_state_dict(state["task"])
        self.schedule.load_state_dict(state["schedule"])
        if len(state["ranks"]) == world.size:
            own = state["ranks"][world.rank]
            restore_random_state(own["random"])
            self.task.solver.report.load_state_dict(own["report"])
            self.task.stopwatch.seconds = own["stopwatch"]
        self._row = state["row"]
        self._seconds_before = state["row"]["total_seconds"]
        return int(state["epoch"]) + 1

