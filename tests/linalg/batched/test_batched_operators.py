"""Property: batched solves of stencils, PDEs and elements are those of PETSc."""

import pytest
import torch
from devices import DEVICES
from mpi4py import MPI
from solver_pairs import DOUBLE, assert_same, gradients

from prdp_hpc import (
    ElementOperator,
    Grid,
    Heat,
    Solver,
    SparseOperator,
)
from prdp_hpc.linalg.batched.dia import DiaPattern
from prdp_hpc.linalg.batched.engine import engine_of

pytestmark = pytest.mark.parametrize("device", DEVICES)


def coupled(grid):
    """The pattern and values of two coupled fields on a grid, with entries that occur twice."""
    n, draw = grid.size, torch.Generator().manual_seed(3)
    numbers = torch.arange(n).view(grid.shape)
    rows, cols = [], []
    for field, other, shift in ((0, 0, 0), (1, 1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 1), (0, 1, 0)):
        for axis in range(grid.dim) if shift else (0,):
            rows.append(field * n + numbers.flatten())
            cols.append(other * n + numbers.roll(shift, axis).flatten())
    rows, cols = torch.cat(rows), torch.cat(cols)
    rows, cols = torch.cat([rows, rows[:5]]), torch.cat([cols, cols[:5]])
    values = torch.randn(len(rows), generator=draw, **DOUBLE)
    return rows, cols, values + 12.0 * (rows == cols)


class Coupled(SparseOperator):
    """An operator whose fields lie on a grid that its rows alone are not."""

    stencil_grid = None


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 4, 5)])
def test_stencils_are_found_and_are_the_same_matrix(shape, device):
    grid = Grid(shape, "periodic", MPI.COMM_SELF)
    rows, cols, values = coupled(grid)
    size = (2 * grid.size, 2 * grid.size)
    b = torch.randn(2, size[0], **DOUBLE)
    results = []
    for places in (None, grid):
        operator = Coupled(rows.numpy(), cols.numpy(), size, MPI.COMM_SELF)
        operator.stencil_grid = places
        solver = Solver("batched_bcgs", "jacobi", 6)
        results.append(gradients(operator, values.to(device), b.to(device), solver))
        is_stencil = isinstance(engine_of(solver).pattern(operator), DiaPattern)
        assert is_stencil == (places is not None)
    wanted = gradients(operator, values, b, Solver("bcgs", "jacobi", 6))
    for found in results:
        assert_same(found, wanted)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_physics_on_grids(boundary, device):
    grid = Grid((7, 6), boundary, MPI.COMM_SELF)
    field = torch.randn(3, 1, 7, 6, **DOUBLE)
    results = []
    for ksp, where in (("cg", "cpu"), ("batched_cg", device)):
        heat = Heat(grid, 1e-2, 0.5, Solver(ksp, "jacobi", 4))
        u = field.to(where).requires_grad_()
        after = heat(u)
        results.append([after, *torch.autograd.grad(after.square().sum(), u)])
    assert_same(results[1], results[0])


def test_elements_with_dirichlet_conditions(device):
    cells = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]]).numpy()
    operator = ElementOperator(cells, 5, MPI.COMM_SELF, dirichlet=[0, 4], symmetric=True)
    stiffness = torch.rand(4, 1, 1, **DOUBLE) + 1.0
    values = stiffness * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], **DOUBLE)
    b = torch.randn(2, 5, **DOUBLE)
    theirs, ours = (Solver(ksp, "jacobi", 1e-10) for ksp in ("cg", "batched_cg"))
    wanted = gradients(operator, values, b, theirs)
    assert_same(gradients(operator, values.to(device), b.to(device), ours), wanted, 1e-8)
