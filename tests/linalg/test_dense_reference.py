"""Property: solutions and gradients are those of dense linear algebra, for all kinds of tensors."""

import numpy as np
import pytest
import scipy.sparse
import torch
from mpi4py import MPI
from systems import dominant, exact, sparse

from prdp_hpc import Solver, SparseOperator, solve
from prdp_hpc.errors import InputError


def compare(matrix, operator, values, b, grad, solver, rows, cols):
    values, b = values.clone().requires_grad_(), b.clone().requires_grad_()
    x = solve(operator, values, b, solver)
    x.backward(grad)
    solution, adjoint, dense = exact(matrix, torch.atleast_2d(b.detach()), torch.atleast_2d(grad))
    torch.testing.assert_close(torch.atleast_2d(x.detach()), solution, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.atleast_2d(b.grad), adjoint, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(values.grad, dense[rows, cols], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batch", [(), (1,), (4,)])
@pytest.mark.parametrize(("ksp", "pc"), [("gmres", "jacobi"), ("preonly", "lu"), ("bcgs", "ilu")])
def test_equals_dense(ksp, pc, batch):
    matrix = dominant(11)
    operator, values = sparse(matrix)
    b, grad = (
        torch.randn(*batch, 11, dtype=torch.float64),
        torch.randn(*batch, 11, dtype=torch.float64),
    )
    compare(
        matrix, operator, values, b, grad, Solver(ksp, pc, 1e-12), *matrix.nonzero(as_tuple=True)
    )


@pytest.mark.parametrize(("ksp", "pc"), [("preonly", "lu"), ("gmres", "ilu"), ("gmres", "jacobi")])
def test_equals_dense_when_badly_scaled(ksp, pc):
    size = torch.logspace(-8, 8, 9, dtype=torch.float64)[torch.randperm(9)]
    matrix = size[:, None] * dominant(9)
    operator, values = sparse(matrix)
    b = (size * torch.randn(9, dtype=torch.float64)).requires_grad_()
    grad = torch.randn(9, dtype=torch.float64)
    values.requires_grad_()
    x = solve(operator, values, b, Solver(ksp, pc, 1e-13))
    x.backward(grad)
    solution, adjoint, dense = exact(matrix, b.detach()[None], grad[None])
    rows, cols = matrix.nonzero(as_tuple=True)
    # Row i of the adjoint is of the order 1 / size_i. A direct solve gets each row right on its own
    # scale, a Krylov method the whole in its norm.
    scale = size if pc == "lu" else torch.full_like(size, 1.0 / adjoint.norm().item())
    torch.testing.assert_close(x.detach(), solution[0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(b.grad * scale, adjoint[0] * scale, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        values.grad * scale[rows], (dense[rows, cols] * scale[rows]), rtol=1e-8, atol=1e-8
    )


def test_entries_that_occur_twice_add_up():
    matrix = dominant(6)
    rows, cols = matrix.nonzero(as_tuple=True)
    share = torch.rand(len(rows), dtype=torch.float64)
    twice = torch.cat([matrix[rows, cols] * share, matrix[rows, cols] * (1 - share)])
    rows, cols = rows.repeat(2), cols.repeat(2)
    operator = SparseOperator(rows.numpy(), cols.numpy(), (6, 6), MPI.COMM_SELF)
    b, grad = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    compare(matrix, operator, twice, b, grad, Solver("gmres", "lu", 1e-12), rows, cols)


def test_from_scipy_takes_the_matrix_as_it_is():
    matrix = dominant(8)
    operator, values = SparseOperator.from_scipy(
        scipy.sparse.coo_matrix(matrix.numpy()), MPI.COMM_SELF
    )
    b = torch.randn(8, dtype=torch.float64)
    x = solve(operator, values, b, Solver("preonly", "lu"))
    np.testing.assert_allclose(matrix @ x, b, atol=1e-12)


@pytest.mark.parametrize("matrix", [[[1.0, 2.0], [3.0]], [1.0, 2.0], "matrix", None])
def test_from_scipy_refuses_what_is_no_matrix(matrix):
    with pytest.raises(InputError, match="matrix"):
        SparseOperator.from_scipy(matrix, MPI.COMM_SELF)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_in_and_out_but_double_inside(dtype):
    matrix = dominant(6).to(dtype).double()
    operator, values = sparse(matrix)
    values = values.to(dtype).requires_grad_()
    b = torch.randn(2, 6).to(dtype).requires_grad_()
    x = solve(operator, values, b, Solver("preonly", "lu"))
    x.sum().backward()
    solution, adjoint, dense = exact(
        matrix, b.detach().double(), torch.ones(2, 6, dtype=torch.float64)
    )
    assert x.dtype is b.grad.dtype is values.grad.dtype is dtype
    # Nothing is lost but in the last rounding.
    torch.testing.assert_close(x.detach(), solution.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(b.grad, adjoint.to(dtype), rtol=0, atol=0)
    dense = dense[matrix.nonzero(as_tuple=True)].to(dtype)
    torch.testing.assert_close(values.grad, dense, rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_an_empty_batch_gives_an_empty_solution_and_zero_gradients():
    operator, values = sparse(dominant(6))
    values.requires_grad_()
    b = torch.empty(0, 6, dtype=torch.float64, requires_grad=True)
    x = solve(operator, values, b, Solver())
    x.sum().backward()
    assert x.shape == b.grad.shape == (0, 6)
    assert not values.grad.any()


@pytest.mark.parametrize("seen", ["transposed", "strided", "expanded", "flipped", "conjugated"])
def test_memory_layout_does_not_matter(seen):
    base = torch.randn(6, 12, dtype=torch.float64)
    b = {
        "transposed": base[:, :3].T,
        "strided": base[:3, ::2],
        "expanded": base[0, :6].expand(3, 6),
        "flipped": base[:3, :6].flip(0, 1),
        "conjugated": torch.complex(base, base).conj().imag[:3, :6],
    }[seen]
    matrix = dominant(6)
    operator, values = sparse(matrix)
    variable = b.detach().requires_grad_()
    x = solve(operator, values, variable, Solver("preonly", "lu"))
    x.backward(b)
    solution, adjoint, _ = exact(matrix, b.resolve_neg().contiguous(), b.resolve_neg().contiguous())
    torch.testing.assert_close(x.detach(), solution)
    torch.testing.assert_close(variable.grad, adjoint)


def test_the_right_hand_side_stays_as_it_was():
    operator, values = sparse(dominant(6, symmetric=True), symmetric=True)
    for ksp, pc in (
        ("cg", "jacobi"),
        ("richardson", "sor"),
        ("gmres", "eisenstat"),
        ("preonly", "lu"),
    ):
        b = torch.randn(2, 6, dtype=torch.float64)
        before = b.clone()
        solve(operator, values, b, Solver(ksp, pc, 1e-6))
        assert torch.equal(b, before)
