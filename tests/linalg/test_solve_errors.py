"""Property: errors state what is wrong, where, and what to do."""

import math

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Grid, SolveError, Solver, SparseOperator, solve

ONES = torch.ones(7, dtype=torch.float64)


def test_a_singular_matrix_with_lu():
    matrix = dominant()
    matrix[3] = matrix[2]
    matrix[:, 3] = matrix[:, 2]
    operator, values = sparse(matrix)
    solver = Solver("preonly", "lu")
    words = (
        r"forward solve with ksp='preonly', pc='lu' failed: "
        r"DIVERGED_PCSETUP_FAILED.*level rtol=1e-08.*singular"
    )
    for _ in range(2):  # the second time as the first
        with pytest.raises(SolveError, match=words):
            solve(operator, values, ONES, solver)


def test_a_row_without_diagonal_with_lu():
    matrix = dominant()
    matrix[3] = 0.0
    operator, values = sparse(matrix)
    with pytest.raises(SolveError, match=r"level max_it=3.*explicit zeros to the pattern"):
        solve(operator, values, ONES, Solver("gmres", "lu", 3))


@pytest.mark.parametrize(
    ("level", "reason"), [(1e-8, "DIVERGED_DTOL"), (5000, "DIVERGED_NANORINF")]
)
def test_a_diverging_richardson(level, reason):
    operator, values = sparse(dominant() - 3.0 * torch.diag(dominant().diagonal()))
    solver = Solver("richardson", "jacobi", level, petsc_options={"ksp_richardson_scale": -3.0})
    with pytest.raises(
        SolveError, match=rf"forward.*{reason} at iteration \d+, level .*; .*(try|look)"
    ) as caught:
        solve(operator, values, ONES, solver)
    assert caught.value.reason == reason
    assert caught.value.iteration > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("level", [3, 1e-8])
@pytest.mark.parametrize("ksp", ["gmres", "richardson", "bcgs"])
def test_bad_numbers_are_traced_to_where_they_came_in(ksp, level, bad):
    operator, values = sparse(dominant())
    solver = Solver(ksp, "jacobi", level)
    poisoned = values.clone()
    poisoned[4] = bad
    with pytest.raises(
        ValueError, match=r"matrix values hold NaN or infinity, first in entry 4 \(row"
    ):
        solve(operator, poisoned, ONES, solver)
    b = torch.ones(3, 7, dtype=torch.float64)
    b[1, 2] = bad
    with pytest.raises(SolveError, match=r"forward.*right-hand side holds NaN or infinity"):
        solve(operator, values, b, solver)
    good = torch.ones(3, 7, dtype=torch.float64, requires_grad=True)
    with pytest.raises(SolveError, match=r"adjoint.*incoming gradient holds NaN or infinity"):
        solve(operator, values, good, solver).backward(b)
    # and none of it stays behind
    solve(operator, values, good, solver).sum().backward()
    assert good.grad.isfinite().all()


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (
            torch.ones(6, dtype=torch.float64),
            r"b must have shape \(7,\) or \(B, 7\).*rows 0 to 6, not \(6,\)",
        ),
        (torch.ones(2, 2, 7, dtype=torch.float64), r"not \(2, 2, 7\)"),
        (torch.tensor(1.0), r"not \(\)"),
        (torch.ones(7, dtype=torch.int64), "real floating-point numbers, not torch.int64"),
        (
            torch.ones(7, dtype=torch.complex128),
            "real floating-point numbers, not torch.complex128",
        ),
        (None, "not NoneType"),
    ],
)
def test_wrong_right_hand_sides(b, message):
    operator, values = sparse(dominant())
    with pytest.raises(ValueError, match=message):
        solve(operator, values, b, Solver())


@pytest.mark.parametrize("before", [False, True])
def test_wrong_values_also_after_right_ones(before):
    operator, values = sparse(dominant())
    if before:
        solve(operator, values, ONES, Solver())
    for wrong in (None, values.tolist(), values[:-1], values[:, None], values.long(), values + 0j):
        with pytest.raises(ValueError, match=r"values must"):
            solve(operator, wrong, ONES, Solver())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Solver("gmress"), "no ksp named 'gmress': did you mean gmres"),
        (lambda: Solver("cg", "jacobbi"), "no pc named 'jacobbi': did you mean jacobi"),
        (lambda: Solver(refinement=0), "max_it"),
        (lambda: Solver(refinement="high"), "a level is"),
        (lambda: SparseOperator([0], [0, 1], (2, 2)), "same length"),
        (lambda: SparseOperator([0, 2], [0, 1], (2, 2)), "must lie in 0 … 1"),
        (lambda: SparseOperator([0, -1], [0, 1], (2, 2)), "must lie in 0 … 1"),
        (lambda: SparseOperator([0.5], [0], (2, 2)), "integers"),
        (lambda: SparseOperator([0], [0], (2, 3)), "square"),
        (
            lambda: SparseOperator([0], [0], (2, 2), grid=Grid((3,), comm=MPI.COMM_SELF)),
            "2 rows, but its grid has 3 points",
        ),
    ],
)
def test_mistakes_when_something_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (Solver("cg", "mg"), "pc='mg' makes its hierarchy from a grid.*use pc='gamg'"),
        (Solver("lgmres", "ksp", petsc_options={"ksp_ksp_type": "gmress"}), "gmress"),
        (Solver(petsc_options={"ksp_gmres_restart": "many"}), "petsc_options=.*no integer value"),
        (
            Solver(petsc_options={"ksp_gmres_restrat": 5}),
            "'ksp_gmres_restrat' has no effect in ksp='gmres'",
        ),
        (
            Solver("cg", petsc_options={"-ksp_gmres_restart": 5}),
            "'-ksp_gmres_restart' has no effect in ksp='cg'",
        ),
    ],
)
def test_mistakes_that_show_with_the_first_operator(solver, message):
    operator, values = sparse(dominant(symmetric=True))
    with pytest.raises(ValueError, match=message):
        solve(operator, values, ONES, solver)


def test_a_preconditioner_without_transposed_application():
    operator, values = sparse(dominant())
    b = ONES.clone().requires_grad_()
    x = solve(operator, values, b, Solver("gmres", "sor"))
    with pytest.raises(
        SolveError,
        match=r"adjoint.*no transposed application: choose another pc.*mark the operator symmetric",
    ):
        x.sum().backward()


def test_a_method_for_positive_definite_matrices_says_that_it_needs_one():
    indefinite = torch.diag(
        torch.tensor([3.0, -1.0, 2.0, -2.0, 1.0, 4.0, -5.0], dtype=torch.float64)
    )
    operator, values = sparse(indefinite, symmetric=True)
    with pytest.raises(SolveError, match=r"DIVERGED_INDEFINITE_MAT.*positive definite"):
        solve(operator, values, ONES, Solver("cg", "none"))
