"""Property: K iterations of richardson + jacobi are the paper's K Jacobi sweeps from zero."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Poisson, Solver


def laplacian(u, h):
    """Second differences with zeros beyond both ends of each axis."""
    total = np.zeros_like(u)
    for axis in range(u.ndim):
        widths = [(1, 1) if d == axis else (0, 0) for d in range(u.ndim)]
        padded = np.moveaxis(np.pad(u, widths), axis, 0)
        total += np.moveaxis(padded[2:] - 2 * padded[1:-1] + padded[:-2], 0, axis) / h**2
    return total


def jacobi(apply, diagonal, b, k):
    u = np.zeros_like(b)
    for _ in range(k):
        u = u + (b - apply(u)) / diagonal
    return u


@pytest.mark.parametrize("k", [1, 2, 7, 60])
@pytest.mark.parametrize("dim", [1, 2])
def test_heat(dim, k):
    u = torch.randn((30,) * dim, dtype=torch.float64)
    h, nu_dt = 1 / 31, 1e-3
    sweeps = jacobi(lambda v: v - nu_dt * laplacian(v, h), 1 + 2 * dim * nu_dt / h**2, u.numpy(), k)
    heat = Heat(Grid((30,) * dim, comm=MPI.COMM_SELF), 1e-3, 1.0, Solver("richardson", "jacobi", k))
    np.testing.assert_allclose(heat(u), sweeps, rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", [1, 25, 600])
def test_poisson_of_the_inverse_problem(k):
    grid = Grid((30,), comm=MPI.COMM_SELF)
    (x,) = grid.coordinates()
    source = 5.0 * torch.sin(2 * torch.pi * x)
    h = 1 / 31
    sweeps = jacobi(lambda v: -laplacian(v, h), 2 / h**2, source.numpy(), k)
    u = Poisson(grid, Solver("richardson", "jacobi", k))(source)
    np.testing.assert_allclose(u, sweeps, rtol=0, atol=1e-13)


def test_the_adjoint_is_k_sweeps_from_zero_too():
    grid, k = Grid((30,), comm=MPI.COMM_SELF), 4
    u = torch.randn(30, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(30, dtype=torch.float64)
    h, nu_dt = 1 / 31, 1e-3
    Heat(grid, 1e-3, 1.0, Solver("richardson", "jacobi", k))(u).backward(grad)
    sweeps = jacobi(lambda v: v - nu_dt * laplacian(v, h), 1 + 2 * nu_dt / h**2, grad.numpy(), k)
    np.testing.assert_allclose(u.grad, sweeps, rtol=0, atol=1e-13)
