"""What `scaling.py` measures under mpiexec: prints one JSON line on rank 0."""

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
from prdp_hpc.learning.experiment import build_solver, build_task
from prdp_hpc.networks import MLP, ResNet
from prdp_hpc.partition import Partition
from prdp_hpc.planning.workload import workload_of
from prdp_hpc.transport import TRAFFIC

WORLD = MPI.COMM_WORLD


def seconds(action: Callable[[], Any], repetitions: int) -> float:
    """Median over repetitions, the slowest rank's, all starting together."""
    found = []
    action()
    for _ in range(repetitions):
        WORLD.Barrier()
        start = time.perf_counter()
        action()
        found.append(WORLD.allreduce(time.perf_counter() - start, op=MPI.MAX))
    return statistics.median(found)


def sums_of_petsc() -> int:
    """Sums over ranks since PETSc's log began: its own count of reductions stays 0, but each of these events is one."""
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


def solver_times(repetitions: int) -> tuple[float, float, float]:
    """Bytes/s, s an iteration, s a right-hand side."""
    streamed, iteration, constant = [], [], []
    for n in (64, 128, 192, 256):
        grid = Grid((n, n), comm=MPI.COMM_SELF)
        solver = Solver("cg", "jacobi")
        heat = Heat(grid, diffusivity=1e-3, dt=1.0, solver=solver)
        field = torch.rand(4, 1, n, n)
        times = []
        for count in (10, 40):
            solver.refine(Refinement(max_it=count))
            before = solver.report.forward.seconds
            repeats = [0.0]

            def once(heat: Heat = heat, field: torch.Tensor = field) -> None:
                heat(field)

            once()
            for _ in range(repetitions):
                WORLD.Barrier()
                before = solver.report.forward.seconds
                once()
                repeats.append(solver.report.forward.seconds - before)
            times.append(statistics.median(repeats[1:]) / 4)
        each = (times[1] - times[0]) / 30
        # The same count of bytes as the model's: matrix of 5 entries a point, Jacobi, the vectors of CG.
        streamed.append((1.2 * (5 * 12 + 16) + 16 * 8) * n * n)
        iteration.append(each)
        constant.append(max(0.0, times[0] - 10 * each))
    per_byte, overhead = line(streamed, iteration)
    return 1.0 / per_byte, overhead, statistics.median(constant)


def network_times(repetitions: int) -> tuple[float, float]:
    """FLOP/s of convolutions, s a layer."""
    flops, times = [], []
    layers = 6
    for n, batch in ((64, 4), (128, 4), (128, 8), (256, 4)):
        network = ResNet(Partition.whole((n, n), "dirichlet"), 1, 1, channels=16, blocks=2)
        times.append(seconds(backward(network, torch.rand(batch, 1, n, n)), repetitions) / layers)
        weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
        flops.append(3 * 2.0 * weights * n * n * batch / layers)
    per_flop, overhead = line(flops, times)
    return 1.0 / per_flop, overhead


def calibrate(repetitions: int) -> dict[str, float]:
    """Rates of one rank."""
    bandwidth, iteration, solve = solver_times(repetitions)
    convolution, layer = network_times(repetitions)
    dense = MLP(1000, 1000, [1000, 1000])
    products = 3 * 2.0 * 25 * sum(p.numel() for p in dense.parameters() if p.dim() > 1)
    dense_seconds = seconds(backward(dense, torch.rand(25, 1, 1000)), repetitions)
    optimiser = torch.optim.Adam(dense.parameters(), fused=True)
    update = seconds(optimiser.step, repetitions)
    small = torch.optim.Adam(torch.nn.Linear(4, 4).parameters(), fused=True)
    return {
        "bandwidth": bandwidth,
        "convolution_rate": convolution,
        "dense_rate": products / dense_seconds,
        "parameter_rate": sum(p.numel() for p in dense.parameters()) / update,
        "iteration_overhead": iteration,
        "solve_overhead": solve,
        "layer_overhead": layer,
        "step_overhead": seconds(small.step, repetitions) + 1e-3,
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


def train(config: dict[str, Any], grid_ranks: int, repetitions: int) -> dict[str, float]:
    """A training step of the real task and its parts; traffic of a step, the mean over ranks."""
    one = validate(config, "benchmark")
    mesh = ProcessMesh.from_world(grid_ranks=grid_ranks)
    solver = build_solver(one)
    Path(one.output).mkdir(parents=True, exist_ok=True)
    task = build_task(one, mesh, solver)
    solver.refine(one.refinement.full_level)
    field = torch.rand(max(1, one.training.batch_size // mesh.replicas), 1, *task._grid.local_shape)
    network = seconds(backward(task.network, field), repetitions)
    task.train_epoch(1)
    steps = 8 // one.training.batch_size
    before = copy.copy(TRAFFIC)
    PETSc.Log.begin()
    found: list[tuple[float, float, float]] = []
    for epoch in range(2, repetitions + 2):
        report = copy.deepcopy(solver.report)
        WORLD.Barrier()
        start = time.perf_counter()
        task.train_epoch(epoch)
        whole = time.perf_counter() - start
        forward = solver.report.forward.seconds - report.forward.seconds
        adjoint = solver.report.adjoint.seconds - report.adjoint.seconds
        found.append(tuple(WORLD.allreduce(s / steps, op=MPI.MAX) for s in (forward, adjoint, whole)))  # type: ignore[arg-type]
    logged = PETSc.Log.Event("KSPSolve").getPerfInfo()
    count = steps * repetitions
    mine = [
        (logged["numMessages"] + TRAFFIC.messages - before.messages) / count,
        (logged["messageLength"] + TRAFFIC.bytes - before.bytes) / count,
        (sums_of_petsc() + TRAFFIC.reductions - before.reductions) / count,
    ]
    messages, sent, sums = (WORLD.allreduce(value) / WORLD.size for value in mine)
    forward, adjoint, whole = (statistics.median(column) for column in zip(*found, strict=True))
    assert workload_of(one).iterations == 20
    mesh.close()
    return {
        "solver": forward,
        "adjoint": adjoint,
        "network": network,
        "step": whole,
        "messages": messages,
        "bytes": sent,
        "sums": sums,
    }


if __name__ == "__main__":
    result = {"calibrate": calibrate, "wire": wire, "train": train}[sys.argv[1]](**json.loads(sys.argv[2]))
    if WORLD.rank == 0:
        print(json.dumps(result))
