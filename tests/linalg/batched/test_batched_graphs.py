"""Property: a batched solve in a graph computes what the same solve without one computes."""

import pytest
import torch
from devices import DEVICES
from solver_pairs import CASES, DOUBLE, assert_same, failure_of, gradients, pair
from systems import dominant, sparse

from prdp_hpc import (
    Refinement,
    Solver,
    solve,
)
from prdp_hpc.linalg.batched import graphs

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("ksp", "pc"), [("cg", "jacobi"), ("bcgs", "chebyshev"), ("gmres", "none")]
)
def test_solves_that_are_alike_may_be_one_graph(ksp, pc, precision, device):
    """On a GPU the later ones are replayed, with the numbers of their own b and values."""
    matrix = dominant(15, True, density=0.3)
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver(f"batched_{ksp}", pc, 5, precision=precision)
    tolerance = 1e-9 if precision == "float64" else 1e-4
    for step in range(4):
        own = (1.0 + step) * values
        b = torch.randn(2, 15, **DOUBLE)
        found = gradients(operator, own.to(device), b.to(device), solver)
        fresh = Solver(f"batched_{ksp}", pc, 5)
        assert_same(found, gradients(operator, own, b, fresh), tolerance)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("pc", ["jacobi", "chebyshev"])
@pytest.mark.parametrize(("ksp", "symmetric"), [case for case in CASES if case[0] != "gmres"])
def test_graphs_do_the_same_iterations(ksp, symmetric, pc, precision, device, monkeypatch):
    """On the CPU the functions that a GPU captures run directly."""
    operator, values = sparse(dominant(40, symmetric, density=0.1), symmetric=symmetric)
    plain, graphed = (Solver(f"batched_{ksp}", pc, 3, precision=precision) for _ in range(2))
    results = {}
    for step, level in enumerate((3, 3, 3, 1e-3, 1e-9, Refinement(max_it=11, rtol=1e-12))):
        own, b = (1.0 + step) * values, torch.randn(3, 40, **DOUBLE)
        b[0] *= step != 1
        for name, solver in (("plain", plain), ("graphs", graphed)):
            monkeypatch.setattr(graphs, "is_captured", lambda *_, name=name: name == "graphs")
            solver.refine(level)
            results[name] = gradients(operator, own.to(device), b.to(device), solver)
        assert_same(results["graphs"], [one.cpu() for one in results["plain"]], 1e-13)
        assert plain.report.forward.iterations == graphed.report.forward.iterations


def test_failures_inside_of_a_graph(device, monkeypatch):
    monkeypatch.setattr(graphs, "is_captured", lambda *_: True)
    matrix = dominant(12, True)
    operator, values = sparse(matrix - 2.0 * torch.diag(matrix.diagonal()) * (torch.arange(12) % 2))
    b = torch.randn(1, 12, **DOUBLE)
    for level in (1e-10, 6, 6):
        theirs, ours = pair("cg", "jacobi", level)
        wanted = failure_of(lambda: solve(operator, values, b, theirs))  # noqa: B023
        for _ in range(2):
            found = failure_of(lambda: solve(operator, values.to(device), b.to(device), ours))  # noqa: B023
            assert found == wanted
