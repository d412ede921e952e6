"""Gradient measurements for a schedule, with their cost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from prdp_hpc.errors import InputError
from prdp_hpc.metric_names import COUNTS, PROBES
from prdp_hpc.refinement import Level, MeasuredGradient
from prdp_hpc.tasks.random_states import own_random_numbers
from prdp_hpc.tasks.task import Task


class Probes:
    """Measures gradients of a task for a schedule, and counts the cost; collective.

    Each probe uses a separate batch and separate random numbers, which are equal for all its
    gradients. The state of training is not changed: neither the random numbers, nor the network,
    the optimiser, or the initial guesses of solves.

    Attributes
    ----------
    work : cumulative counts and seconds, with the keys `metric_names.PROBES`.

    Raises
    ------
    InputError
        For a task without the method `gradient`.
    """

    def __init__(self, task: Task, schedule: Any) -> None:
        if not callable(getattr(task, "gradient", None)):
            raise InputError(
                f"refinement.schedule: {type(schedule).__name__} measures gradients, but "
                f"{type(task).__name__} has no method gradient(), see prdp_hpc.tasks.task.Task: "
                "add it, or choose another schedule"
            )
        self._task, self._schedule = task, schedule
        self.work: dict[str, Any] = dict.fromkeys(PROBES, 0)

    def run(self, epoch: int, row: Mapping[str, Any]) -> None:
        """Run a probe before an epoch if it is due according to the counts in `row`, the metrics of
        the previous epoch.
        """
        probed = self.work["probe_forward_iterations"] + self.work["probe_adjoint_iterations"]
        trained = row["forward_iterations"] + row["adjoint_iterations"] - probed
        if not self._schedule.probe_due(trained, probed):
            return
        solver = self._task.solver
        with self._counted(), own_random_numbers(), self._task.stopwatch.part("network"):

            def measure(level: Level, adjoint_level: Level) -> MeasuredGradient:
                solver.refine(level, adjoint_level)
                _seed(epoch)
                with solver.restored_solutions():
                    return self._measured(epoch)

            self._schedule.probe(measure)

    def _measured(self, epoch: int) -> MeasuredGradient:
        agree = self._task.mesh.world.bcast
        sampled = getattr(self._task, "sampled_gradient", None)
        if sampled is None:
            return MeasuredGradient(self._task.gradient(), 0.0, agree)
        gradient, variance = sampled(epoch)
        return MeasuredGradient(gradient, agree(variance), agree)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        before, start = self._counts(), time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        world = self._task.mesh.world
        mean = world.allreduce(seconds, op=MPI.SUM) / world.size
        after = (*self._counts(), mean)
        for key, now, then in zip(PROBES, after, (*before, 0.0), strict=True):
            self.work[key] += now - then

    def _counts(self) -> list[int]:
        return total_counts(self._task)


def total_counts(task: Task) -> list[int]:
    """The counts `COUNTS` of a task's solver since it was created, summed over the replicas;
    collective.
    """
    report = task.solver.report
    counts = {
        "forward_iterations": report.forward.iterations,
        "adjoint_iterations": report.adjoint.iterations,
        "solves": report.forward.solves + report.adjoint.solves,
        "adjoint_solves": report.adjoint.solves,
    }
    # The grid ranks of a replica share each solve, so only the replicas are summed.
    return [task.mesh.replica_comm.allreduce(counts[key], op=MPI.SUM) for key in COUNTS]


def _seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)
