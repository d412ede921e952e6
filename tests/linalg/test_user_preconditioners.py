"""Property: preconditioners made from another matrix or from the user's functions change how many
iterations a solve takes, not its result nor its gradients, on any number of ranks.
"""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from mpi4py import MPI
from raised_ranks import raised_everywhere
from systems import dominant, exact

from prdp_hpc import FunctionOperator, ShellPreconditioner, Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD
N = 24


def near(matrix):
    """Another matrix that is close to it."""
    draw = torch.Generator().manual_seed(8)
    return matrix * (1.0 + 0.05 * torch.rand(N, N, generator=draw, dtype=torch.float64))


def on(comm, matrix, **options):
    """Operator, values and rows of a dense matrix."""
    operator, values = SparseOperator.from_scipy(matrix.numpy(), comm, **options)
    return operator, values, slice(*operator.row_range)


def check_results(comm, operator, values, solver, matrix):
    """Solution and gradients against the dense matrix; the iterations of both directions."""
    own = slice(*operator.row_range)
    draw = torch.Generator().manual_seed(6)
    whole, grad = torch.randn(2, 1, N, generator=draw, dtype=torch.float64)
    b = whole[:, own].clone().requires_grad_()
    x = solve(operator, values, b, solver)
    x.backward(grad[:, own])
    solution, adjoint, dense = exact(matrix, whole, grad)
    torch.testing.assert_close(x.detach(), solution[:, own], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(b.grad, adjoint[:, own], rtol=1e-8, atol=1e-9)
    if values is not None and values.requires_grad:
        rows, cols = np.nonzero(matrix[own].numpy())
        wanted = dense[own][rows, cols]
        torch.testing.assert_close(values.grad, wanted, rtol=1e-8, atol=1e-9)
    return solver.report.forward.iterations, solver.report.adjoint.iterations


def check_another_matrix(comm):
    matrix = dominant(N, density=1.0, seed=2)
    other, other_values, _ = on(comm, near(matrix))
    for ksp, pc, symmetric in (
        ("gmres", "redundant", False),
        ("bcgs", "bjacobi", False),
        ("cg", "gamg", True),
    ):
        chosen = (matrix + matrix.T) / 2 if symmetric else matrix
        pair = on(comm, (near(chosen) + near(chosen).T) / 2)[:2] if symmetric else None
        operator, values, _ = on(
            comm, chosen, symmetric=symmetric, preconditioner=pair or (other, other_values)
        )
        counts = check_results(
            comm, operator, values.requires_grad_(), Solver(ksp, pc, 1e-12), chosen
        )
        assert min(counts) > 1  # it is not the matrix's own LU
    # A product that is a function, and every pc from a matrix.
    dense = matrix.clone()
    rows = slice(*other.row_range)

    def product(values, x):
        return dense[rows] @ gathered(comm, x)

    def transposed(values, y):
        return dense.T[rows] @ gathered(comm, y)

    operator = FunctionOperator(
        product,
        rows.stop - rows.start,
        comm,
        apply_transpose=transposed,
        preconditioner=(other, other_values),
    )
    counts = check_results(comm, operator, None, Solver("gmres", "redundant", 1e-12), matrix)
    assert max(counts) <= 12
    check_results(comm, operator, None, Solver("gmres", "jacobi", 1e-12), matrix)


def gathered(comm, x):
    return torch.cat([torch.from_numpy(part) for part in comm.allgather(x.detach().numpy())])


def check_the_pair_may_change(comm):
    """Other values in it are loaded, another pair is used, None is the matrix itself."""
    matrix = dominant(N, density=1.0, seed=2)
    operator, values, own = on(comm, matrix)
    other, exact_values, _ = on(comm, matrix)
    solver = Solver("gmres", "redundant", 1e-12)
    b = torch.ones(own.stop - own.start, dtype=torch.float64)

    def iterations():
        solver.report.reset()
        solve(operator, values, b, solver)
        return solver.report.forward.iterations

    assert iterations() == 1
    operator.preconditioner = other, exact_values * torch.linspace(0.5, 1.5, len(exact_values))
    assert iterations() > 2
    operator.preconditioner = other, exact_values
    assert iterations() == 1
    operator.preconditioner = None
    assert iterations() == 1
    # A batch of matrices, all preconditioned with the same one.
    operator.preconditioner = other, exact_values
    rows = torch.stack([values, 1.1 * values])
    x = solve(operator, rows, b.expand(2, -1), solver)
    torch.testing.assert_close(x[0], 1.1 * x[1], rtol=1e-9, atol=1e-10)


def functions(comm, matrix):
    """The exact inverse of a near matrix, in the user's own code."""
    inverse = torch.linalg.inv(near(matrix))
    share, extra = divmod(N, comm.size)
    start = comm.rank * share + min(comm.rank, extra)
    own = slice(start, start + share + (comm.rank < extra))

    def apply(r):
        assert not torch.is_grad_enabled()
        return inverse[own] @ gathered(comm, r)

    return apply, lambda r: inverse.T[own] @ gathered(comm, r)


def check_functions(comm):
    matrix = dominant(N, density=1.0, seed=2)
    apply, transpose = functions(comm, matrix)
    operator, values, own = on(comm, matrix)
    values.requires_grad_()
    for ksp in ("gmres", "bcgs", "fgmres", "richardson"):
        solver = Solver(ksp, ShellPreconditioner(apply, transpose), 1e-12)
        values.grad = None
        counts = check_results(comm, operator, values, solver, matrix)
        assert max(counts) <= 12
    alone = Solver("gmres", ShellPreconditioner(apply), 1e-12)
    b = torch.ones(own.stop - own.start, dtype=torch.float64, requires_grad=True)
    x = solve(operator, values, b, alone)
    raised_everywhere(ValueError, "needs the transpose", lambda: x.sum().backward(), comm)
    symmetric = (matrix + matrix.T) / 2
    operator, values, _ = on(comm, symmetric, symmetric=True)
    solver = Solver("gmres", ShellPreconditioner(functions(comm, symmetric)[0]), 1e-12)
    check_results(comm, operator, values.requires_grad_(), solver, symmetric)
    # The gradient of b of unrolled iterations.
    operator, values, _ = on(comm, matrix)
    unrolled = Solver(
        "gmres", ShellPreconditioner(apply, transpose), 1e-12, differentiation="unrolled"
    )
    check_results(comm, operator, values, unrolled, matrix)


def check_mistakes(comm):
    matrix = dominant(N, seed=2)
    operator, values, own = on(comm, matrix)
    b = torch.ones(own.stop - own.start, dtype=torch.float64, requires_grad=True)

    def with_functions(*given):
        return solve(operator, values, b, Solver("gmres", ShellPreconditioner(*given)))

    def fails(r):
        raise RuntimeError("my own error")

    raised_everywhere(RuntimeError, "my own error", lambda: with_functions(fails), comm)
    raised_everywhere(
        ValueError, "must return a tensor", lambda: with_functions(lambda r: r.sum()), comm
    )
    x = with_functions(lambda r: r, fails)
    raised_everywhere(RuntimeError, "my own error", lambda: x.sum().backward(), comm)
    small, few = SparseOperator.from_scipy(np.eye(N - 1), comm)
    last = comm.rank == comm.size - 1
    for words, pair in (
        ("they must be equal", (small, few)),
        ("shape", (on(comm, matrix)[0], values[:-1] if last and len(values) else values)),
        ("one matrix", (on(comm, matrix)[0], values[None])),
        ("NaN", (on(comm, matrix)[0], values * (float("nan") if last else 1.0))),
        ("pair", (1, 2)),
        ("its own matrix", (operator, values)),
    ):
        raised_everywhere(
            ValueError, words, partial(setattr, operator, "preconditioner", pair), comm
        )
    # What relies on A = Aᵀ is checked for the matrix that it is made from.
    symmetric = (matrix + matrix.T) / 2
    operator, own_values, _ = on(comm, symmetric, preconditioner=on(comm, matrix)[:2])
    if comm.size == 1:
        raised_everywhere(
            ValueError,
            "pc='icc' relies",
            lambda: solve(operator, own_values, b, Solver("gmres", "icc")),
            comm,
        )


CHECKS = [
    check_another_matrix,
    check_the_pair_may_change,
    check_functions,
    check_mistakes,
]


@pytest.mark.parametrize("check", CHECKS)
def test_on_one_rank(check):
    check(MPI.COMM_SELF)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_the_same_on_several_ranks():
    for check in CHECKS:
        check(WORLD)


def test_a_symmetric_pc_of_another_matrix_in_a_nonsymmetric_solve():
    matrix = dominant(N, density=1.0, seed=2)
    other = on(MPI.COMM_SELF, (matrix + matrix.T) / 2)[:2]
    operator, values, _ = on(MPI.COMM_SELF, matrix, preconditioner=other)
    solver = Solver("gmres", "cholesky", 1e-12)
    check_results(MPI.COMM_SELF, operator, values.requires_grad_(), solver, matrix)


def test_unrolled_derivatives_of_values_need_the_matrix_itself():
    matrix = dominant(N, seed=2)
    operator, values, _ = on(MPI.COMM_SELF, matrix, preconditioner=on(MPI.COMM_SELF, matrix)[:2])
    solver = Solver("gmres", "jacobi", 5, differentiation="unrolled")
    with pytest.raises(ValueError, match="cannot differentiate the set-up"):
        solve(operator, values.requires_grad_(), torch.ones(N, dtype=torch.float64), solver)


def test_names_and_copies():
    with pytest.raises(ValueError, match="ShellPreconditioner"):
        Solver("gmres", "shell")
    with pytest.raises(ValueError, match="apply must be a function"):
        ShellPreconditioner(3)
    solver = pickle.loads(pickle.dumps(Solver("gmres", ShellPreconditioner(torch.neg, torch.neg))))
    operator, values, _ = on(MPI.COMM_SELF, -torch.eye(N, dtype=torch.float64))
    x = solve(operator, values, torch.ones(N, dtype=torch.float64), solver)
    torch.testing.assert_close(x, -torch.ones(N, dtype=torch.float64))
    assert solver.report.forward.iterations == 1
