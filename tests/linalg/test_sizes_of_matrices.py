"""Preconditioners, and batches, of matrices of any size: small ones are usual in SI units."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import AssembledOperator, SolveError, Solver, SparseOperator, solve
from prdp_hpc.errors import PrdpError
from prdp_hpc.petsc import PETSc

FACTORS = ("lu", "cholesky", "ilu", "icc", "redundant", "telescope")
BLOCKS = ("bjacobi", "asm", "gasm", "pbjacobi")
OTHERS = ("sor", "eisenstat", "gamg", "hmg", "ksp", "redistribute", "svd", "jacobi")
POWERS = (-400, -50, -24, 20, 400)


def dense_operator(A, **kwargs):
    rows, cols = np.indices(A.shape).reshape(2, -1)
    return SparseOperator(rows, cols, A.shape, MPI.COMM_SELF, **kwargs)


def assembled_operator(A):
    def assemble(_, matrix):
        matrix.setValues(range(len(A)), range(len(A)), A)
        matrix.assemble()

    matrix = PETSc.Mat().createAIJ(A.shape, nnz=len(A), comm=MPI.COMM_SELF)
    return AssembledOperator(matrix, assemble, symmetric=True)


def symmetric_matrices():
    draw = np.random.default_rng(5)
    G = draw.normal(size=(6, 6))
    unequal = np.diag([2.0**-16] * 3 + [1.0] * 3) + 1e-6 * (G + G.T)
    return [G @ G.T / 6 + np.eye(6), unequal], draw.normal(size=(2, 6))


def answer(operator, values, b, solver):
    """The solution and, where there is a transpose, the gradients of its sum."""
    values, right = (torch.from_numpy(given.copy()).requires_grad_() for given in (values, b))
    x = solve(operator, values, right, solver)
    try:
        return [x.detach(), *torch.autograd.grad(x.sum(), (values, right))]
    except PrdpError:
        return [x.detach()]


@pytest.mark.parametrize("pc", [*FACTORS, *BLOCKS, *OTHERS])
def test_preconditioners_are_homogeneous_in_the_matrix(pc):
    matrices, b = symmetric_matrices()
    is_reached = False
    for A in matrices:
        operator = dense_operator(A)
        for ksp, level in (("gmres", 1), ("cg", 1e-8), ("richardson", 2), ("preonly", 1)):
            solver = Solver(ksp, pc, level)
            try:
                expected = answer(operator, A.ravel(), b, solver)
            except PrdpError:
                continue
            is_reached = True
            for power in POWERS:
                found = answer(operator, 2.0**power * A.ravel(), b, solver)
                for one, other, order in zip(found, expected, (1, 2, 1), strict=False):
                    torch.testing.assert_close(
                        one * 2.0 ** (power * order), other, rtol=1e-6, atol=1e-8
                    )
    assert is_reached


@pytest.mark.parametrize("ksp", ["preonly", "gmres"])
@pytest.mark.parametrize("part", [{}, {"redundant_pc_type": "svd"}])
@pytest.mark.parametrize("make", [dense_operator, assembled_operator])
def test_the_singular_values_taken_for_zero_are_relative_to_the_matrix(make, part, ksp):
    draw = np.random.default_rng(3)
    Q = np.linalg.qr(draw.normal(size=(5, 5)))[0]
    b = Q[:, :4] @ draw.normal(size=4)  # in the range of the singular ones
    solver = Solver(ksp, "redundant" if part else "svd", 1, petsc_options=part)
    powers = (-90, -50, -30, -22, -10, 0) if part else (-90, -50, -30, -10, 0, 30, 60)
    if part and make is assembled_operator:
        powers = (0,)  # where nothing can be scaled, the part's number is absolute
    for smallest in (1e-9, 0.0):
        A = (Q * [1.0, 0.5, 2.0, 0.1, smallest]) @ Q.T
        A = (A + A.T) / 2
        wanted = torch.from_numpy(np.linalg.pinv(A, rcond=1e-12) @ b)
        for power in powers:
            size = 2.0**power
            values = None if make is assembled_operator else torch.from_numpy(size * A.ravel())
            x = solve(make(size * A), values, torch.from_numpy(b), solver)
            torch.testing.assert_close(size * x, wanted, rtol=1e-5, atol=1e-6)


def test_the_users_number_for_singular_values_is_kept():
    A, b = np.diag([1.0, 0.25]), torch.ones(2).double()
    solver = Solver("preonly", "svd", 1, petsc_options={"pc_svd_zero_sing": 0.6})
    for size, second in ((1.0, 0.0), (2.0, 0.0), (4.0, 1.0)):
        x = solve(dense_operator(A), torch.from_numpy(size * A.ravel()), b, solver)
        torch.testing.assert_close(x, torch.tensor([1.0 / size, second]).double())


@pytest.mark.parametrize("pc", ["ksp", "redistribute"])
def test_inner_solves_are_not_zero_for_short_vectors(pc):
    A = np.array([[4.0, 1.0], [1.0, 3.0]])
    b = torch.tensor([1.0, 2.0]).double()
    for power in (200, 400):
        operator = assembled_operator(2.0**power * A)
        x = solve(operator, None, b, Solver("richardson", pc, 1)) * 2.0**power
        torch.testing.assert_close(
            x, torch.linalg.solve(torch.from_numpy(A), b), rtol=1e-4, atol=0.0
        )


def test_multigrid_refuses_small_matrices_that_cannot_be_scaled():
    (A, _), b = symmetric_matrices()
    right, solver = torch.from_numpy(b), Solver("gmres", "gamg", 2)
    expected = solve(assembled_operator(A), None, right, solver)
    for power in (-30, 20):
        x = solve(assembled_operator(2.0**power * A), None, right, solver)
        torch.testing.assert_close(x * 2.0**power, expected, rtol=1e-8, atol=0.0)
    for power in (-45, -60):
        with pytest.raises(SolveError, match=r"compares with absolute numbers"):
            solve(assembled_operator(2.0**power * A), None, right, solver)


@pytest.mark.parametrize(
    "method",
    [
        *(("minres", "none"), ("symmlq", "none"), ("pipefgmres", "none"), ("pipefcg", "none")),
        *(("pipegcr", "none"), ("lsqr", "none"), ("gmres", "ilu"), ("cg", "gamg")),
        *(("richardson", "svd"), ("preonly", "lu"), ("bcgs", "sor"), ("cgs", "none")),
    ],
)
def test_each_matrix_of_a_batch_is_solved_as_alone_beside_others_of_any_size(method):
    (A, _), b = symmetric_matrices()
    operator, done = dense_operator(A), 0
    for level in (2, 1e-8):
        solver = Solver(*method, level)
        for powers in ((0, -20, -50), (0, -400, 400), (-80, 90, 110)):
            sizes = 2.0 ** np.array(powers)
            values = torch.from_numpy(sizes[:, None] * A.ravel()).requires_grad_()
            right = torch.from_numpy(np.tile(b, (3, 1)))
            try:
                alone = solve(operator, torch.from_numpy(A.ravel()), right[:2], solver)
            except PrdpError:
                continue
            x = solve(operator, values, right, solver)
            back = torch.from_numpy(np.repeat(sizes, 2)[:, None])
            torch.testing.assert_close(x.detach() * back, alone.repeat(3, 1), rtol=1e-6, atol=1e-9)
            done += 1
            try:
                (found,) = torch.autograd.grad((x * back).sum(), values)
            except PrdpError:
                assert method[0] == "lsqr" or method[1] == "sor"
                continue
            own = torch.from_numpy(A.ravel()).requires_grad_()
            (wanted,) = torch.autograd.grad(solve(operator, own, right[:2], solver).sum(), own)
            found = found * torch.from_numpy(sizes)[:, None]
            torch.testing.assert_close(found, wanted.repeat(3, 1), rtol=1e-5, atol=1e-8)
    assert done


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_batches_in_lower_precision_have_factors_of_their_own(dtype):
    operator = dense_operator(np.eye(2))
    small = 2.0**-23 if dtype is torch.float16 else 2.0**-60
    values = torch.tensor([[2.0, 0.0, 0.0, 4.0], [2 * small, 0.0, 0.0, 4 * small]], dtype=dtype)
    b = torch.tensor([[1.0, 2.0], [small, 2 * small]], dtype=dtype)
    x = solve(operator, values.requires_grad_(), b, Solver("gmres", "lu", 1e-8))
    assert x.dtype is dtype
    torch.testing.assert_close(x.detach(), torch.full((2, 2), 0.5, dtype=dtype))
    (grad,) = torch.autograd.grad(x[0].sum(), values)
    assert grad.dtype is dtype


@pytest.mark.parametrize("power", [-400, -30, 400])
@pytest.mark.parametrize("method", [("cg", "gamg"), ("gmres", "ilu"), ("minres", "jacobi")])
@pytest.mark.parametrize("count", [1, 2])
def test_a_scaled_matrix_is_set_up_as_often_as_one_of_ordinary_size(count, method, power):
    (A, _), b = symmetric_matrices()
    set_ups = []
    for factor in (1.0, 2.0**power):
        operator, solver = dense_operator(A), Solver(*method, 1e-8)
        for shift in (1.0, 1.0, 2.0, 2.0, 1.0):
            values = torch.from_numpy(factor * shift * np.tile(A.ravel(), (count, 1)))
            values = values[0] if count == 1 else values
            solve(operator, values, torch.from_numpy(b), solver)
        set_ups.append(solver.report.forward.set_ups)
    # The first scaled values are loaded as they are before their size is known.
    assert set_ups[1] <= set_ups[0] + count
