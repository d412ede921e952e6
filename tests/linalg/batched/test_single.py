"""Property: iterations in single precision are those in double precision to its rounding, and
refinement reaches tolerances that single precision has not.
"""

import pytest
import torch
from devices import DEVICES
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Grid, Refinement, Solver, SparseOperator, solve
from prdp_hpc.linalg.errors import SolveError

DOUBLE = {"dtype": torch.float64}
CASES = [("cg", True), ("gmres", False), ("bcgs", False), ("richardson", True)]

pytestmark = pytest.mark.parametrize("device", DEVICES)


def single(ksp, level, pc="jacobi"):
    return Solver(f"batched_{ksp}", pc, level, precision="float32")


def poisson(shape):
    """The matrix of the 2-D Laplacian, dense, and its operator with values."""
    grid = Grid(shape, "dirichlet", MPI.COMM_SELF)
    one = [2.0 * torch.eye(n, **DOUBLE) for n in shape]
    for block in one:
        block.diagonal(1).fill_(-1.0)
        block.diagonal(-1).fill_(-1.0)
    eyes = [torch.eye(n, **DOUBLE) for n in shape]
    matrix = torch.kron(one[0], eyes[1]) + torch.kron(eyes[0], one[1])
    rows, cols = matrix.nonzero(as_tuple=True)
    operator = SparseOperator(
        rows.numpy(), cols.numpy(), matrix.shape, MPI.COMM_SELF, symmetric=True, grid=grid
    )
    return matrix, operator, matrix[rows, cols]


@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_a_fixed_number_of_iterations(ksp, symmetric, device):
    operator, values = sparse(dominant(40, symmetric, density=0.2), symmetric=symmetric)
    b = torch.randn(3, 40, **DOUBLE) * torch.tensor([[1.0], [1e-30], [1e30]], **DOUBLE)
    for level in (1, 3, 6):
        wanted = solve(operator, values, b, Solver(f"batched_{ksp}", "jacobi", level))
        solver = single(ksp, level)
        found = solve(operator, values.to(device), b.to(device), solver).cpu()
        off = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
        assert (off < 1e-5).all()
        assert (off > 0.0).all()  # they are other numbers
        assert solver.report.forward.iterations == 3 * level


@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
@pytest.mark.parametrize("rtol", [1e-3, 1e-10, 1e-13])
def test_refinement_reaches_any_tolerance(ksp, symmetric, rtol, device):
    matrix = dominant(40, symmetric, density=0.2)
    operator, values = sparse(matrix, symmetric=symmetric)
    b = torch.randn(3, 40, **DOUBLE)
    b[1] = 0.0
    x = solve(operator, values.to(device), b.to(device), single(ksp, rtol)).cpu()
    scale = 1.0 / matrix.diagonal()
    residual = ((b - x @ matrix.T) * scale).norm(dim=1)
    assert (residual <= 1.01 * rtol * (b * scale).norm(dim=1)).all()


def test_an_ill_conditioned_matrix_and_its_gradients(device):
    matrix, operator, values = poisson((12, 11))
    b = torch.randn(2, 132, **DOUBLE).to(device).requires_grad_()
    x = solve(operator, values.to(device), b, single("cg", 1e-11))
    (gradient,) = torch.autograd.grad(x.sum(), b)
    torch.testing.assert_close(x.cpu(), torch.linalg.solve(matrix, b.detach().cpu().mT).mT)
    ones = torch.ones(132, **DOUBLE)
    torch.testing.assert_close(gradient[0].cpu(), torch.linalg.solve(matrix, ones))


def test_at_most_so_many_iterations(device):
    _, operator, values = poisson((12, 11))
    b = torch.randn(132, **DOUBLE).to(device)
    solver = single("cg", Refinement(max_it=7, rtol=1e-12))
    solve(operator, values.to(device), b, solver)
    assert solver.report.forward.iterations == 7


def test_a_guess_is_the_start(device):
    matrix, operator, values = poisson((6, 5))
    b = torch.randn(2, 30, **DOUBLE)
    x = torch.linalg.solve(matrix, b.mT).mT
    solver = single("cg", 1e-10)
    inputs = [t.to(device) for t in (values, b, x)]
    found = solve(operator, *inputs[:2], solver, inputs[2])
    assert solver.report.forward.iterations == 0
    torch.testing.assert_close(found.cpu(), x)


def test_failures(device):
    # In single precision these entries are equal, and the matrix is singular.
    matrix = torch.tensor([[1.0, 1e-9 - 1.0], [1e-9 - 1.0, 1.0]], **DOUBLE)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.ones(2, **DOUBLE).to(device)
    solve(operator, values.to(device), b, Solver("batched_cg", "none", 1e-6))
    with pytest.raises(SolveError, match="float64"):
        solve(operator, values.to(device), b, single("cg", 1e-10, "none"))
    b[1] = torch.nan
    for level in (3, 1e-8):
        with pytest.raises(SolveError, match="right-hand side holds NaN"):
            solve(operator, values.to(device), b, single("cg", level))
