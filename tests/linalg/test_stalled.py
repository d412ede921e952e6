"""Restarted pipelined methods end, with the solution or an error, where rounding stops them."""

import pytest
import torch

from prdp_hpc import FunctionOperator, Solver, SparseOperator, solve
from prdp_hpc.linalg.errors import SolveError

RIGHT = ([0.08, -0.5], [2e-20, -2e-20], [1.0, 2.0])


@pytest.mark.parametrize("ksp", ["pipefgmres", "pipefcg", "pipegcr"])
@pytest.mark.parametrize("level", [1e-10, 5])
@pytest.mark.parametrize("size", [1e150, 1e30, 1e8, 1e4])
@pytest.mark.parametrize("b", RIGHT)
def test_large_matrices_are_solved(ksp, level, size, b):
    operator = SparseOperator([0, 1], [0, 1], (2, 2))
    values = torch.tensor([size, size], dtype=torch.float64)
    right = torch.tensor(b, dtype=torch.float64)
    x = solve(operator, values, right, Solver(ksp, "none", level))
    torch.testing.assert_close(size * x, right, rtol=1e-8, atol=0)


def test_a_matrix_that_cannot_be_scaled_is_an_error():
    operator = FunctionOperator(lambda values, x: 1e150 * x, 2, symmetric=True)
    solver = Solver("pipefgmres", "none", 1e-10)
    for _ in range(2):
        with pytest.raises(SolveError, match="makes no progress"):
            solve(operator, None, torch.tensor(RIGHT[0], dtype=torch.float64), solver)
