"""Property: a solve of one vector does no operation of torch that its result does not need, and few
calls of Python.

Each operation takes as long as several iterations with a small matrix, and each call as long as
one. Seconds depend on the machine, the operations and calls do not.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import prdp_hpc
from prdp_hpc import Grid, Poisson, Solver, solve

PACKAGE = str(Path(prdp_hpc.__file__).parent)
MOST_CALLS = {"fixed": (48, 40, 57), "tolerance": (54, 46, 73)}
"""Calls of the package's functions by a forward solve, and by backward solves of b and of both."""
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


def calls_of(function):
    """The names of the package's functions that are called, after a first time."""
    function()
    names = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            names.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize(("level", "kind"), [(5, "fixed"), (1e-6, "tolerance")])
def test_calls_of_one_vector(level, kind):
    poisson = Poisson(Grid((6, 6)), Solver("cg", "jacobi", level))
    operator, solver = poisson.operator, poisson.solver
    values, b = poisson.values().clone(), torch.arange(1.0, 37.0).double().requires_grad_()
    ones, known = torch.ones_like(b), values.detach()
    of_b = solve(operator, known, b, solver)
    of_both = solve(operator, values.requires_grad_(), b, solver)
    made = [
        calls_of(lambda: solve(operator, known, b.detach(), solver)),
        calls_of(lambda: torch.autograd.grad(of_b, b, ones, retain_graph=True)),
        calls_of(lambda: torch.autograd.grad(of_both, (values, b), ones, retain_graph=True)),
    ]
    for names, most in zip(made, MOST_CALLS[kind], strict=True):
        assert len(names) <= most, names
