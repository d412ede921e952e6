"""Property: Newton's root does not depend on the units of the residual."""

import pytest
import torch
from mpi4py import MPI
from nonlinear_systems import N, jacobian, parameters, residual

from prdp_hpc import NonlinearSolver, Solver, solve_nonlinear

METHODS = [("gmres", "lu"), ("gmres", "svd"), ("gmres", "gamg"), ("gmres", "ilu")]


def root_and_gradient(size, method):
    a, c, s = parameters()

    def scaled(u, a, others):
        return size * residual(u, a, others)

    solver = NonlinearSolver(Solver(*method, 1e-12), 1e-10)
    own = jacobian("coloured", MPI.COMM_SELF)
    start = torch.zeros(N, dtype=torch.float64)
    u = solve_nonlinear(
        scaled, start, (a, {"c": c, "s": [s]}), solver, jacobian=own, comm=MPI.COMM_SELF
    )
    return u.detach(), torch.autograd.grad(u.sum(), c)[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-9, 1e-14, 1e-30])
def test_small_residuals(method, size):
    for found, right in zip(
        root_and_gradient(size, method), root_and_gradient(1.0, method), strict=True
    ):
        torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-9)
