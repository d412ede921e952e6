"""Compare 2-D Poisson solves with torch-sla: 10⁶ unknowns on 2 cores, forward and backward, to a
true relative residual of 1e-8.

    python benchmarks/against_torch_sla.py [--quick] [--torch-sla-python PATH]

torch-sla is an optional dependency (`pip install -e '.[benchmarks]'`); PATH is the interpreter of
another environment with it. Every measurement is a new process, and the two packages alternate.
For prdp-hpc, forward includes everything from the grid to the solution; for torch-sla only the
solve with an assembled matrix. Targets against the fastest setting of torch-sla: 8 times faster
forward, 15 times faster backward, no more memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.side_by_side import Results, measure, peak_mib, start_autograd, under_mpiexec

POINTS, TOLERANCE = 1000, 1e-8
FORWARD_TARGET, BACKWARD_TARGET = 8.0, 15.0
THEIRS = {"torch-sla lu": ("scipy", "lu"), "torch-sla cg": ("pytorch", "cg")}
OURS = {
    "prdp-hpc mg, 1 rank": ("mg", 1),
    "prdp-hpc mg, 2 ranks": ("mg", 2),
    "prdp-hpc gamg, 2 ranks": ("gamg", 2),
}


def ours(pc: str) -> None:
    """One measurement of prdp-hpc, under mpiexec; rank 0 prints it."""
    import torch
    from mpi4py import MPI

    from prdp_hpc import Grid, Poisson, Refinement, Solver

    comm = MPI.COMM_WORLD
    torch.set_num_threads(1)
    baseline = peak_mib()
    start_autograd()
    comm.barrier()
    start = time.perf_counter()
    grid = Grid((POINTS, POINTS), boundary="dirichlet")
    options = {"ksp_norm_type": "unpreconditioned"}
    solver = Solver("cg", pc, Refinement(rtol=TOLERANCE), petsc_options=options)
    poisson = Poisson(grid, solver)
    b = torch.ones(grid.local_shape, dtype=torch.float64, requires_grad=True)
    x = poisson(b)
    forward = time.perf_counter() - start
    gradient = torch.ones_like(x)
    comm.barrier()
    start = time.perf_counter()
    x.backward(gradient)
    backward = time.perf_counter() - start
    matrix = poisson.operator.matrix
    vector, residual = matrix.createVecs()
    vector.setArray(x.detach().numpy().ravel())
    matrix.mult(vector, residual)
    residual.shift(-1.0)
    content = {
        "forward": comm.allreduce(forward, op=MPI.MAX),
        "backward": comm.allreduce(backward, op=MPI.MAX),
        "residual": residual.norm() / POINTS,
        "iterations": solver.report.forward.iterations,
        "peak_mib": comm.allreduce(peak_mib()),
        "baseline_mib": comm.allreduce(baseline),
    }
    if comm.rank == 0:
        print(json.dumps(content))


def theirs(backend: str, method: str) -> None:
    """One measurement of torch-sla."""
    import numpy as np
    import torch
    from torch_sla import SparseTensor

    torch.set_num_threads(2)
    baseline = peak_mib()
    start_autograd()
    n, index = POINTS, np.arange(POINTS * POINTS).reshape(POINTS, POINTS)
    beside = [(index[1:], index[:-1]), (index[:, 1:], index[:, :-1])]
    pairs = [(index, index), *beside, *((right, left) for left, right in beside)]
    rows, cols = (
        torch.from_numpy(np.concatenate([pair[side].ravel() for pair in pairs])) for side in (0, 1)
    )
    values = torch.where(rows == cols, 4.0, -1.0).to(torch.float64) * (n + 1) ** 2
    b = torch.ones(n * n, dtype=torch.float64, requires_grad=True)
    start = time.perf_counter()
    # torch-sla's tolerance is absolute.
    matrix = SparseTensor(values, rows, cols, (n * n, n * n))
    x = matrix.solve(b, backend=backend, method=method, atol=TOLERANCE * n, maxiter=20000)
    forward = time.perf_counter() - start
    gradient = torch.ones_like(x)
    start = time.perf_counter()
    x.backward(gradient)
    backward = time.perf_counter() - start
    product = torch.zeros(n * n, dtype=torch.float64).index_add_(0, rows, values * x.detach()[cols])
    residual = float((product - 1.0).norm()) / n
    content = {
        "forward": forward,
        "backward": backward,
        "residual": residual,
        "peak_mib": peak_mib(),
        "baseline_mib": baseline,
    }
    print(json.dumps(content))


def commands(sla_python: str | None) -> dict[str, list[str]]:
    """The command line of each package and setting."""
    here = str(Path(__file__).resolve())
    found = {name: under_mpiexec(ranks, here, "--ours", pc) for name, (pc, ranks) in OURS.items()}
    if sla_python is not None:
        found |= {
            name: [sla_python, here, "--theirs", *setting] for name, setting in THEIRS.items()
        }
    return found


def report(results: Results) -> None:
    """Print the table and the ratios against the best setting of torch-sla; write the JSON file."""
    from benchmarks.common import save, table

    headers = ["", "forward s", "backward s", "residual", "peak MiB", "of it for the solve"]
    rows = []
    for name, r in results.items():
        memory = [f"{r['peak_mib']:,.0f}", f"{r['peak_mib'] - r['baseline_mib']:,.0f}"]
        rows.append(
            [name, f"{r['forward']:.2f}", f"{r['backward']:.2f}", f"{r['residual']:.1e}", *memory]
        )
    print(table(headers, rows))
    content: dict[str, Any] = {"results": results}
    accurate = {
        name: r for name, r in results.items() if name in THEIRS and r["residual"] <= 2 * TOLERANCE
    }
    if accurate:
        fastest = min(
            accurate, key=lambda name: accurate[name]["forward"] + accurate[name]["backward"]
        )
        content |= {"fastest_of_theirs": fastest, "ratios": _ratios(results, accurate[fastest])}
        print(f"\nagainst {fastest}, the fastest of theirs:")
        for name, ratio in content["ratios"].items():
            print(
                f"{name}: forward {ratio['forward']:.1f} times faster (target {FORWARD_TARGET:g}), "
                f"backward {ratio['backward']:.1f} (target {BACKWARD_TARGET:g}), "
                f"{ratio['memory']:.2f} of its memory (target 1)"
            )
    save("against_torch_sla", content)


def _ratios(results: Results, against: dict[str, Any]) -> dict[str, dict[str, float]]:
    ours = {name: r for name, r in results.items() if name in OURS}
    return {
        name: {
            "forward": against["forward"] / r["forward"],
            "backward": against["backward"] / r["backward"],
            "memory": r["peak_mib"] / against["peak_mib"],
        }
        for name, r in ours.items()
    }


def main() -> None:
    """Measure, print and write; or perform one measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="once each instead of 5 times")
    parser.add_argument("--torch-sla-python", metavar="PATH", help="interpreter that has torch-sla")
    parser.add_argument("--ours", metavar="PC", help=argparse.SUPPRESS)
    parser.add_argument("--theirs", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        ours(arguments.ours)
    elif arguments.theirs:
        theirs(*arguments.theirs)
    else:
        sla = arguments.torch_sla_python or (
            sys.executable if importlib.util.find_spec("torch_sla") else None
        )
        if sla is None:
            print(
                "torch-sla is not installed: pip install -e '.[benchmarks]', or give "
                "--torch-sla-python"
            )
        report(measure(commands(sla), 1 if arguments.quick else 5))


if __name__ == "__main__":
    main()
