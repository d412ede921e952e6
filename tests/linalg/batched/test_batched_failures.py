"""Property: batched solves fail where PETSc's do, and invalid arguments are errors."""

import copy

import pytest
import torch
from devices import DEVICES
from mpi4py import MPI
from solver_pairs import DOUBLE, failure_of, pair
from systems import dominant, sparse

from prdp_hpc import (
    AssembledOperator,
    NonlinearSolver,
    Refinement,
    SolveError,
    Solver,
    SparseOperator,
    solve,
)
from prdp_hpc.errors import InputError
from prdp_hpc.petsc import PETSc

pytestmark = pytest.mark.parametrize("device", DEVICES)


def test_failures_are_those_of_petsc(device):
    matrix = dominant(8, True)
    b = torch.randn(2, 8, **DOUBLE)
    nan = b.clone()
    nan[1, 3] = torch.nan
    indefinite = matrix - 2.0 * torch.diag(matrix.diagonal()) * (torch.arange(8) % 2)
    asymmetric = matrix.clone()
    asymmetric[0, matrix[0].nonzero()[-1]] += 1.0
    cases = [
        ("cg", matrix, nan, 3),
        ("cg", matrix, nan, 1e-8),
        ("cg", indefinite, b[:1], 1e-10),
        ("cg", asymmetric, b, 1e-8),
        ("richardson", 10.0 * matrix - 9.5 * torch.diag(matrix.diagonal()), b[:1], 1e-8),
        ("gmres", torch.full_like(matrix, torch.inf), b, 1e-8),
        ("gmres", matrix, torch.zeros(2, 7, **DOUBLE), 1e-8),
        ("gmres", matrix, torch.zeros(2, 8, dtype=torch.int64), 1e-8),
    ]
    for ksp, given, right, level in cases:
        operator, values = sparse(given)
        theirs, ours = pair(ksp, "jacobi", level)
        wanted = failure_of(lambda: solve(operator, values, right, theirs))  # noqa: B023
        found = failure_of(lambda: solve(operator, values.to(device), right.to(device), ours))  # noqa: B023
        assert found == wanted, ksp


def test_a_matrix_without_a_solution_is_not_converged(device):
    matrix = torch.diag(torch.tensor([1.0, 2.0, 0.0], **DOUBLE)) + 1e-300 * torch.eye(3, **DOUBLE)
    matrix[2] = 0.0
    rows, cols = torch.arange(3), torch.arange(3)
    operator = SparseOperator(rows.numpy(), cols.numpy(), (3, 3), MPI.COMM_SELF)
    b = torch.ones(3, **DOUBLE).to(device)
    with pytest.raises(RuntimeError, match="row 2 is zero"):
        solve(operator, matrix.diagonal().to(device), b, Solver("batched_gmres", "none", 1e-8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pc": "gamg"}, "has the preconditioners none, jacobi"),
        ({"differentiation": "unrolled"}, "use ksp='cg' with"),
        ({"lag_preconditioner": 3}, "leave lag_preconditioner out"),
        ({"precision": "float16"}, "precision must be one of float64, float32"),
        ({"petsc_options": {"ksp_gmres_restrat": 3}}, "'ksp_gmres_restrat' has no effect"),
        ({"petsc_options": {"ksp_pc_side": "right"}}, "ksp_pc_side must be one of left"),
    ],
)
def test_what_a_batched_method_does_not_have_is_an_error(arguments, words, device):
    operator, values = sparse(dominant(4, True), symmetric=True)
    b = torch.ones(4, **DOUBLE, device=device)
    with pytest.raises(InputError, match=words):
        solve(operator, values.to(device), b, Solver("batched_cg", **arguments))


def test_operators_without_entries_are_an_error(device):
    matrix = PETSc.Mat().createAIJ(3, comm=MPI.COMM_SELF)
    operator = AssembledOperator(matrix, lambda theta, mat: mat.assemble())
    with pytest.raises(InputError, match="needs the matrix's entries"):
        solve(operator, None, torch.ones(3, **DOUBLE, device=device), Solver("batched_cg"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Solver("cg", precision="float32"), "is for the batched methods"),
        (lambda: NonlinearSolver(Solver("batched_cg")), "Newton's method are PETSc's"),
    ],
)
def test_where_only_petscs_methods_serve(make, words, device):
    with pytest.raises(InputError, match=words):
        make()
    assert copy.deepcopy(Solver("batched_cg", precision="float32")).precision == "float32"


@pytest.mark.parametrize("method", ["cg", "gmres", "bcgs"])
@pytest.mark.parametrize("rtol", [1e-10, None])
def test_solutions_beyond_the_range_are_errors_in_both_directions(method, rtol, device):
    """The right-hand sides are scaled for the solve; the solution may overflow afterwards."""
    operator = SparseOperator([0, 1], [0, 1], (2, 2), MPI.COMM_SELF, symmetric=True)
    values = torch.tensor([1e-70, 2e-70], dtype=torch.float64, device=device)
    level = Refinement(max_it=2) if rtol is None else Refinement(rtol=rtol)
    solver = Solver(f"batched_{method}", "jacobi", level)
    b = torch.ones(3, 2, dtype=torch.float64, device=device, requires_grad=True)
    x = solve(operator, values, b, solver)
    large = torch.tensor([[1.0], [1e270], [1.0]], dtype=torch.float64, device=device)
    with pytest.raises(SolveError, match=r"adjoint solve .* returned NaN or infinity"):
        torch.autograd.grad(x, b, large.expand(3, 2))
    with pytest.raises(SolveError, match=r"forward solve .* returned NaN or infinity"):
        solve(operator, values, b.detach() * large, solver)
