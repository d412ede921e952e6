"""Property: with right and left nullspaces, solves and their gradients are those of the
pseudo-inverse, on any number of ranks; nullspaces that are not ones are refused.
"""

from functools import partial

import numpy as np
import pytest
import torch
from mpi4py import MPI
from raised_ranks import raised_everywhere
from systems import dominant, sparse

from prdp_hpc import (
    FunctionOperator,
    Grid,
    Poisson,
    SolveError,
    Solver,
    SparseOperator,
    solve,
)
from prdp_hpc.errors import InputError

WORLD = MPI.COMM_WORLD
N = 13


def with_nullspaces(k, same, seed=0):
    """A matrix `(N, N)`, its right and its left nullspace `(k, N)`; neither basis is orthogonal."""
    draw = torch.Generator().manual_seed(seed)
    right, left = torch.randn(2, k, N, generator=draw, dtype=torch.float64)
    left = right if same else left
    away = [torch.eye(N, dtype=torch.float64) - torch.linalg.pinv(z) @ z for z in (left, right)]
    return away[0] @ dominant(N, density=1.0, seed=seed) @ away[1], right, left


def of_this_rank(matrix, comm, **nullspaces):
    """The operator of a dense matrix whose entries are dealt out to the ranks, its values, and this
    rank's rows.
    """
    rows, cols = matrix.nonzero(as_tuple=True)
    mine = slice(comm.rank, None, comm.size)
    share, extra = divmod(N, comm.size)
    start = comm.rank * share + min(comm.rank, extra)
    own = slice(start, start + share + (comm.rank < extra))
    given = {name: z[..., own].numpy() for name, z in nullspaces.items()}
    operator = SparseOperator(rows[mine].numpy(), cols[mine].numpy(), (N, N), comm, **given)
    return operator, matrix[rows, cols][mine].clone(), own


def check_the_pseudo_inverse(comm, k, same, ksp, pc, kind):
    matrix, right, left = with_nullspaces(k, same)
    given = {"nullspace": right} if same else {"nullspace": right, "left_nullspace": left}
    operator, values, own = of_this_rank(matrix, comm, **given)
    values.requires_grad_()
    draw = torch.Generator().manual_seed(1)
    whole, grad = torch.randn(2, 2, N, generator=draw, dtype=torch.float64)  # out of range
    b = whole[:, own].clone().requires_grad_()
    x = solve(operator, values, b, Solver(ksp, pc, 1e-13, differentiation=kind))
    x.backward(grad[:, own])
    inverse = torch.linalg.pinv(matrix, rtol=1e-10)
    torch.testing.assert_close(x.detach(), (whole @ inverse.T)[:, own], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(b.grad, (grad @ inverse)[:, own], rtol=1e-8, atol=1e-9)
    # The values' gradient along a direction that keeps the nullspaces.
    away = [torch.eye(N, dtype=torch.float64) - torch.linalg.pinv(z) @ z for z in (left, right)]
    step = away[0] @ torch.randn(N, N, generator=draw, dtype=torch.float64) @ away[1]
    rows, cols = matrix.nonzero(as_tuple=True)
    mine = slice(comm.rank, None, comm.size)
    slope = comm.allreduce(float(values.grad @ step[rows, cols][mine]))
    h = 1e-6
    changed = [torch.linalg.pinv(matrix + s * step, rtol=1e-10) for s in (h, -h)]
    wanted = ((whole @ (changed[0] - changed[1]).T) * grad).sum() / (2 * h)
    assert slope == pytest.approx(float(wanted), rel=1e-6, abs=1e-7)


CASES = [
    (1, True, "gmres", "jacobi", "implicit"),
    (1, False, "gmres", "none", "implicit"),
    (3, True, "fgmres", "jacobi", "implicit"),
    (3, False, "gmres", "jacobi", "implicit"),
    (6, False, "bcgs", "none", "implicit"),
    (2, False, "gmres", "jacobi", "unrolled"),
]


@pytest.mark.parametrize("case", CASES)
def test_solves_and_gradients_are_the_pseudo_inverses(case):
    check_the_pseudo_inverse(MPI.COMM_SELF, *case)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_the_same_on_several_ranks():
    for case in CASES:
        check_the_pseudo_inverse(WORLD, *case)
    check_that_broken_promises_are_refused(WORLD)
    check_a_flux_matrix(WORLD)


def check_a_flux_matrix(comm):
    """What flows out of a cell flows into others: columns sum to 0, rows do not."""
    flux = torch.rand(N, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = flux - torch.diag(flux.sum(0))
    right = torch.linalg.svd(matrix).Vh[-1]
    ones = torch.ones(N, dtype=torch.float64)
    operator, values, own = of_this_rank(matrix, comm, nullspace=right, left_nullspace=ones)
    b = torch.linspace(-1, 2, N, dtype=torch.float64)[own].clone().requires_grad_()
    solve(operator, values, b, Solver("gmres", "jacobi", 1e-12)).sum().backward()
    wanted = torch.linalg.pinv(matrix, rtol=1e-10).T @ ones
    torch.testing.assert_close(b.grad, wanted[own], rtol=1e-7, atol=1e-9)
    alone, values, own = of_this_rank(matrix, comm, nullspace=right)
    raised_everywhere(
        ValueError, "pass left_nullspace", lambda: solve(alone, values, b, Solver()), comm
    )


def test_a_flux_matrix():
    check_a_flux_matrix(MPI.COMM_SELF)


def check_that_broken_promises_are_refused(comm):
    matrix, right, left = with_nullspaces(2, same=False)
    solver = Solver("gmres", "jacobi")
    b = torch.ones(2, N, dtype=torch.float64)
    for factor in (1.0, 1e12, 1e-12):
        given = {"nullspace": left, "left_nullspace": left}
        operator, values, own = of_this_rank(matrix * factor, comm, **given)
        raised_everywhere(
            ValueError, "A z", partial(solve, operator, values, b[:, own], solver), comm
        )
        given = {"nullspace": right, "left_nullspace": right}
        operator, values, own = of_this_rank(matrix * factor, comm, **given)
        raised_everywhere(
            ValueError, "Aᵀ w", partial(solve, operator, values, b[:, own], solver), comm
        )
    # Right at first, then not: a mass of a thousandth.
    operator, values, own = of_this_rank(matrix, comm, nullspace=right, left_nullspace=left)
    solve(operator, values, b[:, own], solver)
    rows, cols = matrix.nonzero(as_tuple=True)
    mine = slice(comm.rank, None, comm.size)
    heavier = (matrix + 1e-3 * torch.eye(N, dtype=torch.float64))[rows, cols][mine]
    raised_everywhere(ValueError, "A z", lambda: solve(operator, heavier, b[:, own], solver), comm)
    dependent = torch.stack([right[0], right[1], right[0] - 2 * right[1]])
    raised_everywhere(
        ValueError, "combination", lambda: of_this_rank(matrix, comm, nullspace=dependent), comm
    )
    raised_everywhere(
        ValueError,
        "as many",
        lambda: of_this_rank(matrix, comm, nullspace=right, left_nullspace=left[:1]),
        comm,
    )
    raised_everywhere(
        ValueError, "pass both", lambda: of_this_rank(matrix, comm, left_nullspace=left), comm
    )
    poisoned = right.clone()
    poisoned[1, -1] = torch.nan
    raised_everywhere(
        ValueError, "finite", lambda: of_this_rank(matrix, comm, nullspace=poisoned), comm
    )


def test_broken_promises_are_refused():
    check_that_broken_promises_are_refused(MPI.COMM_SELF)


def test_values_in_single_precision_keep_their_promises():
    matrix, right, left = with_nullspaces(2, same=False)
    operator, values, _ = of_this_rank(matrix, MPI.COMM_SELF, nullspace=right, left_nullspace=left)
    b = torch.ones(N, dtype=torch.float64)
    solver = Solver("gmres", "jacobi", 1e-5)
    torch.testing.assert_close(
        solve(operator, values.float(), b, solver),
        torch.linalg.pinv(matrix, rtol=1e-10) @ b,
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("ksp", ["cg", "gmres", "bcgs", "minres", "cr", "fcg", "pipecg"])
@pytest.mark.parametrize("shape", [(8,), (4, 6)])
def test_many_iterations_on_a_periodic_problem_do_not_break_down(ksp, shape):
    solver = Solver(ksp, "none", 1e-12)
    poisson = Poisson(Grid(shape, "periodic", MPI.COMM_SELF), solver)
    for k in (12, 17, 40, 200):
        sources = torch.randn(10, *shape, dtype=torch.float64)  # not in the range
        solver.refine(1e-13)
        wanted = poisson(sources)
        solver.refine(k)
        b = sources.clone().requires_grad_()
        x = poisson(b)
        x.backward(sources.flip(0))
        torch.testing.assert_close(x.detach(), wanted, rtol=0, atol=1e-10)
        torch.testing.assert_close(b.grad, wanted.flip(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", [5, 1e-10])
def test_a_right_hand_side_within_the_left_nullspace_gives_zero(level):
    matrix, right, left = with_nullspaces(2, same=False)
    operator, values, _ = of_this_rank(matrix, MPI.COMM_SELF, nullspace=right, left_nullspace=left)
    for ksp in ("gmres", "bcgs", "fgmres"):
        x = solve(operator, values, left * 3.7, Solver(ksp, "jacobi", level))
        assert x.abs().max() < 1e-12


def test_rigid_bodies():
    """A ring of springs in space can be moved and turned without a force: 6 vectors."""
    points = np.random.default_rng(0).normal(size=(7, 3)) + 1e3  # far from the origin
    stiffness = np.zeros((21, 21))
    for i in range(7):
        for j in range(i):
            along = (points[i] - points[j]) / np.linalg.norm(points[i] - points[j])
            block, a, b = np.outer(along, along), slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
            stiffness[a, a] += block
            stiffness[b, b] += block
            stiffness[a, b] -= block
            stiffness[b, a] -= block
    moves = [np.tile(e, 7) for e in np.eye(3)]
    turns = [np.cross(e, points).ravel() for e in np.eye(3)]
    operator, values = SparseOperator.from_scipy(
        stiffness, MPI.COMM_SELF, symmetric=True, nullspace=np.array(moves + turns)
    )
    b = torch.randn(3, 21, dtype=torch.float64, requires_grad=True)
    x = solve(operator, values, b, Solver("cg", "jacobi", 1e-13))
    (grad,) = torch.autograd.grad(x, b, torch.ones_like(x))
    inverse = torch.from_numpy(np.linalg.pinv(stiffness, rcond=1e-10))
    torch.testing.assert_close(x.detach(), b.detach() @ inverse, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(grad, torch.ones_like(b) @ inverse, rtol=1e-7, atol=1e-7)


def test_a_symmetric_promise_is_checked_for_a_function_too():
    matrix = dominant(6)
    for turned in (None, lambda _, y: matrix.T @ y):
        operator = FunctionOperator(
            lambda _, x: matrix @ x, 6, MPI.COMM_SELF, apply_transpose=turned, symmetric=True
        )
        with pytest.raises(ValueError, match=r"symmetric=True relies on A = Aᵀ"):
            solve(operator, None, torch.ones(6, dtype=torch.float64), Solver("gmres", "none"))


@pytest.mark.parametrize("ksp", ["gmres", "fgmres", "gcr", "pgmres", "pipefgmres", "bcgs"])
@pytest.mark.parametrize("rtol", [1e-6, 1e-10, 1e-13])
def test_rounded_values_have_a_solution_outside_of_the_nullspace_or_an_error(ksp, rtol):
    """The rows of values in single precision do not sum to 0 exactly, so that a large constant
    solves with a small residual, and what is left without it did not.
    """
    entries = [[3.4010276, -1.8524486, -1.5485787], [-1.8524486, 3.4233235, -1.5708749]]
    matrix = torch.tensor([*entries, [-1.5485787, -1.5708749, 3.1194536]], dtype=torch.float32)
    operator, values = sparse(matrix.double(), constant_nullspace=True)
    b = torch.tensor([0.48, 0.14, -0.62], dtype=torch.float64)
    try:
        x = solve(operator, values, b, Solver(ksp, "none", rtol))
    except SolveError:
        return
    rest = b - matrix.double() @ x
    assert (rest - rest.mean()).norm() <= 100 * rtol * b.norm() + 1e-14


@pytest.mark.parametrize("level", [2, 1e-8])
def test_results_that_consist_of_rounding_are_refused(level):
    """`hmg` factors its coarsest matrix, which is singular: further digits of b changed x."""
    grid = Grid((8, 8), boundary="periodic")
    problem = Poisson(grid, Solver("richardson", "hmg", level))
    with pytest.raises(InputError, match="gamg"):
        problem(torch.randn(1, 1, 8, 8, dtype=torch.float64))
