"""Operators of any kind with values of any size: the solution, or an error."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    AssembledOperator,
    ElementOperator,
    FunctionOperator,
    SolveError,
    Solver,
    SparseOperator,
    solve,
)
from prdp_hpc.petsc import PETSc

KSPS = ("chebyshev", "cg", "gmres", "bcgs", "minres", "steepest_descent", "richardson")
PCS = ("none", "jacobi", "sor", "bjacobi", "gamg")
N = 5


def matrix():
    draw = np.random.default_rng(7)
    A = draw.normal(size=(N, N))
    return A @ A.T / N + 3.0 * np.eye(N)


def by_function(A):
    whole = torch.from_numpy(A)
    return FunctionOperator(
        lambda s, x: s * (whole @ x),
        N,
        MPI.COMM_SELF,
        diagonal=lambda s: s * whole.diagonal(),
        symmetric=True,
    ), torch.ones((), dtype=torch.float64)


def by_elements(A):
    operator = ElementOperator(np.arange(N)[None], N, MPI.COMM_SELF, symmetric=True)
    return operator, torch.from_numpy(A[None].copy())


def assembled(A):
    def assemble(_, own):
        own.setValues(range(N), range(N), A)
        own.assemble()

    made = PETSc.Mat().createAIJ((N, N), nnz=N, comm=MPI.COMM_SELF)
    return AssembledOperator(made, assemble, symmetric=True), None


def by_entries(A):
    rows, cols = np.indices(A.shape).reshape(2, -1)
    operator = SparseOperator(rows, cols, A.shape, MPI.COMM_SELF, symmetric=True)
    return operator, torch.from_numpy(A.ravel().copy())


@pytest.mark.parametrize("make", [by_function, by_elements, assembled, by_entries])
@pytest.mark.parametrize("level", [1, 3, 1e-12])
def test_solves_are_homogeneous_in_operators_of_every_kind_or_refused(make, level):
    A, b, reached = matrix(), torch.arange(1.0, N + 1.0, dtype=torch.float64), []
    for ksp in KSPS:
        for pc in PCS[:2] if make is by_function else PCS:
            if (ksp, pc) == ("richardson", "none"):
                continue  # It depends on the units of the matrix.
            if pc == "gamg" and make is not by_entries:
                continue  # It shifts small pivots of its coarsest grid, which cannot be scaled.
            try:
                expected = solve(*make(A), b, Solver(ksp, pc, level))
            except SolveError:
                continue
            for power in (-490, -190, -120, 120, 190, 490):
                size = 2.0**power
                try:
                    found = solve(*make(size * A), b, Solver(ksp, pc, level))
                except SolveError:
                    continue
                reached.append((ksp, pc))
                torch.testing.assert_close(
                    size * found, expected, rtol=1e-10, atol=1e-11, msg=f"{ksp} {pc} {power}"
                )
    assert len(set(reached)) > (8 if make is by_function else 20)


@pytest.mark.parametrize("ksp", ["pipegcr", "pgmres", "pipefgmres", "pipefcg", "minres"])
def test_methods_with_absolute_numbers_refuse_functions_of_other_sizes(ksp):
    A, b = matrix(), torch.arange(1.0, N + 1.0, dtype=torch.float64)
    solver = Solver(ksp, "none", 3)
    expected = solve(*by_function(A), b, solver)
    refused = 0
    for power in (-500, -490, -66, -12, 0, 500):
        try:
            found = solve(*by_function(2.0**power * A), b, solver)
        except SolveError:
            refused += 1
            continue
        torch.testing.assert_close(2.0**power * found, expected, rtol=1e-10, atol=1e-11)
    assert 0 < refused < 6
