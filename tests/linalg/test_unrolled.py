"""Property: unrolled solves do PETSc's own iterations, and their gradients are those of what was
computed.
"""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from mpi4py import MPI
from systems import dominant, exact, sparse

from prdp_hpc import FunctionOperator, Refinement, Solver, SparseOperator, solve

METHODS = ["richardson", "steepest_descent", "cg", "gmres", "bcgs"]
SYMMETRIC_ONLY = ["steepest_descent", "cg"]
DIFFERENTIATED = ["none", "jacobi", "lu"]
CONSTANT = ["ilu", "bjacobi", "gamg", "sor"]
CASES = [
    (ksp, symmetric)
    for ksp in METHODS
    for symmetric in (True, False)
    if symmetric or ksp not in SYMMETRIC_ONLY
]
DOUBLE = {"dtype": torch.float64}


def options(ksp, pc):
    """A short restart; a damping with which Richardson's method converges without a
    preconditioner.
    """
    if ksp == "gmres":
        return {"ksp_gmres_restart": 4}
    return {"ksp_richardson_scale": 0.05} if (ksp, pc) == ("richardson", "none") else {}


def unrolled(ksp, pc, level, **more):
    return Solver(ksp, pc, level, petsc_options=options(ksp, pc) | more, differentiation="unrolled")


def along(matrix, symmetric, seed):
    """A random change of the matrix's entries that keeps the promise of symmetry."""
    change = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    change = change + change.T if symmetric else change
    rows, cols = matrix.nonzero(as_tuple=True)
    return change[rows, cols]


def check_gradients(operator, values, b, solver, change, with_values=True):
    """Against central differences of fourth order of the same truncated solve, along one direction
    in the values and one in b.
    """
    weights, towards = torch.randn(2, *b.shape, **DOUBLE)

    def loss(t, s):
        return (solve(operator, values + t * change, b + s * towards, solver) * weights).sum()

    t, s = torch.zeros(2, **DOUBLE).requires_grad_().unbind()
    found = torch.autograd.grad(
        loss(t, s) if with_values else loss(0.0, s), (t, s) if with_values else (s,)
    )
    step = 1e-5

    def difference(h, in_values):
        return loss(h, 0.0) - loss(-h, 0.0) if in_values else loss(0.0, h) - loss(0.0, -h)

    for gradient, in_values in zip(found, (True, False) if with_values else (False,), strict=True):
        expected = (8 * difference(step, in_values) - difference(2 * step, in_values)) / (12 * step)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("pc", [*DIFFERENTIATED, *CONSTANT])
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_iterates_and_counts_are_those_of_petsc(ksp, symmetric, pc):
    operator, values = sparse(dominant(30, symmetric, density=0.2), symmetric=symmetric)
    b = torch.randn(3, 30, **DOUBLE) * torch.tensor([[1.0], [1e-6], [1e3]], **DOUBLE)
    # Beyond K = 1 an exact preconditioner leaves only rounding to iterate on.
    tolerances = [1e-1, 1e-4, 1e-8, Refinement(max_it=3, rtol=1e-2)]
    if ksp == "richardson" and pc in ("sor", "gamg"):
        # PETSc leaves the iterations to these preconditioners, which do not look at this norm.
        tolerances = []
    levels = [1, 1e-3] if pc == "lu" else [*range(1, 8), 9, 13, *tolerances]
    for level in levels:
        ours, theirs = (
            unrolled(ksp, pc, level),
            Solver(ksp, pc, level, petsc_options=options(ksp, pc)),
        )
        found, wanted = solve(operator, values, b, ours), solve(operator, values, b, theirs)
        assert ((found - wanted).norm(dim=1) <= 1e-10 * wanted.norm(dim=1)).all(), level
        assert ours.report.forward.iterations == theirs.report.forward.iterations, level
        assert ours.report.forward.solves == 3


@pytest.mark.parametrize("pc", DIFFERENTIATED)
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_gradients_are_those_of_the_truncated_solve(ksp, symmetric, pc):
    matrix = dominant(12, symmetric)
    operator, values = sparse(matrix, symmetric=symmetric)
    for level in [1, 2, 6] if pc != "lu" else [1]:
        check_gradients(
            operator,
            values,
            torch.randn(3, 12, **DOUBLE),
            unrolled(ksp, pc, level),
            along(matrix, symmetric, level),
        )


@pytest.mark.parametrize("pc", CONSTANT)
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_gradients_of_b_with_any_linear_preconditioner(ksp, symmetric, pc):
    if pc == "sor" and not symmetric:
        pytest.skip("PETSc's SOR has no transposed application for matrices without symmetry")
    matrix = dominant(12, symmetric)
    operator, values = sparse(matrix, symmetric=symmetric)
    for level in (1, 3, 6):
        solver = unrolled(ksp, pc, level)
        check_gradients(
            operator,
            values,
            torch.randn(2, 12, **DOUBLE),
            solver,
            torch.zeros_like(values),
            with_values=False,
        )


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("pc_options", [{}, {"pc_jacobi_type": "rowmax"}])
def test_steepest_descent_written_by_hand(differentiation, pc_options):
    matrix = dominant(9, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(9, **DOUBLE)
    scale = matrix.abs().amax(1) if pc_options else matrix.diagonal()
    x = torch.zeros(9, **DOUBLE)
    for iteration in range(1, 20):
        r = b - matrix @ x
        z = r / scale
        x = x + (r @ z) / (z @ matrix @ z) * z
        solver = Solver(
            "steepest_descent",
            "jacobi",
            iteration,
            petsc_options=pc_options,
            differentiation=differentiation,
        )
        torch.testing.assert_close(solve(operator, values, b, solver), x, rtol=1e-10, atol=1e-13)
        assert solver.report.forward.iterations == iteration


@pytest.mark.parametrize("ksp", ["gmres", "bcgs"])
def test_a_preconditioner_on_the_right(ksp):
    matrix = dominant(12)
    operator, values = sparse(matrix)
    for level in (1, 3, 6, 1e-6):
        side = {"ksp_pc_side": "right"}
        b = torch.randn(2, 12, **DOUBLE)
        ours, theirs = (
            unrolled(ksp, "jacobi", level, **side),
            Solver(ksp, "jacobi", level, petsc_options=options(ksp, "") | side),
        )
        torch.testing.assert_close(
            solve(operator, values, b, ours),
            solve(operator, values, b, theirs),
            rtol=1e-10,
            atol=1e-14,
        )
        check_gradients(operator, values, b, ours, along(matrix, False, 0))


@given(
    case=st.sampled_from(CASES),
    n=st.integers(1, 9),
    batch=st.integers(1, 3),
    k=st.integers(1, 12),
    pc=st.sampled_from(["none", "jacobi"]),
    seed=st.integers(0, 1000),
)
def test_any_small_system(case, n, batch, k, pc, seed):
    ksp, symmetric = case
    matrix = dominant(n, symmetric, seed=seed)
    operator, values = sparse(matrix, symmetric=symmetric)
    b = torch.randn(batch, n, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    # Past the solution there is only rounding, and no derivative of it: a step from a residual of 0
    # is 0 / 0, with another slope in each direction. Some matrices, as the identity, are there long
    # before n iterations.
    level = min(k, n - 1) or 1 if ksp != "richardson" else k
    solver = unrolled(ksp, pc, level)
    # BiCGStab may get there in the middle of its last iteration.
    last = {"richardson": 0, "bcgs": level}.get(ksp, level - 1)
    if last:
        x = solve(operator, values, b, unrolled(ksp, pc, last))
        assume(((b - x @ matrix.T).norm(dim=1) > 1e-3 * b.norm(dim=1)).all())
    wanted = solve(operator, values, b, Solver(ksp, pc, level, petsc_options=options(ksp, pc)))
    torch.testing.assert_close(solve(operator, values, b, solver), wanted, rtol=1e-9, atol=1e-11)
    # Near a breakdown of BiCGStab the iterate is large, and not linear within a step of the
    # differences; `test_the_gradient_near_a_breakdown` has such a system.
    assume(((b - wanted @ matrix.T).norm(dim=1) < 10.0 * b.norm(dim=1)).all())
    check_gradients(operator, values, b, solver, along(matrix, symmetric, seed))


def test_the_gradient_near_a_breakdown():
    """Against a complex step, which needs no small difference of large numbers."""
    matrix = dominant(3, True, seed=0)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), **DOUBLE).requires_grad_()
    weights, towards = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(1), **DOUBLE)
    x = solve(operator, values, b, unrolled("bcgs", "jacobi", 2))
    assert x.detach().norm() > 1e3 * b.detach().norm()
    (found,) = torch.autograd.grad((x * weights).sum(), b)
    right = (b.detach() + 1e-30j * towards)[0]
    stepped = (two_steps_of_bicgstab(matrix, right) * weights[0]).sum()
    torch.testing.assert_close((found * towards).sum(), stepped.imag / 1e-30, rtol=1e-4, atol=0.0)


def two_steps_of_bicgstab(matrix, b):
    """Two iterations of BiCGStab with Jacobi's preconditioner from zero."""
    product = (matrix / matrix.diagonal()[:, None]).to(b.dtype)
    x, r = torch.zeros_like(b), b / matrix.diagonal()
    shadow = p = r
    for _ in range(2):
        alpha = (shadow @ r) / (shadow @ (v := product @ p))
        t = product @ (s := r - alpha * v)
        omega = (t @ s) / (t @ t)
        x = x + alpha * p + omega * s
        after = s - omega * t
        beta = (shadow @ after) / (shadow @ r) * alpha / omega
        p, r = after + beta * (p - omega * v), after
    return x


@pytest.mark.parametrize("level", [1e-2, 1e-5, Refinement(max_it=4, rtol=1e-3)])
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_every_right_hand_side_stops_at_its_own_iteration(ksp, symmetric, level):
    matrix = dominant(12, symmetric)
    operator, values = sparse(matrix, symmetric=symmetric)
    vectors = torch.linalg.eigh(matrix).eigenvectors if symmetric else torch.eye(12, **DOUBLE)
    # Krylov methods have the first after one iteration, so that the counts differ.
    b = torch.stack([vectors[0], torch.ones(12, **DOUBLE), torch.randn(12, **DOUBLE)])
    solver, alone = unrolled(ksp, "jacobi", level), unrolled(ksp, "jacobi", level)
    together = solve(operator, values, b, solver)
    torch.testing.assert_close(
        together,
        torch.stack([solve(operator, values, row, alone) for row in b]),
        rtol=1e-12,
        atol=1e-15,
    )
    assert solver.report.forward.iterations == alone.report.forward.iterations
    check_gradients(operator, values, b, solver, along(matrix, symmetric, 1))


@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_the_gradient_of_few_iterations_is_not_that_of_the_solution_and_converges_to_it(
    ksp, symmetric
):
    matrix = dominant(12, symmetric)
    operator, values = sparse(matrix, symmetric=symmetric)
    b, grad = torch.randn(2, 2, 12, **DOUBLE)
    _, adjoint, dense = exact(matrix, b, grad)
    rows, cols = matrix.nonzero(as_tuple=True)
    misses = []
    # The last level lies far behind the solution for the Krylov methods: they stay there.
    for level in (2, 60 if ksp in ("richardson", "steepest_descent") else 40):
        leaves = [values.clone().requires_grad_(), b.clone().requires_grad_()]
        solve(operator, *leaves, unrolled(ksp, "jacobi", level)).backward(grad)
        found = torch.zeros_like(dense).index_put((rows, cols), leaves[0].grad)
        # Of changes that break the symmetry these methods know nothing.
        wrong = (found + found.T - dense - dense.T) / 2 if symmetric else found - dense
        wrong = wrong * (matrix != 0)
        misses.append(
            [wrong.norm() / dense.norm(), (leaves[1].grad - adjoint).norm() / adjoint.norm()]
        )
    assert min(misses[0]) > 1e-3
    assert max(misses[1]) < 1e-6


@pytest.mark.parametrize("level", [3, 30, 1e-6])
@pytest.mark.parametrize("ksp", METHODS)
def test_zero_and_exactly_solved_right_hand_sides_spoil_nothing(ksp, level):
    matrix = dominant(9, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(4, 9, **DOUBLE)
    b[1] = 0.0
    b[2] = torch.linalg.eigh(matrix).eigenvectors[:, 0]
    grad = torch.randn(4, 9, **DOUBLE)
    alone = []
    for rows in ([0, 1, 2, 3], [0], [3]):
        leaves = [values.clone().requires_grad_(), b[rows].clone().requires_grad_()]
        x = solve(
            operator, *leaves, unrolled(ksp, "none" if ksp != "richardson" else "jacobi", level)
        )
        x.backward(grad[rows])
        assert all(torch.isfinite(t).all() for t in (x, leaves[0].grad, leaves[1].grad))
        alone.append((x.detach(), leaves[1].grad))
    for result in (0, 1):
        assert torch.equal(alone[0][0][1], torch.zeros(9, **DOUBLE))
        wanted = torch.cat([alone[1][result], alone[2][result]])
        torch.testing.assert_close(alone[0][result][[0, 3]], wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_a_matrix_for_each_group_of_right_hand_sides(ksp, symmetric):
    matrices = [dominant(7, symmetric, density=1.0, seed=seed) for seed in range(3)]
    operator, _ = sparse(matrices[0], symmetric=symmetric)
    values = torch.stack([matrix.flatten() for matrix in matrices])
    b, grad = torch.randn(2, 6, 7, **DOUBLE)
    for level in (1, 5, 1e-5):
        together = [values.clone().requires_grad_(), b.clone().requires_grad_()]
        x = solve(operator, *together, unrolled(ksp, "jacobi", level))
        x.backward(grad)
        for m in range(3):
            rows = slice(2 * m, 2 * m + 2)
            single = [values[m].clone().requires_grad_(), b[rows].clone().requires_grad_()]
            wanted = solve(operator, *single, unrolled(ksp, "jacobi", level))
            wanted.backward(grad[rows])
            torch.testing.assert_close(x[rows], wanted, rtol=1e-11, atol=1e-13)
            torch.testing.assert_close(together[0].grad[m], single[0].grad, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(
                together[1].grad[rows], single[1].grad, rtol=1e-9, atol=1e-11
            )


@pytest.mark.parametrize("pc", ["none", "jacobi"])
@pytest.mark.parametrize("ksp", METHODS)
def test_a_singular_system_with_its_nullspace(ksp, pc):
    n = 10

    def laplacian(weights):
        """Of a ring with these weights of its edges: the constant is in its nullspace."""
        edges = torch.diag(weights).roll(1, 0)
        return torch.diag(weights + weights.roll(1)) - edges - edges.T

    ring = laplacian(torch.rand(n, **DOUBLE) + 0.5)
    operator, values = sparse(ring, symmetric=True, constant_nullspace=True)
    b = torch.randn(2, n, **DOUBLE)
    for level in (1, 3, 7):
        solver = unrolled(ksp, pc, level)
        wanted = solve(operator, values, b, Solver(ksp, pc, level, petsc_options=options(ksp, pc)))
        torch.testing.assert_close(
            solve(operator, values, b, solver), wanted, rtol=1e-10, atol=1e-13
        )
        check_gradients(
            operator,
            values,
            b,
            solver,
            laplacian(torch.randn(n, **DOUBLE))[ring.nonzero(as_tuple=True)],
        )


def test_entries_given_in_several_parts_and_a_zero_on_the_diagonal():
    # Jacobi's preconditioner takes 1 for a zero; the first diagonal entry is a sum of two.
    matrix = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.5, 1.0, 0.0]], **DOUBLE)
    rows, cols = [0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2, 0, 1, 2]
    operator = SparseOperator(rows, cols, (3, 3), MPI.COMM_SELF)
    values = torch.tensor([1.0, 3.0, 1.0, 1.0, 3.0, 1.0, 0.5, 1.0, 0.0], **DOUBLE)
    # From many others BiCGStab nearly breaks down with this matrix, and differences of rounding are
    # all that is left.
    b = torch.tensor([[1.0, 2.0, -1.0]], **DOUBLE)
    for ksp in ("richardson", "gmres", "bcgs"):
        wanted = solve(operator, values, b, Solver(ksp, "jacobi", 2))
        torch.testing.assert_close(
            solve(operator, values, b, unrolled(ksp, "jacobi", 2)), wanted, rtol=1e-12, atol=1e-14
        )
        change = torch.randn(9, **DOUBLE)
        change[-1] = 0.0
        check_gradients(operator, values, b, unrolled(ksp, "jacobi", 2), change)
    assert torch.equal(matrix[2, 2], values[-1])


def test_a_function_operator():
    def apply(values, x):
        return values * x + 0.1 * x.roll(1) + 0.2 * x.roll(-1)

    operator = FunctionOperator(apply, 6, MPI.COMM_SELF, diagonal=lambda values: values)
    values, b = torch.rand(6, **DOUBLE) + 1.0, torch.randn(2, 6, **DOUBLE)
    for ksp in ("richardson", "gmres", "bcgs"):
        check_gradients(operator, values, b, unrolled(ksp, "jacobi", 3), torch.randn(6, **DOUBLE))


def test_one_right_hand_side_in_single_precision():
    operator, values = sparse(dominant(8))
    b = torch.randn(8, requires_grad=True)
    x = solve(operator, values, b, unrolled("bcgs", "jacobi", 2))
    x.sum().backward()
    assert (x.shape, x.dtype, b.grad.dtype) == (b.shape, torch.float32, torch.float32)


def test_two_graphs_on_one_operator_with_other_values():
    matrix = dominant(8)
    operator, values = sparse(matrix)
    b, grad = torch.randn(2, 2, 8, **DOUBLE)
    gradients = []
    for order in ((0, 1), (1, 0)):
        leaves = [(factor * values).requires_grad_() for factor in (1.0, 2.0)]
        results = [solve(operator, leaf, b, unrolled("gmres", "jacobi", 3)) for leaf in leaves]
        for index in order:
            results[index].backward(grad)
        gradients.append([leaf.grad for leaf in leaves])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)
