"""Eisenstat's preconditioner transforms the system of a solve: applied alone it crashes.

The crash needs rows with the same pattern, which PETSc stores as blocks.
"""

import pytest
import torch

from prdp_hpc import Refinement, Solver, SparseOperator, solve
from prdp_hpc.errors import InputError

MATRIX = torch.tensor([[3.0, -1.0], [-1.0, 3.0]], dtype=torch.float64)
B = torch.tensor([1.0, 2.0], dtype=torch.float64)


def solved(ksp, level, guess=None, pc="eisenstat", **settings):
    operator = SparseOperator([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    solver = Solver(ksp, pc, level, **settings)
    return solve(operator, MATRIX.flatten(), B, solver, guess)


@pytest.mark.parametrize("ksp", ["gmres", "cg", "minres", "richardson", "bcgs", "chebyshev"])
@pytest.mark.parametrize("level", [1e-8, Refinement(30, 1e-8), 40])
@pytest.mark.parametrize("size", [0.1, 1e-20])
def test_a_guess(ksp, level, size):
    x = solved(ksp, level, size * torch.tensor([1.0, -0.5], dtype=torch.float64))
    torch.testing.assert_close(MATRIX @ x, B, rtol=0, atol=1e-6)


def test_a_guess_within_the_tolerance_stays():
    guess = torch.linalg.solve(MATRIX, B) * (1 + 1e-10)
    assert solved("gmres", 1e-8, guess).equal(guess)


@pytest.mark.parametrize("ksp", ["gmres", "cg", "richardson", "bcgs", "steepest_descent"])
def test_unrolled_is_refused(ksp):
    with pytest.raises(InputError, match="works only inside of PETSc's solves"):
        solved(ksp, 5, differentiation="unrolled")


def test_a_part_of_a_composition_is_refused():
    options = {"pc_composite_pcs": "eisenstat,jacobi"}
    with pytest.raises(InputError, match="outside of a KSP"):
        solved("gmres", 1e-8, pc="composite", petsc_options=options)
