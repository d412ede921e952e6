"""Property: an operator given by functions behaves as the matrix it stands for."""

import gc
import weakref

import pytest
import torch
from mpi4py import MPI
from systems import dominant

from prdp_hpc import FunctionOperator, Solver, solve
from prdp_hpc.errors import InputError

N = 6
BASE = dominant(N)
# A(p) = BASE + p₀ · (ring shift) + diag(p₁): not symmetric, and not linear in x alone.


def apply(p, x):
    return BASE @ x + p[0] * torch.roll(x, 1) + p[1] * x


def transposed(p, y):
    return BASE.T @ y + p[0] * torch.roll(y, -1) + p[1] * y


def dense(p):
    eye = torch.eye(N, dtype=torch.float64)
    return BASE + p[0] * torch.roll(eye, 1, 0) + p[1] * eye


@pytest.mark.parametrize("own", [None, transposed])
@pytest.mark.parametrize("pc", ["none", "jacobi"])
def test_gradients_are_derivatives(own, pc):
    operator = FunctionOperator(
        apply, N, MPI.COMM_SELF, apply_transpose=own, diagonal=lambda p: BASE.diagonal() + p[1]
    )
    solver = Solver("gmres", pc, 1e-13)
    p = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, N, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, right: solve(operator, q, right, solver), (p, b))
    torch.testing.assert_close(solve(operator, p, b, solver), torch.linalg.solve(dense(p), b.T).T)


def test_a_function_that_torch_does_not_record_has_no_transpose_of_its_own():
    operator = FunctionOperator(
        lambda _, x: torch.from_numpy(BASE.numpy() @ x.detach().numpy()), N, MPI.COMM_SELF
    )
    b = torch.randn(N, dtype=torch.float64, requires_grad=True)
    x = solve(operator, None, b, Solver("gmres", "none", 1e-13))
    torch.testing.assert_close(BASE @ x, b)
    with pytest.raises(InputError, match="give FunctionOperator\\(apply_transpose="):
        x.sum().backward()


def test_values_in_single_precision_are_used_in_double():
    operator = FunctionOperator(apply, N, MPI.COMM_SELF)
    p = torch.tensor([0.5, 0.25], requires_grad=True)
    b = torch.randn(N, dtype=torch.float64)
    x = solve(operator, p, b, Solver("gmres", "none", 1e-13))
    x.sum().backward()
    assert p.grad.dtype is torch.float32
    torch.testing.assert_close(dense(p.double()) @ x, b)


def test_values_of_another_shape_with_the_same_numbers_are_other_values():
    operator = FunctionOperator(lambda p, x: p.shape[0] * x, N, MPI.COMM_SELF)
    p, b = torch.ones(2, 3, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    solver = Solver("gmres", "none")
    torch.testing.assert_close(solve(operator, p, b, solver), b / 2)
    torch.testing.assert_close(solve(operator, p.reshape(3, 2), b, solver), b / 3)


def test_without_values_and_with_values_that_do_not_matter():
    operator = FunctionOperator(lambda _, x: 4.0 * x, N, MPI.COMM_SELF)
    solver = Solver("gmres", "none")
    b = torch.randn(N, dtype=torch.float64, requires_grad=True)
    solve(operator, None, b, solver).sum().backward()
    torch.testing.assert_close(b.grad, torch.full((N,), 0.25, dtype=torch.float64))
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    solve(operator, p, b, solver).sum().backward()
    assert torch.equal(p.grad, torch.zeros(3, dtype=torch.float64))


def test_values_after_none_and_none_after_values():
    operator = FunctionOperator(lambda p, x: (2.0 if p is None else p) * x, N, MPI.COMM_SELF)
    b, solver = torch.ones(N, dtype=torch.float64), Solver("gmres", "none")
    for p, factor in ((None, 2.0), (torch.tensor(4.0), 4.0), (None, 2.0), (None, 2.0)):
        torch.testing.assert_close(solve(operator, p, b, solver), b / factor)


def test_jacobi_without_a_diagonal():
    operator = FunctionOperator(apply, N, MPI.COMM_SELF)
    with pytest.raises(ValueError, match=r"diagonal=.*or use pc='none'"):
        solve(
            operator, torch.zeros(2), torch.ones(N, dtype=torch.float64), Solver("gmres", "jacobi")
        )


def test_an_exception_in_the_function_comes_out_and_leaves_the_solver_whole():
    broken = True

    def fragile(p, x):
        if broken:
            raise KeyError("mine")
        return apply(p, x)

    operator = FunctionOperator(fragile, N, MPI.COMM_SELF)
    solver = Solver("gmres", "none", 1e-13)
    p, b = torch.zeros(2, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    for _ in range(2):
        with pytest.raises(KeyError, match=r"mine"):
            solve(operator, p, b, solver)
    broken = False
    torch.testing.assert_close(BASE @ solve(operator, p, b, solver), b)


def test_a_result_of_a_wrong_shape():
    operator = FunctionOperator(lambda _, x: x[:3], N, MPI.COMM_SELF)
    with pytest.raises(
        ValueError,
        match=r"apply of a function operator must return .* \(6,\), not .* \(3,\)",
    ):
        solve(operator, None, torch.ones(N, dtype=torch.float64), Solver("gmres", "none"))


@pytest.mark.parametrize(
    "values", [[1.0], torch.ones(2, dtype=torch.int64), torch.tensor([1.0, float("nan")])]
)
def test_wrong_values(values):
    operator = FunctionOperator(apply, N, MPI.COMM_SELF)
    with pytest.raises(ValueError, match=r"values"):
        solve(operator, values, torch.ones(N, dtype=torch.float64), Solver("gmres", "none"))


def test_it_is_freed_with_its_matrix():
    operator, solver = FunctionOperator(apply, N, MPI.COMM_SELF), Solver("gmres", "none")
    solve(operator, torch.zeros(2), torch.ones(N, dtype=torch.float64), solver)
    gone = weakref.ref(operator)
    del operator
    gc.collect()
    assert gone() is None
