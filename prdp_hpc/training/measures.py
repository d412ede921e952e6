"""Cumulative work and seconds of a run, and the rates between two lines of its metrics."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from prdp_hpc.metric_names import CUMULATIVE, PROBES, SECONDS, SOLVER_PARTS, STEP_NUMBERS
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.probes import Probes, total_counts

GIB = 2.0**30


class Measures:
    """Work, times and rates of a task's training; the methods are collective unless stated.

    Parameters
    ----------
    task : the task.
    probes : the measurements of gradients, whose work is listed separately; None: there are none.

    Attributes
    ----------
    before : cumulative work before a restart.
    """

    def __init__(self, task: Task, probes: Probes | None = None) -> None:
        self._task, self._probes = task, probes
        self._start = time.perf_counter()
        self.before: Mapping[str, Any] = {}

    def start(self) -> None:
        """Start the total time."""
        self._start = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time is not part of the total; not collective."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - begin

    def restore(self, work: Mapping[str, Any]) -> None:
        """Continue from the work before a restart."""
        self.before = work
        if self._probes is not None:
            self._probes.work |= {key: work[key] for key in self._probes.work}

    def work(self) -> dict[str, Any]:
        """Cumulative iterations and solves, and seconds as means over the ranks."""
        seconds = np.array(self._seconds())
        self._task.mesh.world.Allreduce(MPI.IN_PLACE, seconds)
        means: list[float] = (seconds / self._task.mesh.world.size).tolist()
        since_start = (*total_counts(self._task), *means)
        total = {
            key: self.before.get(key, 0) + value
            for key, value in zip(CUMULATIVE, since_start, strict=True)
        }
        return total if self._probes is None else total | self._probes.work

    def since(self, before: Mapping[str, Any] | None, samples: float | None) -> dict[str, Any]:
        """The work so far, memory, and the rates since an earlier row; None: there is none."""
        work = self.work()
        return rates(work, work if before is None else before, samples) | self.memory() | work

    def own_seconds(self) -> dict[str, float]:
        """The seconds of this rank since the start; not collective."""
        return dict(zip(SECONDS, self._seconds(), strict=True))

    def memory(self) -> dict[str, float]:
        """Peak memory of a rank, and of its GPU, in GiB; the largest of all ranks."""
        device = self._task.mesh.device
        # Linux counts in KiB.
        mine = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0]
        if device.type == "cuda":
            mine.append(float(torch.cuda.max_memory_allocated(device)))
        most = np.array(mine)
        self._task.mesh.world.Allreduce(MPI.IN_PLACE, most, op=MPI.MAX)
        return dict(zip(("memory_gib", "gpu_memory_gib"), (most / GIB).tolist(), strict=False))

    def step_numbers(self) -> dict[str, Any]:
        """Learning rate and norm of the gradient in the last step, None where the task has none."""
        own = getattr(self._task, "step_numbers", None)
        found = {} if own is None else own()
        return {key: found.get(key) for key in STEP_NUMBERS}

    def _seconds(self) -> list[float]:
        report, outside = self._task.solver.report, self._task.stopwatch
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
        return [found[key] for key in SECONDS]


def cumulative(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cumulative work in a row of metrics."""
    return {key: row[key] for key in (*CUMULATIVE, *PROBES) if key in row}


def rates(
    now: Mapping[str, float], before: Mapping[str, float], samples: float | None
) -> dict[str, Any]:
    """Training samples per second, without the time of validation, and the share of the solver in
    all time, between two cumulative measurements. `samples` were trained; None: unknown.
    """
    passed = {
        key: now[key] - before.get(key, 0.0)
        for key in ("total_seconds", "validation_seconds", "solver_seconds")
    }
    total, training = (
        passed["total_seconds"],
        passed["total_seconds"] - passed["validation_seconds"],
    )
    speed = samples / training if samples and training > 0 else None
    return {
        "samples_per_second": speed,
        "solver_share": passed["solver_seconds"] / total if total > 0 else None,
    }
