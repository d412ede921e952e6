"""Solves with matrices, right-hand sides and guesses of any size, by every method."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    AssembledOperator,
    ElementOperator,
    FunctionOperator,
    SolveError,
    Solver,
    SparseOperator,
    solve,
)
from prdp_hpc.errors import InputError, PrdpError
from prdp_hpc.petsc import PETSc

GMRES = ("gmres", "pgmres", "fgmres", "lgmres")
PIPELINED = ("pipecr", "groppcg", "pipecgrr", "pipeprcg", "pipefcg")
SYMMETRIC = ("cg", "fcg", "pipecg", "cr", "symmlq", "minres", "steepest_descent")
LONG = (*GMRES, "gcr", "pipefgmres", "pipegcr", "lcd")
FURTHER = ("chebyshev", "lsqr", "cgne", "cgls", "ibcgs", "fbcgsr", "pipebcgs", *PIPELINED)
WITHOUT_TRANSPOSE = ("lsqr", "cgls", "ibcgs")
SHORT = ("bcgs", "bcgsl", "fbcgs", "cgs", "tfqmr", "tcqmr", "qmrcgs", "bicg")


def dense_operator(A, **kwargs):
    rows, cols = np.indices(A.shape).reshape(2, -1)
    return SparseOperator(rows, cols, A.shape, MPI.COMM_SELF, **kwargs)


def answer(operator, A, b, solver):
    """The solution, and the gradients of the values and of b of its sum."""
    values = torch.from_numpy(A.ravel().copy()).requires_grad_()
    right = torch.from_numpy(b.copy()).requires_grad_()
    if solver.ksp in WITHOUT_TRANSPOSE:
        return [solve(operator, values, right, solver).detach()]
    x = solve(operator, values, right, solver)
    return [x.detach(), *torch.autograd.grad(x.sum(), (values, right))]


@pytest.mark.parametrize("ksp", [*LONG, *SHORT, *SYMMETRIC, *FURTHER])
def test_solves_are_homogeneous_in_matrices_of_usual_units(ksp):
    """Conductivities and diffusivities in SI units are often below 1e-6; no iteration is lost."""
    draw, is_reached = np.random.default_rng(5), []
    A, b = draw.normal(size=(6, 6)), draw.normal(size=(2, 6))
    A = (A @ A.T / 6 + np.eye(6)) if ksp in (*SYMMETRIC, *PIPELINED) else A / 3 + 2.0 * np.eye(6)
    operator = dense_operator(A)
    for level in (2, 4, 1e-8):
        try:
            solver = Solver(ksp, "none", level)
            expected = answer(operator, A, b, solver)
        except PrdpError:
            continue
        for power in (-80, -50, -30, -20, -14, -11, -7, -4, -2, 7, 20, 50):
            found = answer(operator, 2.0**power * A, b, solver)
            is_reached.append(True)
            for one, other, order in zip(found, expected, (1, 2, 1), strict=False):
                torch.testing.assert_close(
                    one * 2.0 ** (power * order), other, rtol=1e-4, atol=1e-6
                )
    assert is_reached


@pytest.mark.parametrize("ksp", [*LONG, *SHORT, *SYMMETRIC, *FURTHER])
def test_solves_are_homogeneous_in_right_hand_sides_of_any_size(ksp):
    draw, is_reached = np.random.default_rng(5), []
    A, b = draw.normal(size=(6, 6)), draw.normal(size=(2, 6))
    A = (A @ A.T / 6 + np.eye(6)) if ksp in (*SYMMETRIC, *PIPELINED) else A / 3 + 2.0 * np.eye(6)
    operator, values = dense_operator(A), torch.from_numpy(A.ravel())
    for level in (2, 4, 1e-8):
        try:
            solver = Solver(ksp, "none", level)
            expected = solve(operator, values, torch.from_numpy(b), solver)
        except PrdpError:
            continue
        for power in (-990, -170, -80, -44, -39, -30, -20, -9, 9, 20, 30, 39, 44, 80, 170, 990):
            size = np.array([[2.0**power], [1.0]])  # beside a row of ordinary size
            found = solve(operator, values, torch.from_numpy(size * b), solver)
            is_reached.append(True)
            torch.testing.assert_close(
                found / torch.from_numpy(size), expected, rtol=1e-6, atol=1e-8
            )
    assert is_reached


@pytest.mark.parametrize("pc", ["none", "jacobi"])
@pytest.mark.parametrize("ksp", [*LONG, *SHORT, *SYMMETRIC, "chebyshev", "lsqr", "cgne"])
def test_solves_are_homogeneous_in_the_matrix(ksp, pc):
    """The same iterations for matrices of any size, or an error."""
    draw = np.random.default_rng(1)
    A, b = draw.normal(size=(5, 5)), draw.normal(size=(2, 5))
    A = (A + A.T if ksp in SYMMETRIC else A) + 9.0 * np.eye(5)
    operator, is_reached = dense_operator(A), []
    for level in (2, 4, 1e-8):
        try:
            solver = Solver(ksp, pc, level)
            expected = answer(operator, A, b, solver)
        except PrdpError:
            continue
        for size in (2.0**-490, 2.0**-350, 2.0**-120, 2.0**400, 2.0**490):
            try:
                found = answer(operator, size * A, b, solver)
            except SolveError:
                is_reached.append(False)
                continue
            is_reached.append(True)
            for one, other, power in zip(found, expected, (1, 2, 1), strict=False):
                torch.testing.assert_close(one * size**power, other, rtol=1e-7, atol=1e-9)
    assert sum(is_reached) >= 0.8 * len(is_reached)


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("size", [2.0**-490, 2.0**-120, 1.0, 2.0**120, 2.0**490])
def test_jacobi_has_1_for_a_zero_on_the_diagonal_of_matrices_of_any_size(size, differentiation):
    A, b = size * np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[0.5, -3.0]])
    operator = dense_operator(A)
    solver = Solver("richardson", "jacobi", 1, differentiation=differentiation)
    x, _, grad = answer(operator, A, b, solver)
    torch.testing.assert_close(x, torch.from_numpy(b))
    torch.testing.assert_close(grad, torch.ones_like(x))


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("ksp", ["richardson", "cg", "gmres"])
@pytest.mark.parametrize("level", [2, 1e-8])
def test_a_nullspace_is_removed_from_numbers_of_any_size(ksp, level, differentiation):
    A = 4.0 * np.eye(4) - np.ones((4, 4))
    operator = dense_operator(A, constant_nullspace=True)
    solver = Solver(ksp, "jacobi", level, differentiation=differentiation)
    b = np.array([[1.0, -2.0, 0.5, 0.5], [0.5, 1.0, -1.5, 0.0]])
    guess = torch.from_numpy(np.vstack([np.ones(4), np.arange(4.0)]))
    for start in (None, guess):
        right, values = torch.from_numpy(b), torch.from_numpy(A.ravel())
        expected = solve(operator, values, right, solver, start)
        for of_b, of_A in ((2.0**-660, 1.0), (2.0**-200, 1.0), (1.0, 2.0**660), (1.0, 2.0**-400)):
            size = of_b / of_A
            own = None if start is None else size * start
            x = solve(operator, of_A * values, of_b * right, solver, own)
            torch.testing.assert_close(x / size, expected, rtol=1e-9, atol=1e-12)


def test_a_guess_in_the_nullspace_changes_nothing_for_a_right_hand_side_of_any_size():
    A = np.array([[1.0, -1.0], [-1.0, 1.0]])
    operator, values = dense_operator(A, constant_nullspace=True), torch.from_numpy(A.ravel())
    b = torch.tensor([-9.0, 2.0], dtype=torch.float64)
    for ksp in ("cg", "gmres", "cgs", "richardson"):
        solver = Solver(ksp, "jacobi", 1)
        expected = solve(operator, values, b, solver)
        for size in (1e-60, 1e-200):
            x = solve(operator, values, size * b, solver, torch.ones(2, dtype=torch.float64))
            torch.testing.assert_close(x / size, expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("ksp", ["cg", "gmres", "bcgs", "steepest_descent"])
def test_a_row_of_a_batch_has_its_own_gradient_beside_rows_of_any_size(ksp):
    A = np.diag([1.0, 2.0, 5.0]) + 0.1
    operator, solver = dense_operator(A), Solver(ksp, "jacobi", 2, differentiation="unrolled")
    b = np.array([[1.0, 2.0, 3.0], [1.0, -1.0, 2.0]])
    alone = answer(operator, A, b[:1], solver)[2]
    for size in (2.0**-1000, 2.0**-600, 2.0**-70, 2.0**900):
        beside = np.vstack([size * b[0], 2.0**990 * b[1]])
        found = answer(operator, A, beside, solver)[2]
        torch.testing.assert_close(found[:1], alone, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("ksp", [*LONG, *SHORT, "symmlq", "minres"])
@pytest.mark.parametrize("rtol", [0.3, 0.1, 1e-2, 1e-3])
def test_a_coarse_tolerance_is_reached_or_refused(ksp, rtol):
    draw, found = np.random.default_rng(2), []
    singular = [np.array([[0.0, 0, 0], [0, 5, 0], [-3, 0, 0]]), np.diag([1.0, 2.0, 0.0])]
    regular = [np.diag([1.0, 2.0, 9.0]) + 0.3, np.diag([2.0, 3.0, 30.0])]
    for A in singular + regular:
        for size in (1.0, 1e-20):
            operator, values = dense_operator(A), torch.from_numpy(size * A.ravel())
            for b in draw.normal(size=(4, 3)):
                try:
                    x = solve(operator, values, torch.from_numpy(b), Solver(ksp, "none", rtol))
                except PrdpError:
                    continue
                rest = np.linalg.norm(size * A @ x.numpy() - b) / np.linalg.norm(b)
                found.append(rest / rtol)
    assert found
    assert max(found) <= 2.0


@pytest.mark.parametrize("level", [1, 2, 1e-8])
def test_a_solve_does_not_depend_on_the_solves_before_it(level):
    A = np.array([[4.0, 1.0, 0.5], [1.0, 5.0, 1.5], [0.5, 1.5, 6.0]])
    values = torch.from_numpy(A.ravel())
    b, other = torch.tensor([[1.0, 2.0, 3.0], [5.0, -200.0, 31.0]], dtype=torch.float64)
    names = sorted(str(name) for key, name in vars(PETSc.KSP.Type).items() if key.isupper())
    done = 0
    for ksp in names:
        for pc in ("none", "jacobi"):
            operator = dense_operator(A)
            try:
                solver = Solver(ksp, pc, level)
                first = solve(operator, values, b, solver)
                solve(operator, values, other, solver)
                again = solve(operator, values, b, solver)
            except PrdpError:
                continue
            assert torch.equal(first, again), (ksp, pc)
            done += 1
    assert done > 40


def test_a_preconditioner_does_not_depend_on_the_values_before():
    first = np.array([[4.0, 1.0, 0.5], [1.0, 5.0, 1.5], [0.5, 1.5, 6.0]])
    before = torch.from_numpy((first + np.diag([5.0, -3.0, 24.0])).ravel())
    values, b = torch.from_numpy(first.ravel()), torch.tensor([1.0, 2.0, 3.0]).double()
    names = ("jacobi", "pbjacobi", "bjacobi", "asm", "gasm", "ilu", "icc", "sor", "lu")
    for pc in (*names, "cholesky", "gamg", "redundant", "svd", "qr", "kaczmarz", "cp", "telescope"):
        solver, operator = Solver("gmres", pc, 1), dense_operator(first)
        try:
            x = solve(dense_operator(first), values, b, Solver("gmres", pc, 1))
            solve(operator, before, b, solver)
            again = solve(operator, values, b, solver)
        except PrdpError:
            assert pc not in names
            continue
        torch.testing.assert_close(again, x, rtol=1e-12, atol=0.0, msg=pc)


@pytest.mark.parametrize("block", [2, 3])
def test_blocks_are_those_of_the_values_in_both_directions(block):
    """PETSc keeps the inverses of the first blocks with the matrix."""
    A = np.random.default_rng(block).normal(size=(6, 6)) + 9.0 * np.eye(6)
    reused, b = dense_operator(A, block_size=block), np.arange(1.0, 7.0)
    solver = Solver("richardson", "pbjacobi", 1)
    for scale in (1.0, 3.0, -2.0):
        matrix = scale * A + np.diag(np.arange(6.0))
        found = answer(reused, matrix, b, solver)
        wanted = answer(dense_operator(A, block_size=block), matrix, b, solver)
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0.0)
        inverses = [np.linalg.inv(matrix[i : i + block, i : i + block]) for i in range(0, 6, block)]
        x = np.concatenate(
            [one @ part for one, part in zip(inverses, np.split(b, 6 // block), strict=True)]
        )
        torch.testing.assert_close(found[0], torch.from_numpy(x), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("key", ["sub_pc_type", "mg_levels_pc_type", "-adjoint_sub_pc_type"])
def test_blocks_inside_of_another_preconditioner_are_refused(key):
    with pytest.raises(InputError, match=r"keep the blocks of the first values"):
        Solver("gmres", "bjacobi", 1e-8, petsc_options={key: "pbjacobi"})


@pytest.mark.parametrize("ksp", ["pipegcr", "pipefgmres", "pipefcg", "minres"])
@pytest.mark.parametrize("kind", [ElementOperator, AssembledOperator])
def test_small_matrices_that_cannot_be_scaled_are_right_or_refused(kind, ksp):
    draw = np.random.default_rng(7)
    A = draw.normal(size=(5, 5))
    A = A @ A.T / 5 + np.eye(5)
    b, refused = torch.from_numpy(draw.normal(size=5)), []

    def assemble(matrix, size):
        matrix.setValues(range(5), range(5), size * A)
        matrix.assemble()

    def solution(size):
        if kind is ElementOperator:
            operator = ElementOperator(np.arange(5)[None], 5, MPI.COMM_SELF, symmetric=True)
            return solve(operator, torch.from_numpy(size * A[None]), b, Solver(ksp, "none", 4))
        matrix = PETSc.Mat().createAIJ((5, 5), nnz=5, comm=MPI.COMM_SELF)
        operator = AssembledOperator(matrix, lambda _, own: assemble(own, size), symmetric=True)
        return solve(operator, None, b, Solver(ksp, "none", 4))

    expected = solution(1.0)
    for power in (-50, -20, -8, -1, 20):
        try:
            found = solution(2.0**power)
        except SolveError:
            refused.append(power)
            continue
        torch.testing.assert_close(2.0**power * found, expected, rtol=1e-4, atol=1e-6)
    assert refused[:2] == [-50, -20]
    assert not {-1, 20} & set(refused)


@pytest.mark.parametrize("ksp", ["cg", "gmres", "bcgs", "steepest_descent"])
def test_a_matrix_of_a_batch_has_its_own_gradient_beside_right_hand_sides_of_any_size(ksp):
    """Also where larger ones of the same matrix add nothing to it: their iterates are 0."""
    A = np.array([[0.0, 1.0], [1.0, 0.0]])
    operator = dense_operator(A)
    # One iteration from this right-hand side stays at 0 for GMRES.
    still = np.array([0.0, 1.0])
    own = A if ksp == "gmres" else A + 2.0 * np.eye(2)
    solver = Solver(ksp, "none", 1, differentiation="unrolled")
    draw = np.random.default_rng(4)
    others = [still] if ksp == "gmres" else []
    for small, large in ((1e-200, 1e150), (1e-90, 1e90), (1e-140, 1.0), (1e-30, 1e120)):
        rows = [*others, small * draw.normal(size=2), large * draw.normal(size=2)]
        b = torch.from_numpy(np.array([*rows[:-1], *rows[-1:] * len(rows[:-1])]))
        matrices = torch.from_numpy(np.stack([own.ravel(), 2.0 * own.ravel()]))
        matrices.requires_grad_()
        weights = torch.from_numpy(draw.normal(size=tuple(b.shape)))
        x = solve(operator, matrices, b, solver)
        (found,) = torch.autograd.grad((x * weights).sum(), matrices)
        count = len(rows) - 1
        for number in range(2):
            expected = torch.zeros(4, dtype=torch.float64)
            for k in range(number * count, (number + 1) * count):
                one = matrices[number].detach().requires_grad_()
                x = solve(operator, one, b[k], solver)
                expected += torch.autograd.grad((x * weights[k]).sum(), one)[0]
            torch.testing.assert_close(found[number], expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("ksp", ["richardson", "cg", "gmres", "bcgs", "steepest_descent"])
@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
def test_functions_of_any_size_have_right_gradients_or_are_refused(ksp, differentiation):
    draw = np.random.default_rng(8)
    A = draw.normal(size=(4, 4))
    A = torch.from_numpy(A @ A.T + 2.0 * np.eye(4) if ksp in SYMMETRIC else A + 4.0 * np.eye(4))
    b, weights = (torch.from_numpy(draw.normal(size=(2, 4))) for _ in range(2))
    pc = "jacobi" if ksp == "richardson" else "none"
    solver = Solver(ksp, pc, 2, differentiation=differentiation)

    def gradients(size):
        operator = FunctionOperator(
            lambda s, x: s * size * (A @ x),
            4,
            MPI.COMM_SELF,
            apply_transpose=lambda s, x: s * size * (A.T @ x),
            diagonal=lambda s: s * size * A.diagonal(),
        )
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        right = b.clone().requires_grad_()
        x = solve(operator, factor, right, solver)
        return [x.detach(), *torch.autograd.grad((x * weights).sum(), (factor, right))]

    expected, reached = gradients(1.0), []
    # Beyond 2^500 the gradient of the function itself, λᵀ A x by torch, underflows.
    for power in (-490, -390, -320, -200, -60, 60, 200, 320, 390, 490):
        try:
            found = gradients(2.0**power)
        except SolveError:
            continue
        reached.append(power)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(2.0**power * one, other, rtol=1e-7, atol=1e-9)
    assert {-60, 60} <= set(reached)
