"""Property: a solve of one vector does no operation of torch that its result does not need.

Each takes as long as several iterations with a small matrix. Seconds depend on the machine, the
operations do not.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prdp_hpc import Grid, Poisson, Solver, solve

PRODUCTS = ["index_select", "index_select", "mul", "mul_"]
"""What the gradient of the values needs: two gathers, a sign and a product."""


class Operations(TorchDispatchMode):
    """The names of all operations in a block, except the detaching of saved tensors."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in ("detach", "lift_fresh"):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def operations_of(function):
    with Operations() as done:
        result = function()
    return sorted(done.names), result


@pytest.mark.parametrize("level", [5, 1e-6], ids=["fixed", "tolerance"])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_one_vector(level, needs_grad):
    poisson = Poisson(Grid((6, 6)), Solver("cg", "jacobi", level))
    operator, solver = poisson.operator, poisson.solver
    n = operator.n_local
    values = poisson.values().clone().requires_grad_(needs_grad)
    numbers = np.random.default_rng(0).standard_normal((2, n))
    b, gradient = (torch.from_numpy(row) for row in numbers)
    b.requires_grad_(needs_grad)
    done, x = operations_of(lambda: solve(operator, values, b, solver))
    assert done == []
    if not needs_grad:
        return
    assert operations_of(lambda: torch.autograd.grad(x, (values, b), gradient))[0] == PRODUCTS
    x = solve(operator, values.detach(), b, solver)
    assert operations_of(lambda: torch.autograd.grad(x, b, gradient))[0] == []
