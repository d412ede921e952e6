"""What a case has no words for: second derivatives, two nullspaces, grids of odd shapes."""

import numpy as np
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Poisson, Solver, SparseOperator, solve

from .matrices import MATRICES
from .test_adversarial import SEED

REGULAR = ("dominant", "positive", "m_matrix", "laplacian", "identity")
few = settings(max_examples=40, database=None, deadline=None)
generators = st.integers(0, 2**20).map(np.random.default_rng)


def entries(A, mask):
    rows, cols = np.nonzero(mask)
    return rows, cols, torch.tensor(A[rows, cols], requires_grad=True)


def second(x, values, b, directions):
    """The derivative of a gradient along directions, and the gradient itself."""
    first = torch.autograd.grad((x**3).sum() + (x * b).sum(), (values, b), create_graph=True)
    along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
    return [*first, *torch.autograd.grad(along, (values, b))]


@seed(SEED)
@few
@given(
    name=st.sampled_from(REGULAR),
    n=st.integers(1, 6),
    rights=st.integers(1, 3),
    ksp=st.sampled_from(["gmres", "bcgs", "fgmres"]),
    pc=st.sampled_from(["none", "jacobi", "lu", "bjacobi"]),
    draw=generators,
)
def test_second_derivatives(name, n, rights, ksp, pc, draw):
    A, mask = MATRICES[name](draw, n)
    rows, cols, values = entries(A, mask)
    b = torch.tensor(draw.normal(size=(rights, n)), requires_grad=True)
    directions = torch.tensor(draw.normal(size=len(rows))), torch.tensor(draw.normal(size=b.shape))
    operator = SparseOperator(rows, cols, (n, n), MPI.COMM_SELF)
    x = solve(operator, values, b, Solver(ksp, pc, 1e-13))
    dense = torch.zeros(n, n, dtype=torch.float64).index_put(
        (torch.from_numpy(rows), torch.from_numpy(cols)), values
    )
    expected = second(torch.linalg.solve(dense, b.T).T, values, b, directions)
    size = max(float(e.detach().abs().max()) for e in expected)
    for found, right in zip(second(x, values, b, directions), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-7 * size)


@seed(SEED)
@few
@given(n=st.integers(3, 7), count=st.integers(1, 2), given_left=st.booleans(), draw=generators)
def test_two_nullspaces(n, count, given_left, draw):
    right, left = (np.linalg.qr(draw.normal(size=(n, count)))[0] for _ in range(2))
    left = left if given_left else right
    A, _ = MATRICES["dominant"](draw, n)
    A = (np.eye(n) - left @ left.T) @ (A + 3 * np.eye(n)) @ (np.eye(n) - right @ right.T)
    rows, cols, values = entries(A, np.ones((n, n), dtype=bool))
    kernels = {"nullspace": right.T} | ({"left_nullspace": left.T} if given_left else {})
    operator = SparseOperator(rows, cols, (n, n), MPI.COMM_SELF, **kernels)
    b, grad = torch.tensor(draw.normal(size=(2, n)))
    b.requires_grad_()
    x = solve(operator, values, b, Solver("gmres", "none", 1e-12))
    of_values, of_b = torch.autograd.grad(x, (values, b), grad)
    inverse = torch.tensor(np.linalg.pinv(A, rcond=1e-10))
    adjoint = inverse.T @ grad
    atol = 1e-7 * float(1 + inverse.norm()) ** 2
    torch.testing.assert_close(x, inverse @ b, rtol=0, atol=atol)
    torch.testing.assert_close(of_b, adjoint, rtol=0, atol=atol)
    expected = -adjoint[rows] * (inverse @ b)[cols]
    torch.testing.assert_close(
        of_values, expected, rtol=0, atol=atol * float(1 + b.detach().norm())
    )


@seed(SEED)
@few
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    boundary=st.sampled_from(["dirichlet", "neumann", "periodic"]),
    which=st.sampled_from([Heat, Poisson]),
    draw=generators,
)
def test_grids_of_odd_shapes(shape, boundary, which, draw):
    try:
        grid = Grid(shape, boundary, MPI.COMM_SELF)
    except ValueError:
        return  # Said of the shape.
    solver, size = Solver("cg", "none", 1e-12), int(np.prod(shape))
    stepper = Heat(grid, 0.7, 0.1, solver) if which is Heat else Poisson(grid, solver, 0.7)
    unit = torch.eye(size, dtype=torch.float64).reshape(size, 1, *shape).requires_grad_()
    x = stepper(unit)
    inverse = x.detach().reshape(size, size)
    # A symmetric matrix, positive, or with the constant as nullspace; so its columns are its rows.
    torch.testing.assert_close(inverse, inverse.T, rtol=1e-8, atol=1e-9)
    assert np.linalg.eigvalsh(inverse.numpy()).min() > -1e-9
    if boundary != "dirichlet":
        sums = torch.full((size,), 1.0 if which is Heat else 0.0, dtype=torch.float64)
        torch.testing.assert_close(inverse.sum(dim=1), sums, rtol=0, atol=1e-8)
    weights = torch.tensor(draw.normal(size=x.shape))
    (grad,) = torch.autograd.grad(x, unit, weights)
    expected = weights.reshape(size, size) @ inverse
    torch.testing.assert_close(grad.reshape(size, size), expected, rtol=1e-7, atol=1e-7)
