"""The measurements of `scaling.py` under mpiexec; rank 0 prints one JSON line."""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from petsc4py import PETSc

from prdp_hpc import Grid, Heat, ProcessMesh, Refinement, Solver
from prdp_hpc.config import validate
from prdp_hpc.distributed.allocation import keep_freed_memory
from prdp_hpc.distributed.transport import TRAFFIC
from prdp_hpc.experiments.build import build_solver, build_task
from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import MLP
from prdp_hpc.planning import workload_of
from prdp_hpc.planning.cost import COPIES, streamed_bytes

WORLD = MPI.COMM_WORLD


def seconds(action: Callable[[], Any], repetitions: int) -> float:
    """Median over repetitions of the slowest rank, with a common start."""
    found = []
    action()
    for _ in range(repetitions):
        WORLD.Barrier()
        start = time.perf_counter()
        action()
        found.append(WORLD.allreduce(time.perf_counter() - start, op=MPI.MAX))
    return statistics.median(found)


def sums_of_petsc() -> int:
    """All-reduces since PETSc's log began: its count of reductions stays 0, but each of these
    events is one.
    """
    events = ("VecTDot", "VecDot", "VecNorm", "VecMDot", "VecReduceComm")
    return sum(int(PETSc.Log.Event(name).getPerfInfo()["count"]) for name in events)


def backward(module: torch.nn.Module, field: torch.Tensor) -> Callable[[], None]:
    """A forward and a backward pass."""

    def action() -> None:
        module.zero_grad()
        module(field).square().sum().backward()

    return action


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """`y ≈ a x + c` with a, c ≥ 0, weighted to the same relative error at each point."""
    a_matrix = np.stack([x, np.ones(len(x))], axis=1) / np.asarray(y)[:, None]
    (slope, constant), *_ = np.linalg.lstsq(a_matrix, np.ones(len(y)), rcond=None)
    if constant < 0:
        return float(1.0 / np.mean(np.asarray(x) / y)), 0.0
    return float(slope), float(constant)


def solve_overhead(repetitions: int) -> float:
    """Seconds of a right-hand side without its iterations, from solves so small that iterations
    cost little.
    """
    grid = Grid((64, 64), comm=MPI.COMM_SELF)
    solver = Solver("cg", "jacobi")
    heat, field = Heat(grid, diffusivity=1e-3, dt=1.0, solver=solver), torch.rand(4, 1, 64, 64)
    few, many = 10, 40
    times = []
    for count in (few, many):
        solver.refine(Refinement(max_it=count))
        heat(field)
        taken = []
        for _ in range(repetitions):
            before = solver.report.forward.seconds
            heat(field)
            taken.append((solver.report.forward.seconds - before) / len(field))
        times.append(statistics.median(taken))
    return max(0.0, times[0] - few * (times[1] - times[0]) / (many - few))


def training_rates(
    configs: list[dict[str, Any]], overheads: tuple[float, float], repetitions: int
) -> dict[str, float]:
    """Rates of solver and network, fitted to training steps on one rank; `overheads` of a solve and
    of a step are given.
    """
    streamed, iterations, flops, layers = [], [], [], []
    for content in configs:
        # All ranks at the same time, each with a separate training.
        content = content | {"output": str(Path(content["output"]) / str(WORLD.rank))}
        measured = steps_of(content, ProcessMesh.from_world(comm=MPI.COMM_SELF), repetitions)
        work = workload_of(validate(content, "benchmark"))
        solves, count = work.batch * work.solves, len(work.layers)
        each = (measured["solver"] + measured["adjoint"]) / 2 / solves
        iterations.append((each - overheads[0]) / work.iterations)
        streamed.append(streamed_bytes(work) * work.points)
        layers.append((measured["network"] - overheads[1]) / count)
        flops.append(
            3 * sum(layer.flops for layer in work.layers) * work.points * work.batch / count
        )
    per_byte, iteration = line(streamed, iterations)
    per_flop, layer = line(flops, layers)
    return {
        "bandwidth": 1.0 / per_byte,
        "iteration_overhead": iteration,
        "convolution_rate": 1.0 / per_flop,
        "layer_overhead": layer,
    }


def copy_rate(repetitions: int) -> float:
    """Bandwidth in bytes/s of adding halos to fields, forward and backward; on one rank the halos
    are local copies.
    """
    halo = Halo(Partition.whole((256, 256), "periodic"), 1, 1)
    field = torch.rand(4, 16, 256, 256).requires_grad_()
    gradient = torch.rand(4, 16, 258, 258)
    return COPIES * field.nbytes / seconds(lambda: halo(field).backward(gradient), repetitions)


def calibrate(repetitions: int, configs: list[dict[str, Any]]) -> dict[str, float]:
    """Rates of one rank while the others do the same work."""
    small = torch.optim.Adam(torch.nn.Linear(4, 4).parameters(), fused=True)
    overheads = solve_overhead(repetitions), seconds(small.step, repetitions) + 1e-3
    dense = MLP(1000, 1000, [1000, 1000])
    products = 3 * 2.0 * 25 * sum(p.numel() for p in dense.parameters() if p.dim() > 1)
    dense_seconds = seconds(backward(dense, torch.rand(25, 1, 1000)), repetitions)
    optimiser = torch.optim.Adam(dense.parameters(), fused=True)
    update = seconds(optimiser.step, repetitions)
    return {
        **training_rates(configs, overheads, repetitions),
        "copy_bandwidth": copy_rate(repetitions),
        "dense_rate": products / dense_seconds,
        "parameter_rate": sum(p.numel() for p in dense.parameters()) / update,
        "solve_overhead": overheads[0],
        "step_overhead": overheads[1],
    }


def wire(repetitions: int) -> dict[str, float]:
    """Ping-pong of 8 bytes and of 1 MB between two ranks."""
    other = 1 - WORLD.rank
    times = []
    for size in (8, 2**20):
        sent, received = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)

        def exchange(sent: Any = sent, received: Any = received) -> None:
            for _ in range(50):
                WORLD.Sendrecv(sent, other, recvbuf=received, source=other)

        times.append(seconds(exchange, repetitions) / 50)
    return {"latency": times[0], "link": (2**20 - 8) / max(times[1] - times[0], 1e-9)}


def steps_of(content: dict[str, Any], mesh: ProcessMesh, repetitions: int) -> dict[str, float]:
    """Seconds of a training step of the real task and its parts on the slowest rank; messages as
    means over the ranks.
    """
    one = validate(content, "benchmark")
    solver = build_solver(one)
    Path(one.output).mkdir(parents=True, exist_ok=True)
    task = build_task(one, mesh, solver)
    solver.refine(one.refinement.full_level)
    task.train_epoch(1)
    steps = one.data.train // one.training.batch_size
    before = copy.copy(TRAFFIC)
    PETSc.Log.begin()
    found: list[tuple[float, ...]] = []
    for epoch in range(2, repetitions + 2):
        report = copy.deepcopy(solver.report)
        WORLD.Barrier()
        start = time.perf_counter()
        task.train_epoch(epoch)
        whole = time.perf_counter() - start
        forward = solver.report.forward.seconds - report.forward.seconds
        adjoint = solver.report.adjoint.seconds - report.adjoint.seconds
        found.append(
            tuple(WORLD.allreduce(s / steps, op=MPI.MAX) for s in (forward, adjoint, whole))
        )
    logged = PETSc.Log.Event("KSPSolve").getPerfInfo()
    count = steps * repetitions
    # Messages of an event are those sent and those received.
    mine = [
        (logged["numMessages"] / 2 + TRAFFIC.messages - before.messages) / count,
        (logged["messageLength"] / 2 + TRAFFIC.bytes - before.bytes) / count,
        (sums_of_petsc() + TRAFFIC.reductions - before.reductions) / count,
    ]
    messages, sent, sums = (WORLD.allreduce(value) / WORLD.size for value in mine)
    forward, adjoint, whole = (statistics.median(column) for column in zip(*found, strict=True))
    seconds = {
        "solver": forward,
        "adjoint": adjoint,
        "network": whole - forward - adjoint,
        "step": whole,
    }
    return seconds | {"messages": messages, "bytes": sent, "sums": sums}


def train(config: dict[str, Any], grid_ranks: int, repetitions: int) -> dict[str, float]:
    """A training step on all ranks."""
    mesh = ProcessMesh.from_world(grid_ranks=grid_ranks)
    measured = steps_of(config, mesh, repetitions)
    mesh.close()
    return measured


if __name__ == "__main__":
    keep_freed_memory()  # as training does
    result = {"calibrate": calibrate, "wire": wire, "train": train}[sys.argv[1]](
        **json.loads(sys.argv[2])
    )
    if WORLD.rank == 0:
        print(json.dumps(result))
