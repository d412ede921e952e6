"""Methods of PETSc that stop as if they had converged: an error, or the solution."""

import gc

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Refinement, ShellPreconditioner, SolveError, Solver, SparseOperator, solve
from prdp_hpc.errors import InputError, PrdpError
from prdp_hpc.linalg.method_types import CONJUGATE_GRADIENTS, UNGUARDED_KSPS
from prdp_hpc.petsc import PETSc

SIZES = (1.0, 1e-9, 1e-20, 1e-60, 1e-150)
MATRICES = (
    *([[0, 1], [0, 0]], [[0, 0], [1, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]),
    *([[2, 0], [0, 3]], [[2, 1], [1, -3]]),
)
KSPS = ("gmres", "fgmres", "gcr", "bcgs", "cg", "minres", "symmlq", "cr", "lsqr", "lgmres")
BATCHED_KSPS = ("batched_cg", "batched_gmres")


def solved(A, b, ksp, pc, level):
    """The solution, or None for an error of the package."""
    rows, cols = np.indices(A.shape).reshape(2, -1)
    operator = SparseOperator(rows, cols, A.shape, MPI.COMM_SELF)
    try:
        return solve(operator, torch.from_numpy(A.ravel()), b, Solver(ksp, pc, level)).numpy()
    except PrdpError:
        return None


@pytest.mark.parametrize("ksp", KSPS + BATCHED_KSPS)
def test_a_tolerance_is_reached_or_refused_for_matrices_of_any_size(ksp):
    b, found = torch.tensor([1.0, 2.0], dtype=torch.float64), []
    for A in MATRICES:
        for size in SIZES:
            for pc in ("none", "jacobi"):
                matrix = size * np.array(A, dtype=np.float64)
                x = solved(matrix, b, ksp, pc, 1e-8)
                if x is not None:
                    # lsqr measures the residual of the normal equations.
                    way = matrix.T / size if ksp == "lsqr" else np.eye(2)
                    found.append(np.linalg.norm(way @ (matrix @ x - b.numpy())))
    assert found
    assert max(found) < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_a_fixed_number_of_iterations_that_ends_early_is_solved(size):
    A, b = size * np.diag([2.0, 3.0]), torch.ones(2, dtype=torch.float64)
    x = solved(A, b, "minres", "none", Refinement(max_it=30))
    assert x is None or np.allclose(A @ x, 1.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("K", [1, 2])
def test_the_last_iteration_of_a_fixed_number_is_computed(size, K):
    A, b = size * np.diag([2.0, 3.0]), torch.ones(2, dtype=torch.float64)
    x = solved(A, b, "minres", "none", Refinement(max_it=K))
    # The first iterate is the multiple of b with the least residual.
    product = A @ b.numpy() / size
    first = product.sum() / (product @ product) / size * b.numpy()
    assert x is None or np.allclose(x, first if K == 1 else 1.0 / np.diag(A), rtol=1e-9, atol=0.0)


def test_an_iterate_may_be_zero():
    A, b = np.array([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.0], dtype=torch.float64)
    for ksp in ("minres", "gmres"):
        assert not solved(A, b, ksp, "none", Refinement(max_it=1)).any()


@pytest.mark.parametrize(
    ("ksp", "differentiation"),
    [(ksp, how) for ksp in ("gmres", "richardson", "cg") for how in ("implicit", "unrolled")]
    + [("batched_cg", "implicit"), ("batched_gmres", "implicit")],
)
def test_a_gradient_beyond_the_range_is_an_error(ksp, differentiation):
    operator = SparseOperator([0, 1], [0, 1], (2, 2), MPI.COMM_SELF)
    values = torch.full((2,), 1e-151, dtype=torch.float64, requires_grad=True)
    b = torch.ones(2, dtype=torch.float64)
    solver = Solver(ksp, "jacobi", 1e-8, differentiation=differentiation)
    x = solve(operator, values, b, solver)
    (grad,) = torch.autograd.grad(x, values, b, retain_graph=True)
    torch.testing.assert_close(grad, torch.full_like(grad, -1e302), rtol=1e-7, atol=0.0)
    with pytest.raises(SolveError, match="range of double"):
        torch.autograd.grad(x, values, 1e20 * b)


@pytest.mark.parametrize("ksp", ["cg", "minres"])
def test_kaczmarz_is_refused_where_a_symmetric_preconditioner_is_needed(ksp):
    with pytest.raises(InputError, match="pc_kaczmarz_symmetric"):
        Solver(ksp, "kaczmarz")
    Solver(ksp, "kaczmarz", petsc_options={"pc_kaczmarz_symmetric": True})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "A", [[[0, 1], [0, 0]], [[1, 1], [0, 0]], [[0, 0, 1], [0, 0, 0], [0, 0, 2]]]
)
def test_symmetry_is_checked_for_matrices_of_any_size_with_zero_rows(size, A):
    matrix = size * np.array(A, dtype=np.float64)
    rows, cols = np.indices(matrix.shape).reshape(2, -1)
    operator = SparseOperator(rows, cols, matrix.shape, MPI.COMM_SELF)
    values, b = torch.from_numpy(matrix.ravel()), torch.ones(len(matrix), dtype=torch.float64)
    with pytest.raises(InputError, match="relies on A = Aᵀ"):
        solve(operator, values, b, Solver("minres", "none", Refinement(max_it=1)))


@pytest.mark.parametrize("pc", ["mat", "none"])
@pytest.mark.parametrize("level", [Refinement(max_it=1), 1e-8])
def test_nan_is_an_error_where_a_preconditioner_ignores_its_row(pc, level):
    operator = SparseOperator([0], [0], (2, 2), MPI.COMM_SELF)
    b = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    with pytest.raises(PrdpError, match="NaN"):
        solve(operator, torch.ones(1, dtype=torch.float64), b, Solver("richardson", pc, level))


def user_chebyshev():
    """Chebyshev's method in a KSP of the user."""
    ksp = PETSc.KSP().create(MPI.COMM_SELF)
    ksp.setType("chebyshev")
    ksp.getPC().setType("none")
    ksp.setTolerances(rtol=1e-8, max_it=10_000)
    return Solver.from_ksp(ksp)


@pytest.mark.parametrize("make", [lambda: Solver("chebyshev", "none"), user_chebyshev])
def test_a_solver_that_overflowed_can_be_freed_and_used_again(make):
    # PETSc's Chebyshev method overflows where its estimate of the spectrum is too small.
    n, draw = 120, np.random.default_rng(0)
    rows, cols = [*range(n), *range(n - 1)], [*range(n), *range(1, n)]
    operator = SparseOperator(rows + cols[n:], cols + rows[n:], (n, n), MPI.COMM_SELF)
    values = torch.tensor([2.0] * n + [-1.0] * (2 * n - 2), dtype=torch.float64)
    for _ in range(3):
        solver = make()
        with pytest.raises(SolveError, match="DIVERGED_NANORINF"):
            solve(operator, values, torch.ones(n, dtype=torch.float64), solver)
        shifted = values + torch.where(values > 0, 1.0, 0.0)
        b = torch.from_numpy(draw.standard_normal(n))
        if solver.adopted is None:
            x = solve(operator, shifted, b, solver)
            product = operator.tangent_product(shifted, shifted, x[None])[0]
            assert torch.linalg.norm(product - b) < 1e-6 * torch.linalg.norm(b)
        del solver
        gc.collect()


@pytest.mark.parametrize(
    "ksp", ["gmres", "lgmres", "bcgs", "bcgsl", "cgs", "tfqmr", "cg", "minres"]
)
@pytest.mark.parametrize("is_adjoint", [False, True])
def test_a_nearly_singular_preconditioner_hides_no_residual(ksp, is_adjoint):
    n = 12
    A = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    rows, cols = np.nonzero(A)
    operator = SparseOperator(rows, cols, A.shape, MPI.COMM_SELF)
    w = torch.nn.functional.normalize(torch.arange(1.0, n + 1, dtype=torch.float64), dim=0)
    b, found = torch.ones(n, dtype=torch.float64, requires_grad=is_adjoint), []
    for size in 10.0 ** np.arange(0, 20, 2):
        # The norm of this preconditioner is that of one direction.
        one = [lambda r, size=size: r + size * w * (w @ r), lambda r: r]
        pc = ShellPreconditioner(*(one[::-1] if is_adjoint else one))
        try:
            x = solve(operator, torch.from_numpy(A[rows, cols]), b, Solver(ksp, pc, 1e-10))
            if is_adjoint:
                (x,) = torch.autograd.grad(x, b, torch.ones_like(b))
        except PrdpError:
            continue
        found.append(np.linalg.norm(A @ x.detach().numpy() - 1.0) / np.sqrt(n))
    assert len(found) >= 2
    assert max(found) < 0.5


def within(A, x, b, largest):
    """Whether the residual is small, or small in comparison with the terms of each row."""
    left = np.abs(A @ x - b)
    return np.linalg.norm(left) <= largest * np.linalg.norm(b) or np.all(
        left <= largest * (np.abs(A).max(axis=1) * np.abs(x).max() + np.abs(b))
    )


@pytest.mark.parametrize(("ksp", "pc"), [("cgls", "none"), ("cgne", "none"), ("cgne", "jacobi")])
def test_a_small_residual_of_the_normal_equations_is_not_enough(ksp, pc):
    n, draw = 30, np.random.default_rng(0)
    base = 3.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    rows, cols = np.nonzero(base)
    operator = SparseOperator(rows, cols, base.shape, MPI.COMM_SELF)
    outcomes = set()
    for scale in (np.ones(n), *10.0 ** draw.uniform(-4, 4, (4, n))):
        for A in (base * scale, base * scale[:, None]):
            b = torch.from_numpy(draw.standard_normal(n)).requires_grad_()
            for transposed in (False, True) if ksp == "cgne" else (False,):
                levels = (Refinement(max_it=1), 1e-6) if transposed else (1e-6, 1)
                try:
                    x = solve(
                        operator, torch.from_numpy(A[rows, cols]), b, Solver(ksp, pc, *levels)
                    )
                    if transposed:
                        (x,) = torch.autograd.grad(x, b, b.detach())
                except SolveError:
                    outcomes.add("error")
                    continue
                outcomes.add("solved")
                matrix = A.T if transposed else A
                assert within(matrix, x.detach().numpy(), b.detach().numpy(), 0.11)
    assert outcomes == {"error", "solved"}


def test_an_adjoint_residual_is_judged_by_its_terms():
    n, draw = 30, np.random.default_rng(0)
    base = 3.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    rows, cols = np.nonzero(base)
    operator = SparseOperator(rows, cols, base.shape, MPI.COMM_SELF)
    b = torch.from_numpy(draw.standard_normal(n)).requires_grad_()
    for scale in 10.0 ** draw.uniform(-4, 4, (4, n)):
        for A in (base * scale, base * scale[:, None]):
            x = solve(operator, torch.from_numpy(A[rows, cols]), b, Solver("bcgs", "jacobi", 1e-8))
            (found,) = torch.autograd.grad(x, b, b.detach())
            exact = np.linalg.solve(A.T, b.detach().numpy())
            assert np.linalg.norm(found.numpy() - exact) < 1e-5 * np.linalg.norm(exact)


def test_rows_of_any_scale_are_right_in_the_norm_of_their_preconditioner():
    n, draw = 30, np.random.default_rng(0)
    A = 10.0 ** draw.uniform(-6, 6, (n, 1)) * (3.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    rows, cols = np.nonzero(A)
    operator = SparseOperator(rows, cols, A.shape, MPI.COMM_SELF)
    b = torch.from_numpy(draw.standard_normal(n))
    for ksp in ("gmres", "bcgs", "tfqmr"):
        x = solve(operator, torch.from_numpy(A[rows, cols]), b, Solver(ksp, "jacobi", 1e-8)).numpy()
        exact = np.linalg.solve(A, b.numpy())
        assert np.linalg.norm(x - exact) < 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("ksp", sorted(UNGUARDED_KSPS - CONJUGATE_GRADIENTS - {"pipecr"}))
def test_iterations_up_to_a_number_keep_the_solution_that_they_reached(ksp):
    """Pipelined methods do not reach a tolerance near rounding, and what follows has any size."""
    A = np.zeros((4, 4))
    A[[1, 3, 0, 1, 2, 3, 0, 1], [0, 1, 1, 3, 3, 0, 3, 2]] = [
        *(-0.9195470133581459, -0.7981854312718851, -0.9195470133581459, -0.7981854312718851),
        *(-0.9448825022391878, 0.012307845745344869, 0.012307845745344869, 0.7463643393725778),
    ]
    b = np.array([-0.3972657044827798, 1.8308350089855394, 0.33018707415765586, 0.5887661725821093])
    found = []
    for matrix in (A, A.T):
        for K in (6, 7, 8, 9, 10, 20):
            for level in (Refinement(K, 1e-13), Refinement(K)):
                x = solved(matrix, torch.from_numpy(b), ksp, "none", level)
                if x is not None:
                    found.append(np.linalg.norm(b - matrix @ x))
    assert len(found) > 8
    assert max(found) < 1e-6


def test_directions_of_rounding_change_no_solution_of_generalised_conjugate_residuals():
    for n in (2, 3, 5):
        for seed in range(4):
            draw = np.random.default_rng(seed)
            A = draw.normal(size=(n, n))
            A, b = A + A.T, torch.from_numpy(draw.normal(size=n))
            rows, cols = np.indices(A.shape).reshape(2, -1)
            operator = SparseOperator(rows, cols, A.shape, MPI.COMM_SELF)
            for pc, K in (("svd", 30), ("none", n), ("none", 2 * n + 3), ("none", 30)):
                x = solve(operator, torch.from_numpy(A.ravel()), b, Solver("gcr", pc, K))
                wanted = torch.from_numpy(np.linalg.solve(A, b.numpy()))
                torch.testing.assert_close(x, wanted, rtol=1e-8, atol=1e-10)
