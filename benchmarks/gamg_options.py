"""The effect of options of GAMG on many types of problems: iterations, set-up and solve.

    python benchmarks/gamg_options.py [--quick]

One rank, conjugate gradients to a relative residual of 1e-10 (GMRES for the matrix that is not
symmetric). Seconds are medians; the options alternate, and only ratios to PETSc's defaults are
printed: of one forward solve with its set-up, and of a forward and an adjoint solve.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.bar import Bar
from benchmarks.common import save, table
from benchmarks.overhead import convection_diffusion
from prdp_hpc import ElementOperator, Grid, Heat, Poisson, Refinement, Solver, SparseOperator, solve

SWEEP = {
    "mg_levels_ksp_type": "richardson",
    "mg_levels_pc_type": "sor",
    "mg_levels_ksp_max_it": 1,
}
PLAIN = {"mg_levels_ksp_type": "chebyshev", "pc_gamg_threshold": -1.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "PETSc's defaults": PLAIN,
    "threshold 0.01": {**PLAIN, "pc_gamg_threshold": 0.01},
    "threshold 0.02": {**PLAIN, "pc_gamg_threshold": 0.02},
    "one SOR sweep": {**SWEEP, "pc_gamg_threshold": -1.0},
    "one SOR sweep, threshold 0.003": {**SWEEP, "pc_gamg_threshold": 0.003},
    "one SOR sweep, threshold 0.01": {**SWEEP, "pc_gamg_threshold": 0.01},
    "no aggressive coarsening": {**PLAIN, "pc_gamg_aggressive_coarsening": 0},
}
System = tuple[SparseOperator, Tensor]


def permeability(grid: Grid, jump: bool) -> Tensor:
    """A log-normal field of few modes with a contrast of about 10³, or its sign with a jump 10³."""
    generator = np.random.default_rng(3)
    total = torch.zeros(grid.local_shape, dtype=torch.float64)
    for _ in range(40):
        wave = torch.ones_like(total)
        for x in grid.coordinates():
            wave = wave * torch.cos(generator.integers(0, 9) * torch.pi * x)
        total = total + generator.standard_normal() * wave
    scaled = total / total.std()
    return torch.where(scaled > 0.5, 1e3, 1.0) if jump else torch.exp(1.2 * scaled)


def poisson(shape: tuple[int, ...], kind: str = "constant", length: Any = 1.0) -> System:
    """Poisson with constant, log-normal or jumping coefficients."""
    grid = Grid(shape, length=length)
    kappa = 1.0 if kind == "constant" else permeability(grid, kind == "jump")
    stepper = Poisson(grid, Solver(), kappa)
    return stepper.operator, stepper.values()


def heat(n: int) -> System:
    """One step of backward Euler."""
    stepper = Heat(Grid((n, n)), 1.0, 1e-3, Solver())
    return stepper.operator, stepper.values()


def bar(nx: int, dofs: int) -> System:
    """A bar of finite elements with random densities."""
    mesh = Bar(nx, dofs)
    near = {} if dofs == 1 else {"block_size": 3, "coordinates": mesh.nodes()}
    held = mesh.unknowns(mesh.held())
    cells = mesh.unknowns(mesh.cells())
    operator = ElementOperator(cells, mesh.size, dirichlet=held, symmetric=True, **near)
    factor = torch.from_numpy(1e-3 + mesh.densities() ** 3)
    return operator, factor[:, None, None] * torch.from_numpy(mesh.element_matrix())


def problems(quick: bool) -> dict[str, Callable[[], System]]:
    """The problems by name; the quick ones have a quarter of the size."""
    n, m, nx, ne = (128, 24, 128, 12) if quick else (256, 48, 256, 24)
    return {
        f"Poisson {n}²": lambda: poisson((n, n)),
        f"Poisson {n}², log-normal": lambda: poisson((n, n), "lognormal"),
        f"Poisson {n}², jumps": lambda: poisson((n, n), "jump"),
        f"Poisson {n}², cells 1 : 10": lambda: poisson((n, n), length=(1.0, 10.0)),
        f"Poisson {m}³": lambda: poisson((m, m, m)),
        f"Poisson {m}³, log-normal": lambda: poisson((m, m, m), "lognormal"),
        f"heat {n}²": lambda: heat(n),
        f"upwind convection {n}²": lambda: convection_diffusion(n),
        f"slab, {nx} cells long": lambda: bar(nx, 1),
        f"elastic bar, {ne} cells long": lambda: bar(ne, 3),
    }


def once(system: System, options: dict[str, Any]) -> dict[str, float]:
    """One forward solve with a new solver."""
    operator, values = system
    ksp = "cg" if operator.symmetric else "gmres"
    options = {"ksp_norm_type": "unpreconditioned", **options} if ksp == "cg" else options
    solver = Solver(ksp, "gamg", Refinement(max_it=300, rtol=1e-10), petsc_options=options)
    right = torch.ones(operator.n_local, dtype=torch.float64)
    solve(operator, values, right, solver)
    done = solver.report.forward
    return {
        "iterations": done.iterations,
        "set_up": done.set_up_seconds,
        "solve": done.solve_seconds,
    }


def measure(system: System, repetitions: int) -> dict[str, dict[str, float]]:
    """Medians by options, which alternate."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in OPTIONS}
    for _ in range(repetitions):
        for name, options in OPTIONS.items():
            found[name].append(once(system, options))
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def ratios(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Seconds relative to those of the defaults."""

    def seconds(result: dict[str, float], solves: int) -> float:
        return result["set_up"] + solves * result["solve"]

    usual = results["PETSc's defaults"]
    return {
        name: {
            "forward": seconds(result, 1) / seconds(usual, 1),
            "both": seconds(result, 2) / seconds(usual, 2),
        }
        for name, result in results.items()
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the size, once each")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows, content = [], {}
    for problem, build in problems(quick).items():
        results = measure(build(), 1 if quick else 5)
        relative = ratios(results)
        content[problem] = {"results": results, "ratios": relative}
        for name, result in results.items():
            ratio = relative[name]
            cells = [f"{result['iterations']:.0f}", f"{ratio['forward']:.2f}"]
            rows.append([problem, name, *cells, f"{ratio['both']:.2f}"])
            problem = ""
    print(table(["problem", "options", "iterations", "forward", "forward and adjoint"], rows))
    save("gamg_options", {"problems": content})


if __name__ == "__main__":
    main()
