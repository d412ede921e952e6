"""Pairs of PETSc's and of batched solvers, for the tests that compare them."""

import pytest
import torch

from prdp_hpc import Refinement, Solver, solve
from prdp_hpc.errors import InputError

DOUBLE = {"dtype": torch.float64}
CASES = [
    ("cg", True),
    *((ksp, symmetric) for ksp in ("gmres", "bcgs", "richardson") for symmetric in (True, False)),
]
LEVELS = [1, 2, 5, 9, 1e-2, 1e-6, Refinement(max_it=4, rtol=1e-3)]


def options(ksp, pc):
    if ksp == "gmres":
        return {"ksp_gmres_restart": 4}
    return {"ksp_richardson_scale": 0.05} if (ksp, pc) == ("richardson", "none") else {}


def pair(ksp, pc, level, **more):
    """PETSc's solver, and the batched one."""
    given = options(ksp, pc) | more
    return [Solver(name, pc, level, petsc_options=given) for name in (ksp, f"batched_{ksp}")]


def gradients(operator, values, b, solver):
    """The solution, and the gradients of values and b for a fixed loss."""
    values, b = values.clone().requires_grad_(), b.clone().requires_grad_()
    x = solve(operator, values, b, solver)
    weights = torch.linspace(-1.0, 1.0, b.numel(), **DOUBLE).view(b.shape).to(b.device)
    return [x.detach(), *torch.autograd.grad((x * weights).sum(), (values, b))]


def assert_same(found, wanted, rtol=1e-10):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one.cpu() - other).norm() <= rtol * other.norm()


def failure_of(action):
    with pytest.raises((InputError, RuntimeError)) as caught:
        action()
    return type(caught.value), str(caught.value).replace("batched_", "")
