"""Property: a solve has the same result after any other solves with its solver, also where an
earlier solve failed.
"""

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import NonlinearSolver, Refinement, SolveError, Solver, solve, solve_nonlinear
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import SYMMETRIC_KSPS

N, SELF = 40, MPI.COMM_SELF
SHORT = {"gcr": "restart", "pipegcr": "mmax", "fcg": "mmax", "pipefcg": "mmax", "lcd": "restart"}
KSPS = ("gmres", "fgmres", "lgmres", "pgmres", "pipefgmres", *SHORT, "bcgs", "fbcgs", "bcgsl")
KSPS += ("ibcgs", "bicg", "cgs", "tfqmr", "tcqmr", "qmrcgs", "chebyshev", "richardson", "cg")
KSPS += ("minres", "symmlq", "cr", "pipecr", "cgne", "lsqr", "steepest_descent")
LEVELS = [Refinement(20), Refinement(20, 1e-5), Refinement(rtol=1e-9)]
PARTS = [
    ("gmres", "redundant", {}),
    ("gmres", "ksp", {"ksp_pc_type": "ilu"}),
    ("gmres", "pbjacobi", {}),
    ("gmres", "bjacobi", {"sub_pc_type": "ilu"}),
    ("gmres", "composite", {"pc_composite_pcs": "jacobi,ilu"}),
    ("gmres", "composite", {"pc_composite_pcs": "jacobi,bjacobi"}),
    ("gmres", "gamg", {"mg_levels_pc_type": "bjacobi"}),
    ("fgmres", "lu", {}),
    ("richardson", "ilu", {}),
]


def banded(symmetric, size=1.0, skew=0.4):
    """A matrix for which a restarted method does not converge before its second restart."""
    skew = 0.0 if symmetric else skew
    ones = torch.ones(N - 1, dtype=torch.float64)
    diagonal = torch.linspace(2.05, 2.6, N, dtype=torch.float64)
    below, above = torch.diag(-(1.0 + skew) * ones, -1), torch.diag(-(1.0 - skew) * ones, 1)
    return size * (torch.diag(diagonal) + below + above)


def result(operator, values, b, solver):
    """The solution and its gradients, or the error's name."""
    inputs = [one.clone().requires_grad_() for one in (values, b)]
    try:
        x = solve(operator, *inputs, solver)
        x.backward(torch.linspace(1.0, 2.0, x.shape[-1], dtype=torch.float64))
    except (SolveError, InputError) as error:
        return type(error).__name__
    return torch.cat([x.detach(), *(one.grad for one in inputs)])


def are_equal(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return bool((one - other).norm() <= 1e-12 * other.norm())


@pytest.mark.parametrize("ksp", KSPS)
def test_earlier_solves_change_nothing(ksp):
    short = SHORT.get(ksp)
    options = {f"ksp_{ksp}_{short}": 6} if short else {}
    options |= {"ksp_gmres_restart": 6} if "gmres" in ksp else {}
    matrix = banded(ksp in SYMMETRIC_KSPS)
    operator, values = sparse(matrix)
    b = torch.randn(2, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    others = banded(ksp in SYMMETRIC_KSPS, 1.7, 0.7)[matrix.nonzero(as_tuple=True)]
    for level in LEVELS:
        try:
            made = [Solver(ksp, "jacobi", level, petsc_options=options) for _ in range(3)]
            alone = result(operator, values, b[0], made[0])
        except InputError:
            continue
        for solver, before in zip(made[1:], [(values, b[1]), (others, b[0])], strict=True):
            result(operator, *before, solver)
            assert are_equal(result(operator, values, b[0], solver), alone), (level, ksp)


@pytest.mark.parametrize("lag", [None, 5])
@pytest.mark.parametrize(("ksp", "pc", "options"), PARTS)
def test_a_failed_solve_changes_nothing(ksp, pc, options, lag):
    """Parts inside of a preconditioner keep the error of a factorisation in PETSc."""
    matrix = dominant(12)
    level = 5 if ksp == "richardson" else 1e-10
    b = torch.ones(12, dtype=torch.float64)
    where = matrix.nonzero(as_tuple=True)
    for is_first in (True, False):
        operator, values = sparse(matrix)
        solver, fresh = (
            Solver(ksp, pc, level, petsc_options=options, lag_preconditioner=lag) for _ in "ab"
        )
        if not is_first:
            result(operator, values, b, solver)
        for rows in ([3], range(12)):
            singular = matrix.clone()
            singular[list(rows)] = 0.0
            assert isinstance(result(operator, singular[where], b, solver), str)
        alone = result(operator, values, b, fresh)
        assert not isinstance(alone, str)
        for _ in range(2):
            assert are_equal(result(operator, values, b, solver), alone)


@pytest.mark.parametrize("pc", ["redundant", "bjacobi", "pbjacobi", "ilu", "lu"])
def test_derivatives_of_unrolled_solves_do_not_see_a_failed_solve_after_them(pc):
    matrix, b = dominant(12), torch.ones(12, dtype=torch.float64)
    (operator, values), found = sparse(matrix), []
    for fails in (False, True):
        solver, right = Solver("gmres", pc, 4, differentiation="unrolled"), b.clone()
        x = solve(operator, values, right.requires_grad_(), solver)
        if fails:
            with pytest.raises(SolveError):
                solve(operator, torch.zeros_like(values), b, solver)
        x.square().sum().backward()
        found.append(right.grad)
    assert are_equal(*found)


@pytest.mark.parametrize("pc", ["ilu", "bjacobi", "asm", "gamg"])
def test_a_kept_preconditioner_of_other_values_hides_no_residual(pc):
    """GMRES measures `M⁻¹ r`: an M of a badly scaled matrix leaves rows of the residual out."""
    matrix, b = banded(False, 1.7), torch.linspace(-1.0, 1.0, N, dtype=torch.float64)
    operator, values = sparse(matrix)
    earlier, right = matrix.clone(), b.clone()
    for one in (earlier, right):
        one[3] *= 1e-12
    solver = Solver("gmres", pc, 1e-8, lag_preconditioner=10)
    solve(operator, earlier[matrix.nonzero(as_tuple=True)], right, solver)
    for _ in range(2):
        x = solve(operator, values, b, solver)
        torch.testing.assert_close(matrix @ x, b, rtol=0.0, atol=1e-5)


def answers(method, level, size):
    """Solutions and gradients for values of a size that changes, in the units of size 1."""
    matrix = dominant(8, symmetric=True)
    (operator, values), b = sparse(matrix), torch.ones(8, dtype=torch.float64)
    solver, found = Solver(*method, level, lag_preconditioner=4), []
    for own in (size, 3.0 * size, 0.4 * size):
        one = result(operator, own * values, size * b, solver)
        if isinstance(one, str):
            return None
        found.append(torch.cat([one[:8], size * one[8:]]))
    return torch.stack(found)


@pytest.mark.parametrize("size", [1e-9, 1e-40, 1e40])
@pytest.mark.parametrize(
    "method",
    [("richardson", "ilu"), ("richardson", "jacobi"), ("chebyshev", "jacobi"), ("gmres", "ilu")],
)
def test_a_kept_preconditioner_is_not_used_for_a_matrix_that_was_multiplied(method, size):
    """Iterations without inner products depend on the size of the matrix relative to M."""
    for level in (2, 1e-10):
        found, expected = (answers(method, level, one) for one in (size, 1.0))
        if found is None:
            assert method[0] != "gmres"
        elif expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("how", ["implicit", "unrolled"])
@pytest.mark.parametrize("largest", [1.7e308, -1e308])
def test_the_largest_numbers_are_an_error_of_a_solve_or_solved(largest, how):
    """2^1024 is beyond the range of double precision, 1.7e308 is not."""
    (operator, values), b = sparse(dominant(8)), torch.ones(8, dtype=torch.float64)
    values[0] = largest
    found = result(operator, values, b, Solver("gmres", "jacobi", 3, differentiation=how))
    assert isinstance(found, str) or bool(found.isfinite().all())


@pytest.mark.parametrize("ksp", ["richardson", "gmres"])
def test_a_kept_preconditioner_of_small_jacobians(ksp):
    matrix = dominant(8)
    rows, cols = matrix.nonzero(as_tuple=True)
    start, found = torch.zeros(8, dtype=torch.float64), []
    for size in (1.0, 1e-9):
        operator, _ = sparse(matrix)
        linear = Solver(ksp, "ilu", 2, lag_preconditioner=9)
        solver, own = NonlinearSolver(linear, 3), []
        for step in (size, 3.0 * size):
            p = torch.ones(8, dtype=torch.float64, requires_grad=True)

            def residual(u, p, step=step):
                return step * (matrix @ u + 0.1 * u**3 - p)

            def jacobian(u, p, step=step):
                return step * (matrix + torch.diag(0.3 * u**2))[rows, cols]

            try:
                u = solve_nonlinear(
                    residual, start, (p,), solver, jacobian=(operator, jacobian), comm=SELF
                )
                u.sum().backward()
            except SolveError as error:
                own.append(str(error))
                break
            own += [u.detach(), p.grad]
        found.append(own)
    if ksp == "richardson":
        assert "lag_preconditioner" in found[1][0]
    else:
        assert are_equal(*(torch.cat(own) for own in found))


def test_a_method_that_keeps_vectors_for_later_solves_is_refused():
    with pytest.raises(InputError, match="vectors of earlier solves"):
        Solver("dgmres")
