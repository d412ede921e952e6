"""Nonlinear systems with their Jacobians, for tests."""

import pytest
import torch

from prdp_hpc import ColouredJacobian, SparseOperator

N = 6
KINDS = ["torch", "coloured", "values"]


def residual(u, a, more):
    """A ring-coupled system, not symmetric: row i depends on u_i and u_{i+1}."""
    return 3.0 * u + a * torch.roll(u, -1) ** 3 + torch.exp(-more["c"] * u) - 2.0 - more["s"][0]


def jacobian_values(u, a, more):
    """The diagonal of the ring, then its off-diagonal."""
    off = 3.0 * a * torch.roll(u, -1) ** 2
    return torch.cat([3.0 - more["c"] * torch.exp(-more["c"] * u), off])


def pattern():
    rows = torch.arange(N).repeat(2)
    cols = torch.cat([torch.arange(N), (torch.arange(N) + 1) % N])
    return rows.numpy(), cols.numpy()


def jacobian(kind, comm):
    """A Jacobian in one of the three forms that `solve_nonlinear` supports."""
    if kind == "torch":
        return None
    rows, cols = pattern()
    if kind == "coloured":
        return ColouredJacobian(rows, cols, N, comm)
    return SparseOperator(rows, cols, (N, N), comm), jacobian_values


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, s = torch.rand(2, N, generator=generator, dtype=torch.float64)
    c = torch.tensor(0.4, dtype=torch.float64)
    return [p.clone().requires_grad_() for p in (a, c, s)]


def dense_newton(function, u, steps=60):
    """The solution by dense algebra."""
    for _ in range(steps):
        matrix = torch.autograd.functional.jacobian(function, u)
        u = u - torch.linalg.solve(matrix, function(u))
    return u


def flux_divergence(grid, u, conductivity):
    """`∇·(κ(u) ∇u)` with the mean of κ at the faces, and 0 beyond the boundaries."""
    padded = grid.halo(u)
    kappa, total = conductivity(padded), 0.0
    for axis in range(grid.dim):
        line = (..., *(slice(None) if a == axis else slice(1, -1) for a in range(grid.dim)))
        v, k, along, n = padded[line], kappa[line], axis - grid.dim, grid.local_shape[axis]
        flux = (
            0.5
            * (k.narrow(along, 1, n + 1) + k.narrow(along, 0, n + 1))
            * (v.narrow(along, 1, n + 1) - v.narrow(along, 0, n + 1))
        )
        divergence = flux.narrow(along, 1, n) - flux.narrow(along, 0, n)
        total = total + divergence / grid.spacing[axis] ** 2
    return total


def check_slopes(function, *inputs, second=False, step=1e-5):
    """Check gradients, and their gradients, along random directions against central differences."""
    generator = torch.Generator().manual_seed(7)

    def draw(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    weights = draw(function(*inputs).detach())

    def gradients(shift=0.0, along=None, graph=False):
        points = [
            (x.detach() + (0.0 if along is None else shift * d)).requires_grad_()
            for x, d in zip(inputs, along or inputs, strict=True)
        ]
        loss = (function(*points) * weights).sum()
        return loss, torch.autograd.grad(loss, points, create_graph=graph), points

    first, then = ([draw(x) for x in inputs] for _ in range(2))
    _, found, points = gradients(graph=second)
    slope = sum((g * d).sum() for g, d in zip(found, first, strict=True))
    ends = [gradients(shift, first)[0].item() for shift in (step, -step)]
    assert slope.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-8)
    if not second:
        return
    curvature = sum(
        (g * d).sum() for g, d in zip(torch.autograd.grad(slope, points), then, strict=True)
    )
    ends = [
        sum((g * d).sum().item() for g, d in zip(gradients(shift, then)[1], first, strict=True))
        for shift in (step, -step)
    ]
    assert curvature.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-7)
