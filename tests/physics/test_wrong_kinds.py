"""Arguments of a wrong kind are errors of the package."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    AllenCahn,
    Burgers,
    Grid,
    Heat,
    NonlinearDiffusion,
    NonlinearSolver,
    Solver,
    SparseOperator,
    ThetaScheme,
    solve,
    solve_nonlinear,
)
from prdp_hpc.errors import InputError

GRID = Grid((6,), "neumann", MPI.COMM_SELF)
LINEAR, NONLINEAR = Solver("gmres", "jacobi", 1e-8), NonlinearSolver(Solver("gmres", "jacobi"))
ONE = torch.ones(2, dtype=torch.float64)
OPERATOR = SparseOperator([0, 1], [0, 1], (2, 2), MPI.COMM_SELF)
WRONG = (None, 1j, "x", np.ones(3), [0.1], torch.ones(6), torch.ones((), dtype=torch.complex64))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize(
    "make",
    [
        lambda it: Heat(GRID, 1.0, it, LINEAR),
        lambda it: Heat(GRID, 1.0, 0.1, LINEAR, theta=it),
        lambda it: NonlinearDiffusion(GRID, it, 0.1, NONLINEAR),
        lambda it: NonlinearDiffusion(GRID, 0.1, it, NONLINEAR),
        lambda it: NonlinearDiffusion(GRID, 0.1, 0.1, NONLINEAR, "power", it),
        lambda it: AllenCahn(GRID, it, 0.1, NONLINEAR),
        lambda it: AllenCahn(GRID, 0.1, it, NONLINEAR),
        lambda it: Burgers(GRID, it, 0.1, LINEAR),
        lambda it: Burgers(GRID, 0.1, it, LINEAR),
        lambda it: ThetaScheme(lambda dt: Heat(GRID, 1.0, dt, LINEAR), it),
        lambda it: ThetaScheme(lambda dt: Heat(GRID, 1.0, dt, LINEAR), 0.1, it),
        lambda it: solve(it, ONE, ONE, LINEAR),
        lambda it: solve(OPERATOR, ONE, ONE, it),
        lambda it: solve_nonlinear(lambda u: u, ONE, (), [it]),
    ],
)
def test_scalars_operators_and_solvers(make, wrong):
    with pytest.raises(InputError, match="must be"):
        make(wrong)


@pytest.mark.parametrize(
    "use",
    [
        GRID.gather,
        GRID.halo,
        NonlinearDiffusion(GRID, 0.1, 0.1, NONLINEAR),
        Burgers(GRID, 0.1, 0.1, LINEAR),
    ],
)
def test_fields_are_tensors(use):
    with pytest.raises(InputError, match="must be a tensor, not a ndarray"):
        use(np.ones((1, 1, 6)))


@pytest.mark.filterwarnings("error")
def test_a_number_with_a_gradient_is_read_without_a_warning():
    for make in (
        lambda it: NonlinearDiffusion(GRID, it, 0.1, NONLINEAR),
        lambda it: AllenCahn(GRID, it, 0.1, NONLINEAR),
    ):
        number = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        make(number)(torch.full((1, 1, 6), 0.5, dtype=torch.float64)).sum().backward()
        assert torch.isfinite(number.grad)
