"""The overhead of `prdp_hpc.solve`: forward against the same KSP in plain petsc4py, and backward
against forward.

    python benchmarks/overhead.py [--quick]

Both perform the same iterations on the same matrix, with the preconditioner set up before. Targets:
forward at most 1.3, 1.05 and 1.02 times plain PETSc for 10³, 10⁵ and 10⁶ unknowns; backward at most
1.05 times the forward solve for b, and 1.2 times for b and values.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from benchmarks.common import medians, save, table, verdict
from prdp_hpc import Grid, Poisson, Refinement, Solver, SparseOperator, solve

FORWARD_TARGETS = {32: 1.3, 316: 1.05, 1000: 1.02}
BACKWARD_TARGET, VALUES_TARGET = 1.05, 1.2
ITERATIONS = 50


def poisson(n: int) -> tuple[SparseOperator, torch.Tensor]:
    """2-D Poisson on n × n points: symmetric."""
    stepper = Poisson(Grid((n, n)), Solver())
    return stepper.operator, stepper.values()


def convection_diffusion(n: int) -> tuple[SparseOperator, torch.Tensor]:
    """The same with first-order upwind convection along the first axis: not symmetric."""
    symmetric, values = poisson(n)
    rows, cols = symmetric.coo_pattern()[:2]
    wind = 0.5 * float(values.max())
    values = values + wind * torch.from_numpy(
        (rows == cols).astype(float) - (cols == rows - n).astype(float)
    )
    return SparseOperator(rows, cols, symmetric.shape), values


CASES: dict[str, tuple[str, Callable[[int], tuple[SparseOperator, torch.Tensor]]]] = {
    "symmetric": ("cg", poisson),
    "non-symmetric": ("gmres", convection_diffusion),
}


def bare_petsc(operator: SparseOperator, ksp_type: str, b: torch.Tensor) -> Callable[[], Any]:
    """The same solve in plain petsc4py."""
    from petsc4py import PETSc

    ksp = PETSc.KSP().create(comm=operator.comm)
    ksp.setOperators(operator.matrix)
    ksp.setType(ksp_type)
    ksp.getPC().setType("jacobi")
    ksp.setNormType(PETSc.KSP.NormType.NONE)
    ksp.setConvergenceTest(None)
    ksp.setTolerances(max_it=ITERATIONS)
    ksp.setUp()
    x, right = operator.matrix.createVecs()
    right.setArray(b.numpy())
    return lambda: ksp.solve(right, x)


def measure(case: str, n: int, repetitions: int, calls: int) -> dict[str, Any]:
    """Medians of plain PETSc, forward, backward of b, backward of b and values."""
    ksp_type, build = CASES[case]
    operator, values = build(n)
    solver = Solver(ksp_type, "jacobi", Refinement(max_it=ITERATIONS))
    b = torch.from_numpy(np.random.default_rng(0).standard_normal(operator.n_local))
    with_b = b.clone().requires_grad_()
    with_values = values.clone().requires_grad_()
    gradient = torch.ones_like(b)
    operator.load(values)
    # The KSP whose vectors are allocated first is some percent faster at 10⁶ unknowns, so plain
    # PETSc is created before and after ours.
    earlier = bare_petsc(operator, ksp_type, b)
    earlier()
    solve(operator, values, b, solver)

    def forward() -> None:
        solve(operator, values, b, solver)

    graph_b = solve(operator, values, with_b, solver)
    graph_values = solve(operator, with_values, with_b, solver)

    def backward_b() -> None:
        torch.autograd.grad(graph_b, with_b, gradient, retain_graph=True)

    def backward_values() -> None:
        torch.autograd.grad(graph_values, (with_values, with_b), gradient, retain_graph=True)

    actions = [earlier, bare_petsc(operator, ksp_type, b), forward, backward_b, backward_values]
    first, second, ours, only_b, both = medians(actions, repetitions, calls)
    bare = (first + second) / 2
    return {
        "case": case,
        "ksp": ksp_type,
        "unknowns": n * n,
        "iterations": ITERATIONS,
        "seconds": {"bare": bare, "forward": ours, "backward_b": only_b, "backward_values": both},
        "ratios": {
            "forward": ours / bare,
            "backward_b": only_b / ours,
            "backward_values": both / ours,
        },
        "targets": {
            "forward": FORWARD_TARGETS[n],
            "backward_b": BACKWARD_TARGET,
            "backward_values": VALUES_TARGET,
        },
        "set_ups": solver.report.forward.set_ups + solver.report.adjoint.set_ups,
    }


def memory_growth(solves: int) -> dict[str, Any]:
    """Peak memory before and after many small solves with backward."""
    operator, values = poisson(32)
    values = values.clone().requires_grad_()
    b = torch.ones(operator.n_local, dtype=torch.float64, requires_grad=True)
    solver = Solver("cg", "jacobi", Refinement(max_it=5))

    def some(count: int) -> int:
        for _ in range(count):
            solve(operator, values, b, solver).sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = some(200)
    return {"solves": solves, "peak_kib_before": before, "peak_kib_after": some(solves)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="without 10⁶ unknowns")
    quick = parser.parse_args().quick
    plan = [(32, 21, 50), (316, 21, 1)] + ([] if quick else [(1000, 9, 1)])
    results = [
        measure(case, n, repetitions, calls) for case in CASES for n, repetitions, calls in plan
    ]
    rows = []
    for result in results:
        ratios, targets, seconds = result["ratios"], result["targets"], result["seconds"]
        cells = [
            f"{ratios[key]:.3f} ({verdict(ratios[key], targets[key])} ≤ {targets[key]})"
            for key in ratios
        ]
        times = [f"{seconds[key] * 1e3:.3f}" for key in ("bare", "forward")]
        rows.append([result["case"], f"{result['unknowns']:,}", *times, *cells])
    headers = [
        "matrix",
        "unknowns",
        "bare ms",
        "ours ms",
        "forward / bare",
        "backward b / forward",
        "with values / forward",
    ]
    print(table(headers, rows))
    growth = memory_growth(10_000)
    before, after = growth["peak_kib_before"], growth["peak_kib_after"]
    print(f"\n{growth['solves']:,} solves with backward: peak memory {before:,} -> {after:,} KiB")
    save("overhead", {"results": results, "memory": growth})


if __name__ == "__main__":
    main()
