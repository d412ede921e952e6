"""Property: block size, near-nullspace, coordinates and fields reach PETSc's preconditioners, on
any number of ranks; what does not fit is refused on all ranks.
"""

import numpy as np
import pytest
import torch
from assembled import assembled, fill
from elastic import springs
from mpi4py import MPI
from raised_ranks import raised_everywhere
from systems import exact

from prdp_hpc import AssembledOperator, Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD


def divided(matrix, comm, block_size, **options):
    """The operator of a dense matrix, its values, and this rank's rows; `options` that are arrays
    of all rows or nodes are cut.
    """
    rows, cols = matrix.nonzero(as_tuple=True)
    theirs = assembled(matrix.numpy(), comm, block_size=block_size)
    start, end = theirs.getOwnershipRange()
    mine = (rows >= start) & (rows < end)
    for name, value in options.items():
        if name == "coordinates":
            options[name] = value[start // block_size : end // block_size]
        elif name.endswith("nullspace"):
            options[name] = value[:, start:end].numpy()
    operator = SparseOperator(
        rows[mine].numpy(),
        cols[mine].numpy(),
        tuple(matrix.shape),
        comm,
        block_size=block_size,
        **options,
    )
    assert operator.row_range == (start, end)
    return operator, matrix[rows, cols][mine].clone().requires_grad_(), slice(start, end)


def iterations_and_results(comm, matrix, **options):
    operator, values, own = divided(matrix, comm, 2, symmetric=True, **options)
    draw = torch.Generator().manual_seed(5)
    whole, grad = torch.randn(2, 1, len(matrix), generator=draw, dtype=torch.float64)
    b = whole[:, own].clone().requires_grad_()
    solver = Solver("cg", "gamg", 1e-11)
    x = solve(operator, values, b, solver)
    x.backward(grad[:, own])
    return solver.report.forward.iterations, (x.detach(), b.grad), (whole, grad, own)


def check_an_elastic_body(comm):
    matrix, points, rigid = springs(24, 8, is_held=True)
    bare, *_ = iterations_and_results(comm, matrix)
    for given in ({"near_nullspace": rigid}, {"coordinates": points}):
        fewer, results, (whole, grad, own) = iterations_and_results(comm, matrix, **given)
        assert fewer <= 0.7 * bare, (fewer, bare, list(given))
        wanted = exact(matrix, whole, grad)
        for found, known in zip(results, wanted, strict=False):
            torch.testing.assert_close(found, known[:, own], rtol=1e-6, atol=1e-6)


def check_a_free_body(comm):
    """Three nullspace vectors and GAMG: the pseudo-inverse."""
    matrix, points, rigid = springs(10, 6, is_held=False)
    _, results, (whole, grad, own) = iterations_and_results(
        comm, matrix, nullspace=rigid, coordinates=points
    )
    inverse = torch.linalg.pinv(matrix, rtol=1e-10, hermitian=True)
    for found, right in zip(results, (whole, grad), strict=True):
        torch.testing.assert_close(found, (right @ inverse)[:, own], rtol=1e-6, atol=1e-6)


def check_the_users_matrix(comm):
    """The same for a matrix that the user's code assembles."""
    matrix, points, _ = springs(24, 8, is_held=True)
    theirs = assembled(matrix.numpy(), comm, block_size=2)
    start, end = theirs.getOwnershipRange()
    counts = []
    for coordinates in (None, points[start // 2 : end // 2]):
        operator = AssembledOperator(
            theirs,
            lambda _, mat: fill(mat, matrix.numpy()),
            symmetric=True,
            coordinates=coordinates,
        )
        solver = Solver("cg", "gamg", 1e-11)
        solve(operator, None, torch.ones(end - start, dtype=torch.float64), solver)
        counts.append(solver.report.forward.iterations)
    assert counts[1] <= 0.7 * counts[0]


def check_what_does_not_fit(comm):
    matrix, points, rigid = springs(4, 4, is_held=True)
    last = comm.rank == comm.size - 1
    for words, options in (
        ("one of them", {"near_nullspace": rigid, "coordinates": points}),
        ("coordinates must have", {"coordinates": points[:, :1] if last else points}),
        ("finite", {"coordinates": points + (np.inf if last else 0.0)}),
        ("combination", {"near_nullspace": torch.cat([rigid, rigid[:1]])}),
        ("exactly once", {"fields": {"x": [0], "y": [0]}}),
        ("must name each field", {"fields": {}}),
        ("integers", {"fields": {"x": [0.5]}}),
    ):
        raised_everywhere(ValueError, words, lambda: divided(matrix, comm, 2, **options), comm)  # noqa: B023
    raised_everywhere(
        ValueError,
        "does not divide",
        lambda: SparseOperator([], [], (31, 31), comm, block_size=2),
        comm,
    )
    raised_everywhere(
        ValueError, "integer", lambda: SparseOperator([], [], (32, 32), comm, block_size=1.5), comm
    )


CHECKS = [
    check_an_elastic_body,
    check_a_free_body,
    check_the_users_matrix,
    check_what_does_not_fit,
]


@pytest.mark.parametrize("check", CHECKS)
def test_on_one_rank(check):
    check(MPI.COMM_SELF)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_the_same_on_several_ranks():
    for check in CHECKS:
        check(WORLD)
