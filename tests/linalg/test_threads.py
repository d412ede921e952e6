"""Solves in several threads of one rank."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from systems import dominant, sparse

from prdp_hpc import NonlinearSolver, Solver, solve, solve_nonlinear

THREADS, SOLVES = 3, 6
SOLVERS = [
    lambda: Solver("gmres", "ilu", 1e-12),
    lambda: Solver("batched_gmres", "jacobi", 1e-12),
    lambda: Solver("gmres", "lu", 12, differentiation="unrolled"),
]


def in_threads(function):
    """The results of a function of the thread's number, which fail if one of them does."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, range(THREADS), timeout=60))


@pytest.mark.parametrize("make", SOLVERS)
def test_threads_that_share_a_solver_solve_with_their_own_values(make):
    matrix, solver = dominant(40), make()
    operator, values = sparse(matrix)

    def largest_error(thread):
        found = []
        for number in range(1, SOLVES):
            scale = thread * SOLVES + number
            own = (scale * values).requires_grad_()
            b = torch.ones(40, dtype=torch.float64, requires_grad=True)
            x = solve(operator, own, b, solver)
            x.sum().backward()
            ones = torch.ones(40, dtype=torch.float64)
            found += [x.detach() - torch.linalg.solve(scale * matrix, ones)]
            found += [b.grad - torch.linalg.solve(scale * matrix.T, ones)]
        return float(torch.stack(found).abs().max())

    assert max(in_threads(largest_error)) < 1e-9


def test_threads_that_share_a_nonlinear_solver():
    solver = NonlinearSolver(Solver("gmres", "none", 1e-12), 1e-12)

    def largest_error(thread):
        roots = torch.arange(1.0, 4.0, dtype=torch.float64) + thread
        a = (roots**3).requires_grad_()
        start = torch.full((3,), 2.0, dtype=torch.float64)
        u = solve_nonlinear(lambda u, a: u**3 - a, start, a, solver)
        u.sum().backward()
        return float(torch.stack([u.detach() - roots, a.grad - 1 / (3 * roots**2)]).abs().max())

    assert max(in_threads(largest_error)) < 1e-8
