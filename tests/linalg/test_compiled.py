"""Property: a function that torch compiles gives the numbers of the function itself, and one that
torch only traces is an error, because a trace would hold a solution as a constant.
"""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Solver, SparseOperator, rollout, solve, solve_nonlinear
from prdp_hpc.errors import InputError

SELF = MPI.COMM_SELF
B = torch.tensor([4.0, 8.0], dtype=torch.float64)
GRID = Grid((4, 3), ("neumann", "periodic"), SELF)
FIELD = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(1, 1, 4, 3)


def solved(differentiation):
    operator = SparseOperator([0, 0, 1], [0, 1, 1], (2, 2), SELF)
    values = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
    solver = Solver("gmres", "jacobi", 2, differentiation=differentiation)
    return lambda b: solve(operator, values, b, solver).pow(3).sum()


def heat_steps():
    heat = Heat(GRID, 0.1, 0.1, Solver("cg", "jacobi", 1e-12))
    return lambda u: rollout(heat, heat(u), 2).pow(2).sum()


FUNCTIONS = {
    "implicit": (solved("implicit"), B),
    "unrolled": (solved("unrolled"), B),
    "nonlinear": (
        lambda b: solve_nonlinear(lambda u, b: u + u**3 - b, 0.0 * b, b, comm=SELF).pow(2).sum(),
        B,
    ),
    "steps": (heat_steps(), FIELD),
    "halos": (lambda u: GRID.halo(u).roll(1, -1).mul(GRID.halo(u)).sum(), FIELD),
}


def traced(function, x):
    return torch.jit.trace(function, x, check_trace=False)


def linearised(function, x):
    return torch.func.linearize(function, x)[1](x)


def made_fx(function, x):
    return torch.fx.experimental.proxy_tensor.make_fx(function)(x)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("trace", [traced, linearised, made_fx])
def test_traces_are_refused(name, trace):
    function, x = FUNCTIONS[name]
    with pytest.raises(InputError, match="cannot be traced"):
        trace(function, x)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("implicit", "halos") else pytest.mark.long)
        for name in FUNCTIONS
    ],
)
def test_compiled_functions_are_the_functions_themselves(name):
    function, x = FUNCTIONS[name]
    x = x.clone().requires_grad_()
    result = function(x)
    (gradient,) = torch.autograd.grad(result, x)
    compiled = torch.compile(function, backend="eager")
    try:
        for _ in range(2):
            found = compiled(x)
            found.backward()
            torch.testing.assert_close(found, result)
            torch.testing.assert_close(x.grad, gradient)
            x.grad = None
    finally:
        torch._dynamo.reset()
    # Afterwards derivatives outside of the compiled function work as before.
    function(x).backward()
    torch.testing.assert_close(x.grad, gradient)
