"""Property: the hierarchy interpolates exactly what it must, converges independently of the size,
and has a transpose.
"""

import itertools

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Poisson, Solver, SparseOperator, solve
from prdp_hpc.linalg.multigrid import hierarchy

WORLD = MPI.COMM_WORLD
SHAPES = [(13,), (24,), (13, 14), (12, 13, 14)]


def convection_diffusion(grid, wind):
    """Poisson's values with first-order upwind convection along the last axis; not symmetric."""
    symmetric, values = Poisson(grid, Solver()).operator, Poisson(grid, Solver()).values()
    pattern = symmetric.coo_pattern()
    rows, cols = torch.from_numpy(pattern[0]), torch.from_numpy(pattern[1])
    upwind = torch.from_numpy(
        grid.numbering[(slice(1, -1),) * (grid.dim - 1) + (slice(0, -2),)].reshape(-1)
    )
    left = upwind[rows - symmetric.row_range[0]] == cols
    values = values + wind * ((rows == cols).double() - left.double())
    return SparseOperator(rows.numpy(), cols.numpy(), symmetric.shape, grid.comm, grid=grid), values


def interpolated(matrix, field, shape):
    """What the interpolation makes of a coarse field, as this rank's part of the fine one."""
    from_coarse, to_fine = matrix.createVecs()
    from_coarse.setArray(field.numpy().reshape(-1))
    matrix.mult(from_coarse, to_fine)
    return torch.from_numpy(to_fine.getArray().copy()).reshape(shape)


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[1, 2, 3])
def test_interpolation_is_exact_for_constants_and_inner_linear_functions():
    for shape in SHAPES:
        for boundary in ("neumann", "periodic", "dirichlet"):
            fine = Grid(shape, boundary)
            coarse = fine.coarsen()
            matrix = fine.interpolation_from(coarse)
            # Beyond the outermost coarse points x is not linear: it falls to 0, stays, or wraps
            # around.
            inner = torch.ones(fine.local_shape, dtype=torch.bool)
            for d, x in enumerate(fine.coordinates()):
                inner &= (x > coarse.axis_points(d)[0] - 1e-12) & (
                    x < coarse.axis_points(d)[-1] + 1e-12
                )
            for x, wanted in zip(coarse.coordinates(), fine.coordinates(), strict=True):
                torch.testing.assert_close(
                    interpolated(matrix, x, fine.local_shape)[inner],
                    wanted[inner],
                    rtol=0,
                    atol=1e-12,
                )
            ones = interpolated(
                matrix, torch.ones(coarse.local_shape, dtype=torch.float64), fine.local_shape
            )
            where = inner if boundary == "dirichlet" else torch.ones_like(inner)
            torch.testing.assert_close(
                ones[where], torch.ones_like(ones)[where], rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_iterations_do_not_grow_with_the_grid(boundary):
    for n in (32, 64, 100, 128):
        solver = Solver("cg", "mg", 1e-8)
        grid = Grid((n, n), boundary, MPI.COMM_SELF)
        source = torch.randn(grid.local_shape, dtype=torch.float64)
        Poisson(grid, solver)(source - source.mean())
        assert solver.report.forward.iterations <= 12


# The same distance between points along all axes, and the same length of all axes.
@pytest.mark.parametrize("length", [None, 1.0])
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("shape", [(2, 1024), (1024, 2), (5, 300), (3, 30, 30), (2048,)])
def test_a_short_axis_does_not_end_the_hierarchy(shape, boundary, length):
    grid = Grid(shape, boundary, MPI.COMM_SELF, shape if length is None else length)
    grids = hierarchy(grid)
    assert grids[-1].size <= 2100
    assert all(fine.size > coarse.size for fine, coarse in itertools.pairwise(grids))
    solver = Solver("cg", "mg", 1e-8)
    kappa = 0.5 + torch.rand(shape, dtype=torch.float64)
    b = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    x = Poisson(grid, solver, kappa)(b)
    (grad,) = torch.autograd.grad(x, b, torch.randn(shape, dtype=torch.float64))
    assert grad.isfinite().all()
    assert max(solver.report.forward.iterations, solver.report.adjoint.iterations) <= 14


def test_a_singular_matrix_with_other_left_nullspace():
    """Rows sum to 0 and columns do not: its coarse matrices are singular too."""
    grid = Grid((12, 12), "periodic", MPI.COMM_SELF)
    symmetric, values = Poisson(grid, Solver()).operator, Poisson(grid, Solver()).values()
    weight = 0.5 + torch.rand(144, dtype=torch.float64)
    rows, cols, *_ = symmetric.coo_pattern()
    operator = SparseOperator(
        rows,
        cols,
        (144, 144),
        MPI.COMM_SELF,
        grid=grid,
        constant_nullspace=True,
        left_nullspace=1.0 / weight.numpy(),
    )
    values = values * weight[torch.from_numpy(rows).long()]
    dense = torch.zeros(144, 144, dtype=torch.float64)
    dense[rows, cols] = values
    b, grad = torch.randn(2, 2, 144, dtype=torch.float64)
    b.requires_grad_()
    solver = Solver("gmres", "mg", 1e-12)
    x = solve(operator, values, b, solver)
    x.backward(grad)
    inverse = torch.linalg.pinv(dense, rtol=1e-10)
    torch.testing.assert_close(x.detach(), b.detach() @ inverse.T, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(b.grad, grad @ inverse, rtol=1e-7, atol=1e-9)
    assert max(solver.report.forward.iterations, solver.report.adjoint.iterations) <= 2 * 25


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[1, 2, 3])
def test_adjoint_of_a_non_symmetric_matrix():
    for shape in ((30,), (14, 15), (6, 7, 8)):
        grid = Grid(shape)
        operator, values = convection_diffusion(grid, 5.0 * shape[-1])
        x, y = (
            grid.scatter(torch.randn(shape, dtype=torch.float64))
            .reshape(-1)
            .clone()
            .requires_grad_()
            for _ in range(2)
        )
        solver = Solver("gmres", "mg", 1e-12)
        solution = solve(operator, values, x, solver)
        (gradient,) = torch.autograd.grad(solution, x, y.detach())
        # ⟨A⁻¹x, y⟩ = ⟨x, A⁻ᵀy⟩, and A⁻ᵀ as another preconditioner has it.
        other = Solver("gmres", "jacobi", 1e-13)
        (wanted,) = torch.autograd.grad(solve(operator, values, x, other), x, y.detach())
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-10)
        products = [
            float(WORLD.allreduce(float(a.detach() @ b.detach())))
            for a, b in ((solution, y), (x, gradient))
        ]
        assert products[0] == pytest.approx(products[1], rel=1e-9, abs=1e-12)
        assert solver.report.adjoint.iterations <= 2 * solver.report.forward.iterations + 5
        assert (solver.report.forward.set_ups, solver.report.adjoint.set_ups) == (1, 0)
