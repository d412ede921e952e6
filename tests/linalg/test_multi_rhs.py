"""Property: a batch that is solved at once is, to the last bit, what its systems are one by one."""

import pytest
import torch
from systems import dominant, sparse

from prdp_hpc import Solver, solve
from prdp_hpc.linalg import multi_rhs


@pytest.fixture
def solves(monkeypatch):
    """How many batches were put together."""
    seen = []
    ours = multi_rhs.MultiRhsRichardson.solve
    monkeypatch.setattr(
        multi_rhs.MultiRhsRichardson,
        "solve",
        lambda self, b, *rest: seen.append(len(b)) or ours(self, b, *rest),
    )
    return seen


def one_by_one(operator, values, b, solver):
    return torch.stack([solve(operator, values, right, solver) for right in b])


@pytest.mark.parametrize("pc", ["jacobi", "none"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("k", [1, 7])
def test_solutions_and_gradients_are_those_of_each_system_alone(k, symmetric, pc, solves):
    operator, values = sparse(dominant(20, symmetric=symmetric) / 40, symmetric=symmetric)
    weights = torch.randn(5, 20, dtype=torch.float64)
    results = []
    for way in (solve, one_by_one):
        solver = Solver("richardson", pc, k, adjoint=k + 1)
        inputs = values.clone().requires_grad_(), weights.flip(0).clone().requires_grad_()
        x = way(operator, *inputs, solver)
        (x * weights).sum().backward()
        results.append((x, *(one.grad for one in inputs)))
        report = solver.report
        assert (report.forward.solves, report.forward.iterations, report.adjoint.iterations) == (
            5,
            5 * k,
            5 * (k + 1),
        )
    for together, alone in zip(*results, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    assert solves == [5, 5]


def test_new_values_and_other_batch_sizes(solves):
    operator, values = sparse(dominant(12))
    solver = Solver("richardson", "jacobi", 6)
    for count in (2, 3, 4, 5, 6, 2):
        for scale in (1.0, 2.0):
            changed = values * scale + torch.arange(len(values)) * 1e-3
            b = torch.randn(count, 12, dtype=torch.float64)
            expected = one_by_one(operator, changed, b, solver)
            torch.testing.assert_close(
                solve(operator, changed, b, solver), expected, rtol=0, atol=0
            )
    assert len(solves) == 12


@pytest.mark.parametrize(
    "solver",
    [
        Solver("richardson", "jacobi", 1e-6),
        Solver("richardson", "sor", 5),
        Solver("cg", "jacobi", 5),
        Solver("richardson", "jacobi", 5, petsc_options={"ksp_richardson_self_scale": True}),
        Solver("richardson", "jacobi", 5, petsc_options={"pc_jacobi_type": "rowsum"}),
    ],
    ids=repr,
)
def test_methods_that_are_others_for_a_batch_are_left_alone(solver, solves):
    operator, values = sparse(dominant(12, symmetric=True), symmetric=True)
    b = torch.randn(3, 12, dtype=torch.float64)
    torch.testing.assert_close(
        solve(operator, values, b, solver), one_by_one(operator, values, b, solver), rtol=0, atol=0
    )
    assert not solves


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_right_hand_side_is_blamed(bad):
    operator, values = sparse(dominant(12))
    b = torch.ones(3, 12, dtype=torch.float64)
    b[1, 4] = bad
    with pytest.raises(Exception, match="NaN or infinity"):
        solve(operator, values, b, Solver("richardson", "jacobi", 3))
