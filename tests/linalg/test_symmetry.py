"""Property: methods for A = Aᵀ accept symmetric values only, for any scaling of the values."""

from itertools import count

import numpy as np
import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import FunctionOperator, Grid, Poisson, Solver, SparseOperator, solve
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import SYMMETRIC_KSPS, SYMMETRIC_PCS
from prdp_hpc.petsc import PETSc

WORLD = MPI.COMM_WORLD
NUMBERS = count()
N = 12
ONES = torch.ones(N, dtype=torch.float64)
LEVELS = [1e-10, 40]
METHODS = [(ksp, level) for ksp in sorted(SYMMETRIC_KSPS) for level in LEVELS]
METHODS.remove(("pipecg2", 40))  # which takes no number of iterations


def nearly_symmetric(by):
    """One entry, far from the diagonal, differs from its mirror image."""
    matrix = dominant(N, symmetric=True, density=1.0)
    matrix[2, 9] *= 1.0 + by
    return matrix


def scaled(matrix, seed=0):
    """`D A D` with D from 1e-8 to 1e8."""
    d = 10.0 ** (16.0 * torch.rand(N, generator=torch.Generator().manual_seed(seed)).double() - 8)
    return d[:, None] * matrix * d


@pytest.mark.parametrize(("ksp", "level"), METHODS)
def test_methods_for_symmetric_matrices_refuse_others(ksp, level):
    for matrix in (dominant(N), nearly_symmetric(1e-4), scaled(nearly_symmetric(1e-4))):
        operator, values = sparse(matrix)
        with pytest.raises(ValueError, match=rf"ksp='{ksp}' relies on A = Aᵀ.*ksp='gmres'"):
            solve(operator, values, ONES, Solver(ksp, "jacobi", level))


@pytest.mark.parametrize("level", [1e-10, 5])
@pytest.mark.parametrize("ksp", ["gmres", "preonly"])
@pytest.mark.parametrize("pc", sorted(SYMMETRIC_PCS))
def test_factorisations_of_one_triangle_refuse_others(ksp, pc, level):
    operator, values = sparse(nearly_symmetric(0.1))
    if (ksp, pc, level) == ("preonly", "icc", 5):
        pytest.skip("icc is applied once, and refused for 5 iterations already")
    with pytest.raises(ValueError, match=rf"pc='{pc}' relies on A = Aᵀ"):
        solve(operator, values, ONES, Solver(ksp, pc, level))


NESTED = [
    *((pc, {"sub_pc_type": "icc"}) for pc in ("bjacobi", "asm", "gasm")),
    ("bjacobi", {"sub_pc_type": "cholesky", "sub_pc_factor_shift_type": "positive_definite"}),
    ("ksp", {"ksp_pc_type": "icc", "ksp_ksp_type": "gmres"}),
    ("redundant", {"redundant_pc_type": "icc"}),
    ("telescope", {"telescope_pc_type": "icc"}),
    ("composite", {"pc_composite_pcs": "icc,jacobi"}),
    ("gamg", {"mg_levels_pc_type": "icc", "pc_gamg_coarse_eq_limit": 1}),
    ("fieldsplit", {"fieldsplit_u_pc_type": "icc"}),
]
ROTATED = torch.tensor([[1.34, 0.904], [-0.3, 0.2916]], dtype=torch.float64)
"""PETSc repeats its incomplete Cholesky factorisation without end."""


@pytest.mark.parametrize(("pc", "options"), NESTED, ids=lambda one: str(one))
def test_factorisations_inside_of_other_preconditioners_refuse_others(pc, options):
    fields = {"fields": {"u": [0, 1], "p": [2, 3]}} if pc == "fieldsplit" else {}
    operator, values = sparse(torch.block_diag(ROTATED, ROTATED), **fields)
    solvers = [Solver("gmres", pc, 1e-10, petsc_options=options)]
    if not fields:
        solvers.append(Solver.from_ksp(_ksp(pc, options), refinement=1e-10))
    for solver in solvers:
        with pytest.raises(InputError, match=r"(icc|cholesky).* relies on A = Aᵀ"):
            solve(operator, values, ONES[:4], solver)


def _ksp(pc, options):
    ksp, prefix = PETSc.KSP().create(WORLD), f"nested{next(NUMBERS)}_"
    ksp.setOptionsPrefix(prefix)
    for key, value in {"ksp_type": "gmres", "pc_type": pc, **options}.items():
        PETSc.Options().setValue(prefix + key, value)
    ksp.setFromOptions()
    return ksp


@pytest.mark.parametrize(
    ("pc", "options"),
    [
        ("lu", {"pc_factor_shift_type": "positive_definite"}),
        ("redundant", {"redundant_pc_factor_shift_type": "POSITIVE_DEFINITE"}),
        ("bjacobi", {"sub_pc_type": "lu", "sub_pc_factor_shift_type": "positive_definite"}),
    ],
)
def test_shifts_with_which_a_factorisation_ends_the_program_are_refused(pc, options):
    operator, values = sparse(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))
    with pytest.raises(InputError, match=r"positive_definite.*use 'nonzero'"):
        solve(operator, values, ONES[:2], Solver("gmres", pc, 1e-10, petsc_options=options))
    right = {**options, next(k for k in options if "shift" in k): "nonzero"}
    x = solve(operator, values, ONES[:2], Solver("gmres", pc, 1e-10, petsc_options=right))
    torch.testing.assert_close(x, ONES[:2] / 3.0)


def test_the_promise_is_checked_with_every_load_and_in_a_batch():
    symmetric, other = dominant(N, symmetric=True, density=1.0), nearly_symmetric(0.1)
    operator, values = sparse(symmetric, symmetric=True)
    wrong = other.flatten()
    solver = Solver("gmres", "jacobi")
    solve(operator, values, ONES, solver)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"symmetric=True relies on A = Aᵀ"):
            solve(operator, wrong, ONES, solver)
    with pytest.raises(ValueError, match=r"symmetric=True relies on A = Aᵀ"):
        solve(operator, torch.stack([values, wrong]), ONES.repeat(2, 1), solver)
    torch.testing.assert_close(symmetric @ solve(operator, values, ONES, solver), ONES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_symmetric_values_are_taken_with_rounding_and_bad_scaling(dtype):
    for seed in range(10):
        # Each entry and its mirror image are computed in another order.
        factors = torch.randn(3, N, N, generator=torch.Generator().manual_seed(seed))
        matrix = torch.zeros(N, N, dtype=dtype)
        for f in factors.to(dtype):
            matrix = matrix + f @ f.T + f.T @ f
        matrix = matrix + torch.eye(N, dtype=dtype)
        for one in (matrix, scaled(matrix.double(), seed).to(dtype)):
            operator, values = sparse(one, symmetric=True)
            solve(operator, values, ONES, Solver("cg", "jacobi", 0.5))


def test_a_function_that_has_no_transpose_is_checked_by_two_products():
    for matrix in (dominant(N, symmetric=True), nearly_symmetric(0.1)):

        def apply(_, x, matrix=matrix):
            return torch.from_numpy(matrix.numpy() @ x.detach().numpy())

        operator = FunctionOperator(apply, N, MPI.COMM_SELF)
        solver = Solver("cg", "none", 1e-10)
        if torch.equal(matrix, matrix.T):
            torch.testing.assert_close(matrix @ solve(operator, None, ONES, solver), ONES)
            continue
        with pytest.raises(InputError, match=r"sᵀ A r and rᵀ A s differ"):
            solve(operator, None, ONES, solver)


def test_a_function_is_checked_in_inference_mode():
    matrix = dominant(N)
    operator = FunctionOperator(lambda _, x: matrix @ x, N, MPI.COMM_SELF)
    with torch.inference_mode(), pytest.raises(InputError, match=r"relies on A = Aᵀ"):
        solve(operator, None, ONES, Solver("minres", "none", 2))


HALF_STORED = [
    *(("ilu", {}), ("bjacobi", {}), ("asm", {}), ("gasm", {}), ("sor", {"pc_sor_forward": True})),
    *(("bjacobi", {"sub_pc_type": "icc"}), ("sor", {}), ("icc", {})),
]
"""Preconditioners, of which the first are not symmetric for zeros that are stored on one side."""


@pytest.mark.parametrize("ksp", ["minres", "symmlq"])
@pytest.mark.parametrize(("pc", "options"), HALF_STORED)
def test_methods_that_need_a_symmetric_preconditioner_are_right_or_refuse(ksp, pc, options):
    """K = 3 steps reach the solution of 3 equations only if the basis is orthogonal."""
    refused = 0
    for seed in range(8):
        a, b, *diagonal = np.random.default_rng(seed).uniform(1.0, 2.0, 5)
        A = np.diag(3.0 + np.array(diagonal))
        A[0, 1] = A[1, 0] = -a
        A[0, 2] = A[2, 0] = b
        stored = A != 0.0
        stored[2, 1] = True
        rows, cols = np.nonzero(stored)
        operator = SparseOperator(rows, cols, A.shape, MPI.COMM_SELF)
        solver = Solver(ksp, pc, 3, petsc_options=options)
        try:
            x = solve(operator, torch.from_numpy(A[stored]), ONES[:3], solver)
        except InputError as error:
            assert "needs a symmetric preconditioner" in str(error)  # noqa: PT017 - either is right
            refused += 1
        else:
            torch.testing.assert_close(torch.from_numpy(A) @ x, ONES[:3], rtol=0.0, atol=1e-9)
    assert refused == (8 if (pc, options) in HALF_STORED[:5] else 0)


@pytest.mark.parallel(nprocs=[1, 3])
def test_all_ranks_refuse_together():
    for by, refused in ((0.0, False), (1e-3, True)):
        matrix = nearly_symmetric(by)
        rows, cols = matrix.nonzero(as_tuple=True)
        mine = slice(WORLD.rank, None, WORLD.size)
        operator = SparseOperator(rows[mine].numpy(), cols[mine].numpy(), (N, N), symmetric=True)
        b = torch.ones(operator.n_local, dtype=torch.float64)
        try:
            solve(operator, matrix[rows, cols][mine], b, Solver("cg", "jacobi"))
            found = False
        except ValueError as error:
            found = "ksp='cg' and symmetric=True relies on A = Aᵀ" in str(error)
            found = found and "in row" in str(error)
        assert WORLD.allgather(found) == [refused] * WORLD.size


def test_a_check_is_one_pair_of_products(monkeypatch):
    """The cost: one pair for new values, none for known ones or those of a physics."""
    operator, values = sparse(dominant(N, symmetric=True), symmetric=True)
    products = []
    check = operator.promises
    whole = check._product
    monkeypatch.setattr(check, "_product", lambda *a, **k: products.append(1) or whole(*a, **k))
    solvers = Solver("cg", "jacobi"), Solver("minres", "none"), Solver("gmres", "cholesky")
    for factor in (1.0, 2.0):
        for _ in range(3):
            for solver in solvers:
                solve(operator, values * factor, ONES, solver)
    assert len(products) == 4
    poisson = Poisson(Grid((8,), "periodic", MPI.COMM_SELF), Solver("cg", "none"))
    monkeypatch.setattr(type(check), "_product", lambda *a, **k: pytest.fail("a product"))
    poisson(torch.randn(8, dtype=torch.float64))


def test_conjugate_gradients_on_an_indefinite_matrix_are_right_or_say_so():
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        matrix = torch.randn(N, N, generator=draw, dtype=torch.float64)
        matrix = matrix + matrix.T
        operator, values = sparse(matrix, symmetric=True)
        for level in (1e-10, 200):
            try:
                x = solve(operator, values, ONES, Solver("cg", "none", level))
            except RuntimeError as error:
                assert "positive definite" in str(error)  # noqa: PT017 - either is right
            else:
                torch.testing.assert_close(matrix @ x, ONES)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pc", ["lu", "cholesky", "ilu", "icc", "asm", "gamg"])
def test_zeros_stored_on_one_side_of_a_symmetric_matrix_end_no_solve(pc):
    """Orderings of PETSc that rely on a symmetric pattern do not end without one."""
    draw, n = np.random.default_rng(3), 6
    for _ in range(60):
        A = np.triu(draw.normal(size=(n, n)) * (draw.random((n, n)) < 0.3))
        A = A + A.T + 6.0 * np.eye(n)
        stored = (A != 0.0) | (draw.random((n, n)) < 0.3)
        rows, cols = np.nonzero(stored)
        operator = SparseOperator(rows, cols, (n, n), MPI.COMM_SELF, symmetric=True)
        b = torch.from_numpy(draw.normal(size=n))
        x = solve(operator, torch.from_numpy(A[stored]), b, Solver("gmres", pc, 1e-10))
        torch.testing.assert_close(x, torch.from_numpy(np.linalg.solve(A, b.numpy())))


@pytest.mark.parametrize("size", [1e-100, 1e-21, 1e-10, 1.0, 1e21, 1e100])
@pytest.mark.parametrize("kind", ["function", "sparse"])
def test_the_promise_is_checked_for_values_of_any_size(kind, size):
    matrices = {True: dominant(N, symmetric=True, density=1.0), False: nearly_symmetric(0.1)}
    for is_symmetric, matrix in matrices.items():
        operator, values = sparse(size * matrix, symmetric=True)
        if kind == "function":
            operator, values = _product_with(size * matrix), None
        if is_symmetric:
            x = solve(operator, values, ONES, Solver("gmres", "none", 1e-10))
            torch.testing.assert_close(size * (matrix @ x), ONES)
        else:
            with pytest.raises(ValueError, match=r"symmetric=True relies on A = Aᵀ"):
                solve(operator, values, ONES, Solver("gmres", "none", 1e-10))


def _product_with(matrix):
    return FunctionOperator(
        lambda _, x: matrix @ x,
        N,
        MPI.COMM_SELF,
        apply_transpose=lambda _, x: matrix.T @ x,
        symmetric=True,
    )
