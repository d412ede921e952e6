"""Property: what is known of a singular matrix's nullspace keeps solutions, and iterates,
orthogonal to it.
"""

import numpy as np
import pytest
import torch
from mpi4py import MPI
from systems import dominant

from prdp_hpc import Grid, Poisson, Solver, SparseOperator, solve

N = 8
FULL = np.indices((N, N)).reshape(2, -1)


def singular(seed=0):
    """A matrix with `A z = 0` and `Aᵀ z = 0`, and z."""
    z = torch.randn(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    projection = torch.eye(N, dtype=torch.float64) - torch.outer(z, z) / z.dot(z)
    return projection @ dominant(N, density=1.0, seed=seed) @ projection, z


# fgmres always preconditions from the right, gmres does so in the adjoint solve.
@pytest.mark.parametrize(
    ("ksp", "pc"),
    [("gmres", "none"), ("gmres", "jacobi"), ("fgmres", "jacobi"), ("bcgs", "jacobi")],
)
@pytest.mark.parametrize("count", [None, 2])
def test_the_solution_and_the_adjoint_are_orthogonal_to_the_nullspace(ksp, pc, count):
    matrix, z = singular()
    operator = SparseOperator(*FULL, (N, N), MPI.COMM_SELF, nullspace=z.numpy())
    values = (
        matrix.flatten()
        if count is None
        else torch.stack([matrix.flatten() * (m + 1) for m in range(count)])
    )
    rows = torch.randn(2, N, dtype=torch.float64) @ matrix  # in the range of A and of its transpose
    b, grad = rows.clone().requires_grad_(), torch.randn(2, N, dtype=torch.float64) @ matrix
    x = solve(operator, values, b, Solver(ksp, pc, 1e-13))
    x.backward(grad)
    inverse = torch.linalg.pinv(matrix, rtol=1e-10)
    scale = torch.ones(2, 1) if count is None else torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(x.detach() * scale, rows @ inverse.T, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(b.grad * scale, grad @ inverse, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("pc", ["none", "jacobi"])
def test_a_right_hand_side_out_of_range_is_solved_as_its_projection(pc):
    matrix, z = singular(1)
    operator = SparseOperator(*FULL, (N, N), MPI.COMM_SELF, nullspace=z.numpy())
    b = torch.randn(2, N, dtype=torch.float64, requires_grad=True)
    solver = Solver("gmres", pc, 1e-13)
    x = solve(operator, matrix.flatten(), b, solver)
    torch.testing.assert_close(
        x.detach(), b.detach() @ torch.linalg.pinv(matrix, rtol=1e-10).T, rtol=1e-8, atol=1e-9
    )
    assert torch.autograd.gradcheck(
        lambda right: solve(operator, matrix.flatten(), right, solver), (b,)
    )


@pytest.mark.parametrize(
    ("ksp", "pc"),
    [("gmres", "none"), ("gmres", "jacobi"), ("fgmres", "jacobi"), ("bcgs", "jacobi")],
)
@pytest.mark.parametrize("k", [1, 3])
def test_k_iterations_are_orthogonal_to_the_nullspace(ksp, pc, k):
    matrix, z = singular(2)
    operator = SparseOperator(*FULL, (N, N), MPI.COMM_SELF, nullspace=z.numpy())
    b = torch.randn(2, N, dtype=torch.float64, requires_grad=True)
    x = solve(operator, matrix.flatten(), b, Solver(ksp, pc, k))
    x.backward(torch.randn(2, N, dtype=torch.float64))
    assert (x.detach() @ z).abs().max() < 1e-13
    assert (b.grad @ z).abs().max() < 1e-13


# If the nullspace is not declared, each iteration changes the solution's mean because of the
# source's mean.
@pytest.mark.parametrize(
    ("ksp", "pc"), [("richardson", "jacobi"), ("gmres", "none"), ("gmres", "jacobi")]
)
def test_k_iterations_of_a_periodic_problem_drift_only_without_the_nullspace(ksp, pc):
    grid = Grid((8, 8), "periodic", comm=MPI.COMM_SELF)
    source = torch.randn(1, 8, 8, dtype=torch.float64)
    source += 0.1 - source.mean()
    poisson = Poisson(grid, Solver(ksp, pc))
    stencil = poisson.operator
    rows, cols, *_ = stencil.coo_pattern()
    unaware = SparseOperator(rows, cols, (64, 64), MPI.COMM_SELF, symmetric=True, grid=grid)
    drifts = []
    for k in (5, 10, 20):
        solver = Solver(ksp, pc, k)
        poisson.solver = solver
        assert poisson(source).mean().abs() < 1e-14
        drifts.append(solve(unaware, poisson.values(), source.flatten(1), solver).mean().item())
    assert min(map(abs, drifts)) > 1e-5
    if ksp == "richardson":
        assert drifts[1] / drifts[0] == pytest.approx(2.0, rel=1e-6)
        assert drifts[2] / drifts[0] == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"nullspace": np.ones(N - 1)},
            r"nullspace must have one number per row of this rank, shape \(8,\).*not \(7,\)",
        ),
        ({"nullspace": np.ones((2, N + 1))}, r"\(k, 8\), not \(2, 9\)"),
        ({"nullspace": np.zeros(N)}, "finite, and not zero"),
        ({"nullspace": np.full(N, np.nan)}, "finite, and not zero"),
        ({"nullspace": np.ones(N), "constant_nullspace": True}, "pass one of them"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        SparseOperator(*FULL, (N, N), MPI.COMM_SELF, **options)
