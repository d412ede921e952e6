"""The batched engine against PETSc's KSPs one by one: a fixed number of Jacobi-CG iterations for
2-D Poisson problems with B right-hand sides, side by side.

    python benchmarks/batched.py [--quick]
    mpiexec -n 4 python benchmarks/batched.py

Prints microseconds for an iteration of one right-hand side, ratios to PETSc on this machine's CPU,
and, on a GPU, the share of its memory bandwidth (that of a copy in the same run) which the bytes
that an iteration must move at least amount to. Needs no network, and two minutes on a GPU. On
several ranks it counts all-reduces and messages of a solve instead, and measures no time.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from mpi4py import MPI

from benchmarks.common import medians, save, table
from benchmarks.scaling_ranks import sums_of_petsc
from prdp_hpc import Grid, Poisson, Solver, SparseOperator, solve
from prdp_hpc.distributed.transport import TRAFFIC
from prdp_hpc.linalg.batched import device_kernels, graphs
from prdp_hpc.petsc import PETSc

ITERATIONS = 20
SIZES, BATCHES = (32, 128, 512, 2048), (1, 16, 64)
LARGEST = {"cpu": 5_000_000, "cuda": 300_000_000}
"""Unknowns of a batch up to which a device is measured."""
LEVELS: tuple[int | float, ...] = (1, 5, 20, 80, 320, 1e-3, 1e-6, 1e-10)
LEVEL_SIZE, LEVEL_BATCH = 64, 16
PETSC_MOST = 5_000_000
"""Unknowns that PETSc solves for; of larger batches it has fewer right-hand sides."""


@contextmanager
def without(*switches: str) -> Iterator[None]:
    """Run a block with some of the engine's ways switched off."""
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(dict.fromkeys(switches, "0"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def sides(device: str) -> dict[str, dict[str, Any]]:
    """What is measured on a device: the precision, the product and what is switched off."""
    found: dict[str, dict[str, Any]] = {
        "stencil": {},
        "rows (CSR)": {"grid": False},
        "stencil, single": {"precision": "float32"},
    }
    if device == "cuda":
        found["stencil, no graph"] = {"off": (graphs.SWITCH,)}
        found["stencil, torch only"] = {"off": (device_kernels.SWITCH,)}
    return found


def poisson(n: int) -> tuple[SparseOperator, SparseOperator, torch.Tensor]:
    """The operator on a grid, the same without its grid, and the values."""
    stepper = Poisson(Grid((n, n), comm=MPI.COMM_SELF), Solver())
    with_grid = stepper.operator
    rows, cols, _, _ = with_grid.coo_pattern()
    plain = SparseOperator(rows, cols, with_grid.shape, MPI.COMM_SELF, symmetric=True)
    return with_grid, plain, stepper.values()


def action(
    operator: SparseOperator, values: torch.Tensor, b: torch.Tensor, solver: Solver, off: Any
) -> Callable[[], None]:
    """A solve that has ended when it returns."""

    def run() -> None:
        with without(*off), torch.no_grad():
            solve(operator, values, b, solver)
            if b.is_cuda:
                torch.cuda.synchronize()

    return run


def least_bytes(points: int, batch: int, size: int) -> int:
    """What an iteration must move: for each right-hand side 11 passes over vectors (p and A p in
    the product; x, r, p, A p and the new x, r; r, p and the new p), for the matrix 5 diagonals and
    twice the preconditioner.
    """
    return size * points * (11 * batch + 7)


def copy_bandwidth() -> float:
    """Bytes per second that a copy of a gigabyte reads and writes."""
    source = torch.zeros(2**27, dtype=torch.float64, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2.0 * source.numel() * 8 / min(times)


def measure(n: int, batch: int, devices: list[str], repetitions: int) -> list[dict[str, Any]]:
    """All sides for one size, which take turns."""
    operator, plain, values = poisson(n)
    b = torch.randn(batch, n * n, dtype=torch.float64)
    few = b[: max(1, min(batch, PETSC_MOST // (n * n)))]
    names, actions, counts = ["petsc"], [], [len(few)]
    actions.append(action(operator, values, few, Solver("cg", "jacobi", ITERATIONS), ()))
    for device in devices:
        if batch * n * n > LARGEST[device]:
            continue
        there = values.to(device), b.to(device)
        for name, how in sides(device).items():
            precision = how.get("precision", "float64")
            solver = Solver("batched_cg", "jacobi", ITERATIONS, precision=precision)
            own = operator if how.get("grid", True) else plain
            run = action(own, *there, solver, how.get("off", ()))
            run()  # the second one captures
            names.append(f"{device}: {name}")
            actions.append(run)
            counts.append(batch)
    seconds = medians(actions, repetitions)
    return [
        {"n": n, "batch": batch, "side": name, "seconds": time / (count * ITERATIONS)}
        for name, time, count in zip(names, seconds, counts, strict=True)
    ]


def rows_of(found: list[dict[str, Any]], bandwidth: float | None) -> list[list[str]]:
    """The lines of the table."""
    reference, lines = found[0]["seconds"], []
    for one in found:
        is_single, is_cuda = "single" in one["side"], one["side"].startswith("cuda")
        one["ratio"] = one["seconds"] / reference
        share = ""
        if bandwidth is not None and is_cuda and "rows" not in one["side"]:
            moved = least_bytes(one["n"] ** 2, one["batch"], 4 if is_single else 8) / one["batch"]
            one["bandwidth"] = moved / one["seconds"] / bandwidth
            share = f"{one['bandwidth']:.2f}"
        numbers = f"{one['seconds'] * 1e6:.2f}", f"{one['ratio']:.3f}"
        lines.append([f"{one['n']}²", str(one["batch"]), one["side"], *numbers, share])
    return lines


def levels(device: str, repetitions: int) -> list[dict[str, Any]]:
    """What single precision changes at each level: the error of the solution, its iterations, and
    the seconds relative to double precision.
    """
    operator, _, values = poisson(LEVEL_SIZE)
    b = torch.randn(LEVEL_BATCH, LEVEL_SIZE**2, dtype=torch.float64)
    values, b = values.to(device), b.to(device)
    exact = solve(operator, values, b, Solver("batched_cg", "jacobi", 1e-13))
    found = []
    for level in LEVELS:
        errors, actions, counts = [], [], []
        for precision in ("float64", "float32"):
            solver = Solver("batched_cg", "jacobi", level, precision=precision)
            x = solve(operator, values, b, solver)
            errors.append(float((x - exact).norm() / exact.norm()))
            counts.append(solver.report.forward.iterations / len(b))
            actions.append(action(operator, values, b, solver, ()))
            actions[-1]()
        double, single = medians(actions, repetitions)
        found.append({"device": device, "level": str(level), "errors": errors, "counts": counts})
        found[-1]["ratio"] = single / double
    return found


def levels_table(found: list[dict[str, Any]]) -> str:
    """One line for each level."""
    headers = ["device", "level", "error, double", "error, single", "iterations", "single / double"]
    lines = []
    for one in found:
        errors = (f"{error:.2e}" for error in one["errors"])
        counts = " / ".join(f"{count:.0f}" for count in one["counts"])
        lines.append([one["device"], one["level"], *errors, counts, f"{one['ratio']:.2f}"])
    return table(headers, lines)


def count_traffic() -> None:
    """All-reduces and messages of a solve on several ranks, by PETSc's log and our transport."""
    world = MPI.COMM_WORLD
    PETSc.Log.begin()
    grid, lines = Grid((64, 64)), []
    for batch in BATCHES:
        b = torch.randn(batch, grid.n_local, dtype=torch.float64)
        for ksp in ("cg", "batched_cg"):
            stepper = Poisson(grid, Solver(ksp, "jacobi", ITERATIONS))
            values = stepper.values()
            solve(stepper.operator, values, b, stepper.solver)
            before, sums = copy.copy(TRAFFIC), sums_of_petsc()
            product = PETSc.Log.Event("MatMult")
            sent = product.getPerfInfo()["numMessages"]
            solve(stepper.operator, values, b, stepper.solver)
            reductions = sums_of_petsc() - sums + TRAFFIC.reductions - before.reductions
            # PETSc counts a message on both sides.
            own = (product.getPerfInfo()["numMessages"] - sent) / 2
            messages = world.allreduce(own + TRAFFIC.messages - before.messages) / world.size
            lines.append([str(batch), ksp, str(reductions), f"{messages:.0f}"])
    if world.rank == 0:
        print(f"{world.size} ranks, {ITERATIONS} iterations")
        print(table(["B", "ksp", "all-reduces", "messages per rank"], lines))


def main() -> None:
    """Measure, print, save."""
    if MPI.COMM_WORLD.size > 1:
        count_traffic()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    arguments = parser.parse_args()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    bandwidth = copy_bandwidth() if "cuda" in devices else None
    results: list[dict[str, Any]] = []
    lines: list[list[str]] = []
    for n in SIZES[:2] if arguments.quick else SIZES:
        for batch in BATCHES:
            found = measure(n, batch, devices, 3 if n > 512 else 5)
            lines += rows_of(found, bandwidth)
            results += found
    headers = ["points", "B", "side", "µs / iteration / b", "to PETSc (CPU)", "of the bandwidth"]
    print(table(headers, lines))
    by_level = [one for device in devices for one in levels(device, 5)]
    print(f"\n{LEVEL_SIZE}² points, {LEVEL_BATCH} right-hand sides\n{levels_table(by_level)}")
    content: dict[str, Any] = {"iterations": ITERATIONS, "results": results, "levels": by_level}
    if "cuda" in devices:
        content |= {"gpu": torch.cuda.get_device_name(), "copy_bytes_per_second": bandwidth}
    save("batched", content)


if __name__ == "__main__":
    main()
