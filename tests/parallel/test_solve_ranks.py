"""Property: a divided system has the solution and the gradients of the whole one; failures come to
all ranks.
"""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import scipy.sparse
import torch
from mpi4py import MPI
from raised_ranks import raised_everywhere
from systems import dominant, exact

from prdp_hpc import FunctionOperator, Grid, SolveError, Solver, SparseOperator, solve
from prdp_hpc.linalg.held_matrices import MOST_SETS
from prdp_hpc.petsc import PETSc

WORLD = MPI.COMM_WORLD
PAIRS = [
    ("gmres", "jacobi"),
    ("bcgs", "bjacobi"),
    ("gmres", "asm"),
    ("gmres", "gamg"),
    ("preonly", "redundant"),
]
PAIRS += [("bicg", "none")]
# PETSc itself factors a divided matrix only with another library.
HAS_MUMPS = PETSc.Sys.hasExternalPackage("mumps")
if HAS_MUMPS:
    PAIRS += [("preonly", "lu"), ("gmres", "lu")]


def from_all(tensor):
    return torch.cat(
        [torch.from_numpy(t) for t in WORLD.allgather(tensor.detach().numpy())], dim=-1
    )


def check_entries_of_any_row_on_any_rank(n, ksp, pc, batch):
    matrix = dominant(n, seed=n)
    rows, cols = matrix.nonzero(as_tuple=True)
    # Every entry in two parts, dealt out so that most belong to rows of other ranks.
    share = torch.linspace(-1, 2, len(rows), dtype=torch.float64)
    both = torch.cat([matrix[rows, cols] * share, matrix[rows, cols] * (1 - share)])
    rows, cols = rows.repeat(2)[WORLD.rank :: WORLD.size], cols.repeat(2)[WORLD.rank :: WORLD.size]
    values = both[WORLD.rank :: WORLD.size].clone().requires_grad_()
    operator = SparseOperator(rows.numpy(), cols.numpy(), (n, n))
    own = slice(*operator.row_range)
    whole, grad = torch.randn(
        2, batch, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    b = whole[:, own].clone().requires_grad_()
    x = solve(operator, values, b, Solver(ksp, pc, 1e-13))
    x.backward(grad[:, own])
    solution, adjoint, dense = exact(matrix, whole, grad)
    torch.testing.assert_close(x.detach(), solution[:, own], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(b.grad, adjoint[:, own], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(values.grad, dense[rows, cols], rtol=1e-8, atol=1e-9)


def check_a_batch_of_matrices(n, ksp, pc, rights):
    matrices = torch.stack([dominant(n, density=1.0, seed=m) for m in range(3)])
    rows, cols = matrices[0].nonzero(as_tuple=True)
    mine = slice(WORLD.rank, None, WORLD.size)
    operator = SparseOperator(rows[mine].numpy(), cols[mine].numpy(), (n, n))
    own = slice(*operator.row_range)
    whole, grad = torch.randn(
        2, 3 * rights, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    # more graphs alive than sets of matrices, and the backward passes in another order than they
    # were made
    runs = []
    for factor in range(1, MOST_SETS + 3):
        values, b = matrices.flatten(1)[:, mine] * factor, whole[:, own].clone()
        runs.append((factor, values.requires_grad_(), b.requires_grad_()))
        runs[-1] += (solve(operator, runs[-1][1], runs[-1][2], Solver(ksp, pc, 1e-13)),)
    for factor, values, b, x in (*runs[::2], *runs[1::2]):
        x.backward(grad[:, own])
        for m, matrix in enumerate(matrices * factor):
            part = slice(m * rights, (m + 1) * rights)
            solution, adjoint, dense = exact(matrix, whole[part], grad[part])
            torch.testing.assert_close(x[part].detach(), solution[:, own], rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(b.grad[part], adjoint[:, own], rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(values.grad[m], dense.flatten()[mine], rtol=1e-8, atol=1e-9)


def check_overlapping_blocks_are_symmetric_for_methods_that_need_it():
    """With K iterations nothing else would tell."""
    matrix = scipy.sparse.diags([-1.0, 2.1, -1.0], [-1, 0, 1], shape=(12, 12)).tocsr()
    operator, values = SparseOperator.from_scipy(matrix, WORLD)
    own = slice(*operator.row_range)
    unit = torch.eye(12, dtype=torch.float64)[:, own].contiguous()
    for ksp, pc in itertools.product(("cg", "minres", "steepest_descent"), ("asm", "bjacobi")):
        solver = Solver(ksp, pc, 2)
        solve(operator, values, unit[0], solver)
        columns = np.array(solver.system(operator).inverse(unit.numpy(), False))
        whole = torch.from_numpy(np.concatenate(WORLD.allgather(columns), axis=1))
        torch.testing.assert_close(whole, whole.T, rtol=1e-12, atol=1e-12)


def check_mistakes_in_a_batch_on_one_rank():
    grid = Grid((8,))
    n, last = grid.n_local, WORLD.rank == WORLD.size - 1
    numbers = grid.numbering[1:-1]
    operator, solver = (
        SparseOperator(numbers, numbers, (8, 8), grid=grid),
        Solver("gmres", "jacobi"),
    )
    values, b = torch.full((2, n), 2.0, dtype=torch.float64), torch.ones(4, n, dtype=torch.float64)
    other = values.repeat(2, 1)
    raised_everywhere(
        ValueError,
        "values of 2 … 4 matrices",
        lambda: solve(operator, other if last else values, b, solver),
    )
    raised_everywhere(
        ValueError,
        "values of 1 … 2 matrices",
        lambda: solve(operator, values[0] if last else values, b, solver),
    )
    raised_everywhere(
        ValueError, "(M R, n_local)", lambda: solve(operator, values, b[1:] if last else b, solver)
    )
    raised_everywhere(
        ValueError, "different sizes", lambda: solve(operator, values, b[2:] if last else b, solver)
    )
    poisoned = values.clone()
    poisoned[1, 0] = math.nan if last else 2.0
    raised_everywhere(ValueError, "NaN or infinity", lambda: solve(operator, poisoned, b, solver))
    vector = [1.0] * (n + last)
    raised_everywhere(
        ValueError,
        "nullspace",
        lambda: SparseOperator(numbers, numbers, (8, 8), grid=grid, nullspace=vector),
    )
    vector = None if last else [1.0] * n
    raised_everywhere(
        ValueError,
        "properties",
        lambda: SparseOperator(numbers, numbers, (8, 8), grid=grid, nullspace=vector),
    )
    torch.testing.assert_close(solve(operator, values, b, solver), b / 2)


def check_a_nullspace_divided():
    n = 11
    z = torch.randn(n, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    projection = torch.eye(n, dtype=torch.float64) - torch.outer(z, z) / z.dot(z)
    matrix = projection @ dominant(n, density=1.0) @ projection
    rows, cols = matrix.nonzero(as_tuple=True)
    mine = slice(WORLD.rank, None, WORLD.size)
    start = WORLD.rank * (n // WORLD.size) + min(WORLD.rank, n % WORLD.size)
    own = slice(start, start + n // WORLD.size + (WORLD.rank < n % WORLD.size))
    operator = SparseOperator(
        rows[mine].numpy(), cols[mine].numpy(), (n, n), nullspace=z[own].numpy()
    )
    b, grad = torch.randn(2, 2, n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    right = b[:, own].clone().requires_grad_()
    x = solve(operator, matrix[rows, cols][mine], right, Solver("gmres", "jacobi", 1e-13))
    x.backward(grad[:, own])
    inverse = torch.linalg.pinv(matrix, rtol=1e-10)
    torch.testing.assert_close(x.detach(), (b @ inverse.T)[:, own], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(right.grad, (grad @ inverse)[:, own], rtol=1e-8, atol=1e-9)


def check_from_scipy():
    matrix = dominant(10)
    operator, values = SparseOperator.from_scipy(scipy.sparse.csr_matrix(matrix.numpy()))
    b = torch.ones(operator.n_local, dtype=torch.float64)
    x = from_all(solve(operator, values, b, Solver("gmres", "bjacobi", 1e-13)))
    torch.testing.assert_close(matrix @ x, torch.ones(10, dtype=torch.float64))


def check_halo_in_a_function_operator():
    n = 9
    numbers = torch.linspace(0.5, 1.5, n, dtype=torch.float64)
    outcome = {}
    for name, grid in (
        ("all", Grid((n,), "periodic")),
        ("alone", Grid((n,), "periodic", comm=MPI.COMM_SELF)),
    ):

        def apply(kappa, x, grid=grid):  # upwind: not symmetric, and κ is exchanged too
            k, u = grid.halo(kappa), grid.halo(x)
            return 3.0 * x + k[1:-1] * u[1:-1] - k[:-2] * u[:-2]

        operator = FunctionOperator(apply, grid.n_local, grid.comm, grid=grid)
        kappa = grid.scatter(numbers).clone().requires_grad_()
        b = grid.scatter(numbers.flip(0) ** 2).repeat(2, 1).requires_grad_()
        x = solve(operator, kappa, b, Solver("gmres", "none", 1e-13))
        x.square().sum().backward()
        outcome[name] = [grid.gather(t) for t in (x.detach(), b.grad, kappa.grad)]
    for divided, whole in zip(outcome["all"], outcome["alone"], strict=True):
        torch.testing.assert_close(divided, whole, rtol=1e-10, atol=1e-11)


def check_failures_on_one_rank():
    grid = Grid((8,))
    n, last = grid.n_local, WORLD.rank == WORLD.size - 1
    numbers = grid.numbering[1:-1]
    operator = SparseOperator(numbers, numbers, (8, 8), grid=grid)
    values, b = torch.full((n,), 2.0, dtype=torch.float64), torch.ones(2, n, dtype=torch.float64)

    def on_last(tensor, bad):
        changed = tensor.clone()
        changed[..., 0] = bad if last else changed[..., 0]
        return changed

    def bad_numbers_with(solver):
        raised_everywhere(
            ValueError,
            "NaN or infinity",
            lambda: solve(operator, on_last(values, math.nan), b, solver),
        )
        raised_everywhere(
            SolveError,
            "right-hand side holds NaN",
            lambda: solve(operator, values, on_last(b, math.inf), solver),
        )
        x = solve(operator, values, b.clone().requires_grad_(), solver)
        raised_everywhere(
            SolveError, "incoming gradient holds NaN", lambda: x.backward(on_last(b, math.nan))
        )

    for solver in (
        Solver("gmres", "jacobi"),
        Solver("richardson", "jacobi", 3),
        Solver("bcgs", "bjacobi", 2),
    ):
        bad_numbers_with(solver)
    solver = Solver("bcgs", "jacobi")
    raised_everywhere(
        ValueError,
        "b must have shape",
        lambda: solve(operator, values, b[:, 1:] if last else b, solver),
    )
    raised_everywhere(
        ValueError,
        "values must",
        lambda: solve(operator, values[1:] if last else values, b, solver),
    )
    raised_everywhere(
        ValueError, "values must", lambda: solve(operator, None if last else values, b, solver)
    )
    raised_everywhere(
        ValueError,
        "batches of different sizes",
        lambda: solve(operator, values, b[:1] if last else b, solver),
    )
    raised_everywhere(
        ValueError,
        "batches of different sizes",
        lambda: solve(operator, values, b[0] if last else b, solver),
    )
    for which in (values, b):
        which.requires_grad_(last)
        raised_everywhere(
            ValueError,
            "requires_grad and guess must be the same",
            lambda: solve(operator, values, b, solver),
        )
        which.requires_grad_(False)
    raised_everywhere(
        ValueError,
        "must lie in 0 … 7",
        lambda: SparseOperator(numbers + 8 * last, numbers, (8, 8), grid=grid),
    )
    raised_everywhere(
        ValueError,
        "different shapes",
        lambda: SparseOperator(numbers[:0], numbers[:0], (8 + last, 8 + last)),
    )
    # a singular block on one rank only, and a factorisation that one rank alone could do
    zero = on_last(values, 0.0)
    raised_everywhere(
        SolveError, "forward", lambda: solve(operator, zero, b, Solver("gmres", "bjacobi"))
    )
    if not HAS_MUMPS:
        for pc in ("lu", "cholesky"):
            direct = partial(solve, operator, values, b, Solver("preonly", pc))
            raised_everywhere(SolveError, "without MUMPS", direct)
    # after all this everything still works
    torch.testing.assert_close(solve(operator, values, b, solver), b / 2)


def check_a_batch_at_once(n):
    matrix = dominant(n, seed=n)
    rows, cols = matrix.nonzero(as_tuple=True)
    mine = slice(WORLD.rank, None, WORLD.size)
    operator = SparseOperator(rows[mine], cols[mine], (n, n))
    weights = torch.randn(5, operator.n_local, dtype=torch.float64)
    results = []
    for size in (5, 1):
        values = matrix[rows, cols][mine].clone().requires_grad_()
        b = weights.flip(0).clone().requires_grad_()
        solver = Solver("richardson", "jacobi", 6, adjoint=4)
        x = torch.cat([solve(operator, values, part, solver) for part in b.split(size)])
        (x * weights).sum().backward()
        results.append((x, values.grad, b.grad))
        assert (solver.report.forward.iterations, solver.report.adjoint.iterations) == (30, 20)
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=1e-13)


def check_factors_of_changing_values(n):
    """Each new matrix has new factors; a singular one is an error on all ranks, and what follows is
    right again.
    """
    matrix = dominant(n, seed=n)
    matrix = matrix + matrix.T
    rows, cols = matrix.nonzero(as_tuple=True)
    mine = slice(WORLD.rank, None, WORLD.size)
    operator = SparseOperator(rows[mine], cols[mine], (n, n), symmetric=True)
    b = torch.ones(operator.n_local, dtype=torch.float64)
    empty = ((rows == 0) | (cols == 0)).double()
    for pc in ("lu", "cholesky"):
        solver = Solver("preonly", pc)
        for factor in (1.0, 3.0):
            entries = factor * matrix[rows, cols]
            x = from_all(solve(operator, entries[mine], b, solver))
            expected = torch.linalg.solve(factor * matrix, torch.ones(n, dtype=torch.float64))
            torch.testing.assert_close(x, expected, rtol=1e-10, atol=1e-12)
            singular = (entries * (1 - empty))[mine]
            with pytest.raises(SolveError):
                solve(operator, singular, b, solver)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_divided_systems():
    check_a_batch_at_once(23)
    check_a_batch_at_once(WORLD.size - 1)
    for ksp, pc in PAIRS:
        check_entries_of_any_row_on_any_rank(23, ksp, pc, batch=2)
    # fewer rows than ranks: some hold none
    check_entries_of_any_row_on_any_rank(WORLD.size - 1, "gmres", "jacobi", batch=3)
    check_a_batch_of_matrices(9, "gmres", "jacobi", rights=2)
    check_a_batch_of_matrices(WORLD.size - 1, "gmres", "bjacobi", rights=1)
    check_mistakes_in_a_batch_on_one_rank()
    check_overlapping_blocks_are_symmetric_for_methods_that_need_it()
    check_a_nullspace_divided()
    if HAS_MUMPS:
        check_a_batch_of_matrices(9, "preonly", "lu", rights=2)
        check_factors_of_changing_values(17)
        check_factors_of_changing_values(WORLD.size - 1)
    check_from_scipy()
    check_halo_in_a_function_operator()
    check_failures_on_one_rank()
