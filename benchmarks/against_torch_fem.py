"""Compare the finite element bars with torch-fem: forward and gradient on 2 cores, to a relative
residual of 1e-10.

    python benchmarks/against_torch_fem.py [--quick] [--repetitions 3] [--problem heat]
        [--torch-fem-python PATH]

torch-fem is an optional dependency (`pip install -e '.[benchmarks]'`); PATH is the interpreter of
another environment with it. The problems are those of `bar.py`; the gradient is that of the
compliance with respect to the densities. Every measurement is a new process, and the two packages
alternate. torch-fem uses its default (CG with algebraic multigrid) and, for heat if pypardiso is
installed, its direct solver, both on 2 threads. Build is all work that does not need the densities;
forward is the computation of the compliance from the densities, including set-ups. Targets against
the faster setting of torch-fem: 8 times faster forward, 4 times faster gradient, no more memory.
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

from benchmarks.bar import POISSON_RATIO, Bar
from benchmarks.side_by_side import Results, measure, peak_mib, start_autograd, under_mpiexec

TOLERANCE = 1e-10
FORWARD_TARGET, GRADIENT_TARGET = 8.0, 4.0
DOFS = {"heat": 1, "elasticity": 3}
SIZES = {"heat": (256, 512, 1024), "elasticity": (16, 32, 48)}
# The best options according to benchmarks/gamg_options.py; "ours, defaults" has none of them.
TUNED = {
    "heat": {"pc_gamg_threshold": 0.02},
    "elasticity": {"pc_gamg_threshold": 0.02},
}


def stiffness(density: Any) -> Any:
    """Stiffness of an empty cell relative to that of the material."""
    return 1e-3 + (1.0 - 1e-3) * density**3


def ours(problem: str, nx: int, is_tuned: bool) -> None:
    """One measurement of prdp-hpc, under mpiexec; rank 0 prints it."""
    import torch
    from mpi4py import MPI

    from prdp_hpc import ElementOperator, Refinement, Solver, solve

    comm, bar = MPI.COMM_WORLD, Bar(nx, DOFS[problem])
    torch.set_num_threads(1)
    start_autograd()
    comm.barrier()
    start = time.perf_counter()
    layers = slice(nx * comm.rank // comm.size, nx * (comm.rank + 1) // comm.size)
    n_local = _unknowns_of(bar, layers)
    nodes = bar.nodes()[_nodes_of(bar, layers)]
    near = {} if bar.dofs == 1 else {"block_size": 3, "coordinates": nodes}
    operator = ElementOperator(
        bar.unknowns(bar.cells(layers)),
        bar.size,
        comm,
        dirichlet=bar.unknowns(bar.held()) if comm.rank == 0 else [],
        symmetric=True,
        n_local=n_local,
        **near,
    )
    options = {"ksp_norm_type": "unpreconditioned", **(TUNED[problem] if is_tuned else {})}
    solver = Solver("cg", "gamg", Refinement(rtol=TOLERANCE), petsc_options=options)
    material = torch.from_numpy(bar.element_matrix())
    load = torch.from_numpy(bar.load().reshape(-1)[slice(*operator.row_range)])
    density = torch.from_numpy(bar.densities().reshape(nx, -1)[layers].reshape(-1))
    density.requires_grad_()
    comm.barrier()
    built = time.perf_counter()
    u = solve(operator, stiffness(density)[:, None, None] * material, load, solver)
    compliance = u @ load
    comm.barrier()
    forward = time.perf_counter()
    compliance.backward()
    comm.barrier()
    end = time.perf_counter()
    matrix = operator.matrix
    solution, right = matrix.createVecs()
    solution.setArray(u.detach().numpy())
    right.setArray(load.numpy())
    residual = right.duplicate()
    matrix.mult(solution, residual)
    residual.axpy(-1.0, right)
    content = {
        "build": built - start,
        "forward": forward - built,
        "gradient": end - forward,
        "compliance": comm.allreduce(compliance.item()),
        "slope": comm.allreduce(float(density.grad.sum())),
        "residual": residual.norm() / right.norm(),
        "iterations": solver.report.forward.iterations,
        "set_up": solver.report.forward.set_up_seconds,
        "peak_mib": comm.allreduce(peak_mib()),
    }
    if comm.rank == 0:
        print(json.dumps(content))


def _nodes_of(bar: Bar, layers: slice) -> slice:
    """The nodes of layers of cells; the last layer includes the nodes at the end."""
    per_layer = bar.numbers[0].size
    stop = layers.stop + (layers.stop == bar.nx)
    return slice(layers.start * per_layer, stop * per_layer)


def _unknowns_of(bar: Bar, layers: slice) -> int:
    nodes = _nodes_of(bar, layers)
    return (nodes.stop - nodes.start) * bar.dofs


def theirs(problem: str, nx: int, method: str) -> None:
    """One measurement of torch-fem."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    from torchfem import Solid, SolidHeat
    from torchfem.materials import IsotropicConductivity3D, IsotropicElasticity3D

    start_autograd()
    bar = Bar(nx, DOFS[problem])
    start = time.perf_counter()
    nodes, cells = torch.from_numpy(bar.nodes()), torch.from_numpy(bar.cells())
    load = torch.from_numpy(bar.load())
    held = torch.zeros(load.shape, dtype=torch.bool)
    held[torch.from_numpy(bar.held())] = True
    density = torch.from_numpy(bar.densities()).requires_grad_()
    factor = stiffness(density)
    if problem == "heat":
        model: Any = SolidHeat(nodes, cells, IsotropicConductivity3D(factor))
        model.heat_flux, model.temperatures = load, torch.zeros_like(load)
    else:
        model = Solid(nodes, cells, IsotropicElasticity3D(factor, POISSON_RATIO))
        model.forces, model.displacements = load, torch.zeros_like(load)
    model.constraints = held
    built = time.perf_counter()
    u, *_ = model.solve(
        increments=torch.tensor([0.0, 1.0]),
        stol=TOLERANCE,
        method=None if method == "default" else method,
        differentiable_parameters=density,
    )
    compliance = (u * load).sum()
    forward = time.perf_counter()
    compliance.backward()
    end = time.perf_counter()
    assert density.grad is not None
    content = {
        "build": built - start,
        "forward": forward - built,
        "gradient": end - forward,
        "compliance": compliance.item(),
        "slope": float(density.grad.sum()),
        "peak_mib": peak_mib(),
    }
    print(json.dumps(content))


def commands(problem: str, nx: int, fem_python: str | None) -> dict[str, list[str]]:
    """The command line of each package and setting."""
    here, case = str(Path(__file__).resolve()), [problem, str(nx)]
    found = {
        f"prdp-hpc, {name}, {ranks} rank{'s' * (ranks > 1)}": under_mpiexec(
            ranks, here, "--ours", *case, name
        )
        for ranks in (1, 2)
        for name in ("defaults", "tuned")
    }
    if fem_python is not None:
        methods = ("default", "direct") if problem == "heat" else ("default",)
        found |= {
            f"torch-fem, {method}": [fem_python, here, "--theirs", *case, method]
            for method in methods
        }
    return found


def ratios(results: Results) -> dict[str, dict[str, float]]:
    """The ratio to the faster setting of torch-fem; different compliances are an error."""
    others = {name: r for name, r in results.items() if name.startswith("torch-fem")}
    if not others:
        return {}
    best = min(others, key=lambda name: others[name]["forward"] + others[name]["gradient"])
    found = {}
    for name, r in results.items():
        if name not in others:
            difference = abs(r["compliance"] / others[best]["compliance"] - 1.0)
            assert difference < 1e-7, f"{name}: compliances differ by {difference:.1e}"
            found[name] = {
                "against": best,
                "forward": others[best]["forward"] / r["forward"],
                "gradient": others[best]["gradient"] / r["gradient"],
                "memory": r["peak_mib"] / others[best]["peak_mib"],
            }
    return found


def report(problem: str, nx: int, results: Results) -> dict[str, Any]:
    """Print the table and the ratios; return the entries for the JSON file."""
    from benchmarks.common import table

    headers = ["", "build s", "forward s", "of it set-up", "gradient s", "iterations", "peak MiB"]
    rows = [
        [
            name,
            *(f"{r[key]:.2f}" if key in r else "" for key in ("build", "forward", "set_up")),
            f"{r['gradient']:.2f}",
            f"{r['iterations']:.0f}" if "iterations" in r else "",
            f"{r['peak_mib']:,.0f}",
        ]
        for name, r in results.items()
    ]
    print(f"\n{problem}, nx = {nx}, {Bar(nx, DOFS[problem]).size:,} unknowns")
    print(table(headers, rows))
    against = ratios(results)
    for name, ratio in against.items():
        print(
            f"{name} against {ratio['against']}: forward {ratio['forward']:.1f} times faster "
            f"(target {FORWARD_TARGET:g}), gradient {ratio['gradient']:.1f} (target "
            f"{GRADIENT_TARGET:g}), {ratio['memory']:.2f} of its memory (target 1)"
        )
    return {"problem": problem, "nx": nx, "results": results, "ratios": against}


def main() -> None:
    """Measure, print and write; or perform one measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once each")
    parser.add_argument("--repetitions", type=int, default=3, help="of each; default: 3")
    parser.add_argument("--problem", choices=sorted(DOFS), help="one of the two; default: both")
    parser.add_argument("--torch-fem-python", metavar="PATH", help="interpreter that has torch-fem")
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--theirs", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        problem, nx, options = arguments.ours
        ours(problem, int(nx), options == "tuned")
    elif arguments.theirs:
        problem, nx, method = arguments.theirs
        theirs(problem, int(nx), method)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """All problems and sizes."""
    from benchmarks.common import save

    has_it = importlib.util.find_spec("torchfem") is not None
    fem = arguments.torch_fem_python or (sys.executable if has_it else None)
    if fem is None:
        print(
            "torch-fem is not installed: pip install -e '.[benchmarks]', or give --torch-fem-python"
        )
    cases = [
        (problem, nx)
        for problem in ([arguments.problem] if arguments.problem else DOFS)
        for nx in (SIZES[problem][:1] if arguments.quick else SIZES[problem])
    ]
    repetitions = 1 if arguments.quick else arguments.repetitions
    content = [
        report(problem, nx, measure(commands(problem, nx, fem), repetitions))
        for problem, nx in cases
    ]
    save("against_torch_fem", {"cases": content})


if __name__ == "__main__":
    main()
