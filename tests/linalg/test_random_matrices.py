"""Property: for any pattern, values and size, solves and gradients are those of dense algebra."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI
from systems import dominant, exact, sparse

from prdp_hpc import Solver, SparseOperator, solve

METHODS = st.sampled_from(
    [
        ("gmres", "jacobi"),
        ("bcgs", "ilu"),
        ("preonly", "lu"),
        ("gmres", "asm"),
        ("richardson", "bjacobi"),
    ]
)


@given(
    n=st.integers(1, 25),
    seed=st.integers(0, 10**6),
    density=st.floats(0, 1),
    batch=st.integers(1, 3),
    method=METHODS,
)
def test_solution_gradients_and_adjoint_identity(n, seed, density, batch, method):
    matrix = dominant(n, density=density, seed=seed)
    operator, values = sparse(matrix)
    draw = torch.Generator().manual_seed(seed)
    b, y = torch.randn(2, batch, n, generator=draw, dtype=torch.float64)
    b.requires_grad_()
    values.requires_grad_()
    x = solve(operator, values, b, Solver(*method, 1e-13))
    x.backward(y)
    solution, adjoint, gradient = exact(matrix, b.detach(), y)
    torch.testing.assert_close(x.detach(), solution, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(b.grad, adjoint, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        values.grad, gradient[matrix.nonzero(as_tuple=True)], rtol=1e-8, atol=1e-9
    )
    forward, backward = (x * y).sum().item(), (b * b.grad).sum().item()
    assert forward == pytest.approx(backward, rel=1e-8, abs=1e-8)


@given(data=st.data(), n=st.integers(1, 12))
def test_any_list_of_entries_in_any_order_with_repeats(data, n):
    index = st.integers(0, n - 1)
    entries = data.draw(st.lists(st.tuples(index, index, st.floats(-1, 1)), max_size=40))
    order = data.draw(st.permutations([*entries, *((i, i, 60.0) for i in range(n))]))
    rows, cols, numbers = (list(part) for part in zip(*order, strict=True))
    values = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    operator = SparseOperator(rows, cols, (n, n), MPI.COMM_SELF)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix.index_put_((torch.tensor(rows), torch.tensor(cols)), values.detach(), accumulate=True)
    b = torch.linspace(-1, 1, n, dtype=torch.float64)
    x = solve(operator, values, b, Solver("gmres", "jacobi", 1e-13))
    x.sum().backward()
    solution, _, gradient = exact(matrix, b[None], torch.ones(1, n, dtype=torch.float64))
    torch.testing.assert_close(x[None].detach(), solution)
    torch.testing.assert_close(values.grad, gradient[rows, cols])
