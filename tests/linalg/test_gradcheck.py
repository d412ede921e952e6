"""Property: the gradients are the derivatives, for every pair of method and preconditioner."""

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Grid, Poisson, Solver, solve

PAIRS = [
    ("gmres", "jacobi"),
    ("gmres", "ilu"),
    ("gmres", "none"),
    ("bcgs", "bjacobi"),
    ("bicg", "jacobi"),
    ("richardson", "jacobi"),
    ("richardson", "asm"),
    ("preonly", "lu"),
    ("preonly", "redundant"),
    ("gmres", "gamg"),
    ("fgmres", "ilu"),
]
SYMMETRIC_PAIRS = [
    ("cg", "jacobi"),
    ("cg", "gamg"),
    ("cg", "none"),
    ("cg", "icc"),
    ("minres", "jacobi"),
    ("chebyshev", "jacobi"),
    ("gmres", "sor"),
]


@pytest.mark.parametrize(
    ("ksp", "pc", "symmetric"),
    [(*p, False) for p in PAIRS] + [(*p, True) for p in PAIRS[:4] + SYMMETRIC_PAIRS],
)
def test_gradients_are_derivatives(ksp, pc, symmetric):
    matrix = dominant(5, symmetric)
    operator, values = sparse(matrix, symmetric=symmetric)
    if symmetric:
        # Only changes that keep the symmetry are allowed: entry (i, j) and entry (j, i) come from
        # one parameter.
        rows, cols = matrix.nonzero(as_tuple=True)
        pairs = torch.stack([torch.minimum(rows, cols), torch.maximum(rows, cols)])
        _, index = torch.unique(pairs, dim=1, return_inverse=True)
        parameters = torch.zeros(int(index.max()) + 1, dtype=torch.float64)
        parameters[index] = values
    else:
        index, parameters = torch.arange(values.numel()), values
    solver = Solver(ksp, pc, 1e-12)
    b = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda p, right: solve(operator, p[index], right, solver),
        (parameters.requires_grad_(), b),
        eps=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_gradients_are_derivatives_with_multigrid_and_nullspace(boundary):
    grid = Grid((4, 4), boundary, comm=MPI.COMM_SELF)
    kappa = (1.0 + torch.rand(4, 4, dtype=torch.float64)).requires_grad_()
    source = torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True)
    poisson = Poisson(grid, Solver("cg", "mg", 1e-12))

    def run(k, f):
        poisson.diffusivity = k
        return poisson(f)

    assert torch.autograd.gradcheck(run, (kappa, source), eps=1e-6, atol=1e-6)
