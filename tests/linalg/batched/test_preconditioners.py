"""Property: the preconditioners of batched methods are PETSc's, and so are their transposes."""

import math

import pytest
import torch
from devices import DEVICES
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Grid, NavierStokes, Solver, SparseOperator, solve
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.errors import SolveError

DOUBLE = {"dtype": torch.float64}
CASES = [("cg", True), ("gmres", False), ("bcgs", False), ("richardson", True)]

pytestmark = pytest.mark.parametrize("device", DEVICES)


def compare(operator, values, b, theirs, ours, device, rtol=1e-10):
    """Solutions and gradients of values and b of both solvers, for a loss whose gradient differs
    from row to row.
    """
    weights = torch.linspace(-1.0, 1.0, b.numel(), **DOUBLE).view(b.shape)
    results = []
    for solver, where in ((theirs, "cpu"), (ours, device)):
        inputs = [t.to(where).clone().requires_grad_() for t in (values, b)]
        x = solve(operator, *inputs, solver)
        results.append([x, *torch.autograd.grad((x * weights.to(where)).sum(), inputs)])
    for wanted, found in zip(*results, strict=True):
        assert (found.cpu() - wanted).norm() <= rtol * wanted.norm()


def system(symmetric, count, **more):
    matrices = [dominant(12, symmetric, density=1.0, seed=seed) for seed in range(count)]
    operator, _ = sparse(matrices[0], symmetric=symmetric, **more)
    values = torch.stack([one.reshape(-1) for one in matrices])
    return operator, values if count > 1 else values[0], torch.randn(2 * count, 12, **DOUBLE)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_point_blocks(ksp, symmetric, count, device):
    operator, values, b = system(symmetric, count, block_size=3)
    for level in (1, 3, 1e-8):
        solvers = (Solver(name, "pbjacobi", level) for name in (ksp, f"batched_{ksp}"))
        compare(operator, values, b, *solvers, device)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_dense_blocks(ksp, symmetric, count, device):
    operator, values, b = system(symmetric, count)
    options = {"pc_bjacobi_local_blocks": 3, "sub_pc_type": "lu"}
    for level in (1, 3, 1e-8):
        names = ksp, f"batched_{ksp}"
        solvers = (Solver(name, "bjacobi", level, petsc_options=options) for name in names)
        compare(operator, values, b, *solvers, device)


@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
@pytest.mark.parametrize("degree", [1, 2, 5])
def test_polynomials_of_chebyshev(ksp, symmetric, degree, device):
    operator, values, b = system(symmetric, 1)
    inner = {
        "ksp_ksp_type": "chebyshev",
        "ksp_ksp_max_it": degree,
        "ksp_ksp_norm_type": "none",
        "ksp_ksp_convergence_test": "skip",
        "ksp_ksp_chebyshev_eigenvalues": "0.4,1.9",
        "ksp_pc_type": "jacobi",
    }
    own = {"pc_chebyshev_degree": degree, "pc_chebyshev_eigenvalues": "0.4,1.9"}
    for level in (1, 3):
        theirs = Solver(ksp, "ksp", level, petsc_options=inner)
        ours = Solver(f"batched_{ksp}", "chebyshev", level, petsc_options=own)
        compare(operator, values, b, theirs, ours, device, rtol=1e-9)


def test_chebyshev_needs_fewer_reductions_for_the_same_accuracy(device):
    """With the interval up to Gershgorin's bound of the eigenvalues, which a Laplacian reaches."""
    grid = Grid((20, 20), "dirichlet", MPI.COMM_SELF)
    numbers, rows, cols = torch.arange(400).view(20, 20), [], []
    for one, other in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        rows += [one.flatten(), other.flatten()]
        cols += [other.flatten(), one.flatten()]
    rows, cols = (torch.cat([numbers.flatten(), *side]) for side in (rows, cols))
    operator = SparseOperator(
        rows.numpy(), cols.numpy(), (400, 400), MPI.COMM_SELF, symmetric=True, grid=grid
    )
    values = torch.where(rows == cols, 4.0, -1.0).to(torch.float64).to(device)
    b = torch.randn(3, 400, **DOUBLE, device=device)
    results, counts = [], []
    for pc in ("jacobi", "chebyshev"):
        solver = Solver("batched_cg", pc, 1e-10)
        results.append(solve(operator, values, b, solver))
        counts.append(solver.report.forward.iterations)
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-9)
    assert counts[1] < 0.5 * counts[0]


@pytest.mark.parametrize("ksp", ["gmres", "bcgs"])
def test_the_constraint_preconditioner_of_navier_stokes(ksp, device):
    grid = Grid((8, 10), "periodic", MPI.COMM_SELF, length=2.0 * math.pi)
    draw = torch.Generator().manual_seed(1)
    state = torch.randn(3, 3, 8, 10, generator=draw, **DOUBLE)
    results = []
    for name, where in ((ksp, "cpu"), (f"batched_{ksp}", device)):
        stepper = NavierStokes(grid, 1e-2, 0.1, Solver(name, "constraint", 4))
        u = state.to(where).requires_grad_()
        after = stepper(u)
        (gradient,) = torch.autograd.grad(after.square().sum(), u)
        results.append((after, gradient))
    for wanted, found in zip(*results, strict=True):
        assert (found.cpu() - wanted).norm() <= 1e-9 * wanted.norm()


def test_what_cannot_be_set_up_is_an_error(device):
    operator, values, b = system(True, 1)
    values, b = values.to(device), b.to(device)
    with pytest.raises(InputError, match="12 rows are a multiple"):
        solve(operator, values, b, Solver("batched_cg", "bjacobi"))
    with pytest.raises(InputError, match="use another pc"):
        solve(operator, values, b, Solver("batched_cg", "constraint"))
    with pytest.raises(InputError, match="is for the batched methods"):
        Solver("cg", "chebyshev")
    blocks = torch.ones(4, 4, **DOUBLE) + torch.diag(torch.tensor([0.0, 0.0, 1.0, 2.0], **DOUBLE))
    singular, numbers = sparse(blocks, block_size=2)
    with pytest.raises(SolveError, match="PCSETUP_FAILED"):
        solve(singular, numbers.to(device), b[:, :4], Solver("batched_gmres", "pbjacobi"))
