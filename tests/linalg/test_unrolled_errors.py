"""Reliability: unsupported features and failures of unrolled solves are errors, as in PETSc."""

import pytest
import torch
from systems import dominant, sparse

from prdp_hpc import SolveError, Solver, solve

DOUBLE = {"dtype": torch.float64}


def unrolled(ksp, pc, level, **options):
    return Solver(ksp, pc, level, petsc_options=options, differentiation="unrolled")


@pytest.mark.parametrize("ksp", ["gmres", "bcgs", "richardson"])
def test_nan_is_blamed_on_where_it_came_in(ksp):
    operator, values = sparse(dominant(8))
    bad = torch.full((8,), torch.nan, **DOUBLE)
    for level in (3, 1e-6):
        with pytest.raises(SolveError, match="right-hand side holds NaN"):
            solve(operator, values, bad, unrolled(ksp, "jacobi", level))
        x = solve(
            operator,
            values,
            torch.ones(8, **DOUBLE, requires_grad=True),
            unrolled(ksp, "jacobi", level),
        )
        with pytest.raises(SolveError, match="incoming gradient holds NaN"):
            x.backward(bad)


def test_divergence_and_breakdown_are_errors_as_with_petsc():
    grows = dominant(6, symmetric=True)
    indefinite = torch.diag(torch.tensor([1.0, -2.0, 3.0, -4.0], **DOUBLE))
    slow = torch.diag(torch.tensor([1.0, 1e-7], **DOUBLE))
    cases = [
        (grows, "richardson", 1e-8, "DIVERGED_DTOL"),
        (indefinite, "cg", 3, "DIVERGED_INDEFINITE_MAT"),
        (indefinite, "cg", 1e-8, "DIVERGED_INDEFINITE_MAT"),
        (slow, "richardson", 1e-8, "DIVERGED_MAX_IT"),
    ]
    for matrix, ksp, level, reason in cases:
        operator, values = sparse(matrix, symmetric=True)
        for differentiation in ("implicit", "unrolled"):
            solver = Solver(ksp, "none", level, differentiation=differentiation)
            with pytest.raises(SolveError, match=reason):
                solve(operator, values, torch.ones(len(matrix), **DOUBLE), solver)


@pytest.mark.parametrize("seed", range(5))
def test_a_breakdown_hidden_by_rounding_is_an_error(seed):
    """From b = e₁ the second residual of BiCGStab is orthogonal to the first one, if the first row
    has a diagonal entry only. Its iterates may converge, and their derivatives were 1e29.
    """
    matrix = dominant(4, density=1.0, seed=seed)
    matrix[0, 1:] = 0.0
    operator, values = sparse(matrix)
    b = torch.tensor([1.0, 0.0, 0.0, 0.0], **DOUBLE, requires_grad=True)
    for level in (2, 4, 1e-13):
        with pytest.raises(SolveError, match="DIVERGED_BREAKDOWN"):
            solve(operator, values, b, unrolled("bcgs", "none", level))


def test_mistakes():
    operator, values = sparse(dominant(4))
    b = torch.ones(4, **DOUBLE)
    with pytest.raises(ValueError, match="unrolled"):
        Solver(differentiation="unroled")
    with pytest.raises(ValueError, match=r"richardson, steepest_descent, cg, gmres, bcgs.*minres"):
        Solver("minres", "jacobi", 2, differentiation="unrolled")
    late = Solver("minres", "jacobi", 2)
    late.differentiation = "unrolled"
    with pytest.raises(ValueError, match="minres"):
        solve(operator, values, b, late)
    with pytest.raises(ValueError, match=r"'ilu'.*implicit"):
        solve(operator, values.clone().requires_grad_(), b, unrolled("gmres", "ilu", 2))
    with pytest.raises(ValueError, match="'ksp'"):
        unrolled("gmres", "ksp", 2)
    with pytest.raises(ValueError, match="self_scale"):
        solve(
            operator, values, b, unrolled("richardson", "jacobi", 2, ksp_richardson_self_scale=True)
        )
    with pytest.raises(ValueError, match="ksp_norm_type"):
        solve(operator, values, b, unrolled("cg", "jacobi", 1e-3, ksp_norm_type="unpreconditioned"))
    rowmax = unrolled("richardson", "jacobi", 2, pc_jacobi_type="rowmax")
    wanted = solve(
        operator,
        values,
        b,
        Solver("richardson", "jacobi", 2, petsc_options={"pc_jacobi_type": "rowmax"}),
    )
    torch.testing.assert_close(solve(operator, values, b, rowmax), wanted, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="pc_jacobi_type"):
        solve(operator, values.clone().requires_grad_(), b, rowmax)
