"""Property: a solve does the same in every memory. Where no GPU is, the lines for devices run with
PETSc's types of the host.
"""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from memories import MEMORIES, solves_in
from mpi4py import MPI

from prdp_hpc import (
    Burgers,
    ElementOperator,
    Grid,
    Heat,
    NavierStokes,
    Poisson,
    Refinement,
    SolveError,
    Solver,
    SparseOperator,
    solve,
)
from prdp_hpc.linalg import torch_petsc

N = 40
METHODS = [
    ("cg", "jacobi", Refinement(rtol=1e-12)),
    ("cg", "none", 7),
    ("gmres", "jacobi", Refinement(rtol=1e-12)),
    ("gmres", "ilu", 5),
    ("bcgs", "bjacobi", Refinement(rtol=1e-12)),
    ("richardson", "jacobi", 9),
    ("minres", "none", Refinement(rtol=1e-12)),
    ("preonly", "lu", Refinement(rtol=1e-12)),
    ("cg", "gamg", Refinement(rtol=1e-12)),
]
SYMMETRIC = {"cg", "minres"}


def matrix(symmetric, n=N):
    above = -1.0 if symmetric else -1.5
    return sp.diags([-1.0, 3.2, above], [-1, 0, 1], shape=(n, n)).tocsr()


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def results(where, run):
    """What `run(device)` gives on the host and in another memory."""
    ours = run(torch.device("cpu"))
    with solves_in(where) as device:
        theirs = run(device)
    for one in theirs:
        assert one.device.type == device.type
    return [one.detach() for one in ours], [one.detach().cpu() for one in theirs]


def assert_equal(pair, tolerance=1e-9):
    for ours, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("where", MEMORIES)
@pytest.mark.parametrize(("ksp", "pc", "level"), METHODS)
def test_solutions_and_gradients(where, ksp, pc, level):
    symmetric = ksp in SYMMETRIC

    def run(device):
        operator, values = SparseOperator.from_scipy(
            matrix(symmetric), MPI.COMM_SELF, symmetric=symmetric
        )
        values = values.to(device).requires_grad_()
        b = draw(3, N).to(device).requires_grad_()
        x = solve(operator, values, b, Solver(ksp, pc, level))
        return [x, *torch.autograd.grad((x**3).sum(), (values, b))]

    assert_equal(results(where, run))


@pytest.mark.parametrize("where", MEMORIES)
@pytest.mark.parametrize(
    ("ksp", "pc", "level"),
    [
        ("richardson", "jacobi", 5),
        ("cg", "jacobi", Refinement(rtol=1e-10)),
        ("gmres", "bjacobi", 6),
        ("bcgs", "none", 4),
        ("steepest_descent", "none", 3),
    ],
)
@pytest.mark.parametrize("guess", [False, True])
def test_unrolled_gradients(where, ksp, pc, level, guess):
    symmetric = ksp in ("cg", "steepest_descent")
    differentiated = pc in ("jacobi", "none")

    def run(device):
        operator, values = SparseOperator.from_scipy(
            matrix(symmetric), MPI.COMM_SELF, symmetric=symmetric
        )
        values = values.to(device).requires_grad_(differentiated)
        scale = torch.tensor([[1.0], [1e-100]], dtype=torch.float64, device=device)
        b = (draw(2, N).to(device) * scale).requires_grad_()
        solver = Solver(ksp, pc, level, differentiation="unrolled")
        x = solve(operator, values, b, solver, guess=0.3 * b.detach() if guess else None)
        inputs = (values, b) if differentiated else (b,)
        return [x / scale, *torch.autograd.grad((x / scale).square().sum(), inputs)]

    ours, theirs = results(where, run)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            other / one.abs().max(), one / one.abs().max(), rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("where", MEMORIES)
def test_derivatives_of_higher_order_and_forward_mode(where):
    def run(device):
        operator, values = SparseOperator.from_scipy(matrix(False), MPI.COMM_SELF)
        values, b = values.to(device), draw(N, seed=1).to(device)
        solver = Solver("gmres", "jacobi", Refinement(rtol=1e-13))
        tangents = tuple(draw(len(t), seed=2).to(device) for t in (values, b))

        def loss(values, b):
            return (solve(operator, values, b, solver) ** 3).sum()

        _, along = torch.autograd.functional.jvp(loss, (values, b), tangents)
        _, hessian = torch.autograd.functional.hvp(loss, (values, b), tangents)
        _, forward = torch.func.jvp(lambda b: solve(operator, values, b, solver), (b,), (b,))
        many = torch.func.vmap(lambda b: solve(operator, values, b, solver))(
            torch.stack([b, 2 * b])
        )
        return [along, *hessian, forward, many]

    assert_equal(results(where, run), 1e-8)


@pytest.mark.parametrize("where", MEMORIES)
def test_batches_of_matrices(where):
    def run(device):
        operator, values = SparseOperator.from_scipy(matrix(False), MPI.COMM_SELF)
        several = (torch.stack([values, 2.0 * values, 3.0 * values])).to(device).requires_grad_()
        b = draw(6, N).to(device).requires_grad_()
        x = solve(operator, several, b, Solver("gmres", "jacobi", Refinement(rtol=1e-12)))
        return [x, *torch.autograd.grad(x.square().sum(), (several, b))]

    assert_equal(results(where, run))


@pytest.mark.parametrize("where", MEMORIES)
@pytest.mark.parametrize("given", ["constant_nullspace", "nullspace"])
def test_nullspaces(where, given):
    grid = Grid((8, 5), "periodic", MPI.COMM_SELF)
    rows, cols, entries = periodic_laplacian(grid)

    def run(device):
        options = {given: True if given == "constant_nullspace" else np.ones(grid.size)}
        operator = SparseOperator(
            rows, cols, (grid.size, grid.size), MPI.COMM_SELF, symmetric=True, grid=grid, **options
        )
        values, b = entries.to(device), draw(2, grid.size).to(device).requires_grad_()
        found = []
        for pc in ("jacobi", "gamg", "mg"):
            x = solve(operator, values, b, Solver("cg", pc, Refinement(rtol=1e-12)))
            found += [x, *torch.autograd.grad(x.square().sum(), b)]
        return found

    assert_equal(results(where, run), 1e-7)


def periodic_laplacian(grid):
    numbers = np.arange(grid.size).reshape(grid.shape)
    neighbours = [np.roll(numbers, step, axis).ravel() for axis in (0, 1) for step in (-1, 1)]
    rows = np.tile(numbers.ravel(), 5)
    entries = torch.full((5, grid.size), -1.0, dtype=torch.float64)
    entries[4] = 4.0
    return rows, np.concatenate([*neighbours, numbers.ravel()]), entries.flatten()


@pytest.mark.parametrize("where", MEMORIES)
def test_guesses_last_solutions_lag_and_single_precision(where):
    def run(device):
        operator, values = SparseOperator.from_scipy(matrix(True), MPI.COMM_SELF, symmetric=True)
        values, b = values.to(device), draw(2, N).to(device)
        level = Refinement(rtol=1e-11)
        given = solve(operator, values, b, Solver("cg", "jacobi", level), guess=0.5 * b)
        solver = Solver("cg", "bjacobi", level, lag_preconditioner=2, initial_guess="last")
        found = [given]
        for step in range(4):
            found.append(solve(operator, values * (1.0 + 0.01 * step), b, solver))
            operator_state = solver.state_dict()
        assert operator_state["last"]["solutions"][0].device.type == "cpu"
        again = Solver("cg", "bjacobi", level, lag_preconditioner=2, initial_guess="last")
        again.load_state_dict(operator_state)
        found.append(solve(operator, values, b, again))
        assert solver.report.forward.set_ups < 4
        single = solve(operator, values.float(), b.float(), Solver("cg", "jacobi", level))
        assert single.dtype is torch.float32
        return [*found, single.double()]

    assert_equal(results(where, run), 1e-6)


@pytest.mark.parametrize("where", MEMORIES)
def test_extreme_right_hand_sides_and_zero(where):
    def run(device):
        operator, values = SparseOperator.from_scipy(matrix(True), MPI.COMM_SELF, symmetric=True)
        b = draw(4, N) * torch.tensor([[1e-200], [1e200], [0.0], [1.0]], dtype=torch.float64)
        solver = Solver("cg", "jacobi", Refinement(rtol=1e-12))
        x = solve(operator, values.to(device), b.to(device), solver)
        return [x * torch.tensor([[1e200], [1e-200], [1.0], [1.0]]).double().to(device)]

    assert_equal(results(where, run))


@pytest.mark.parametrize("where", MEMORIES)
def test_another_matrix_for_the_preconditioner_follows(where):
    def run(device):
        operator, values = SparseOperator.from_scipy(matrix(True), MPI.COMM_SELF, symmetric=True)
        operator.preconditioner = SparseOperator.from_scipy(2.0 * matrix(True), MPI.COMM_SELF)
        b = draw(N).to(device)
        found = [solve(operator, values.to(device), b, Solver("richardson", "jacobi", 3))]
        operator.preconditioner = None
        return [*found, solve(operator, values.to(device), b, Solver("richardson", "jacobi", 3))]

    assert_equal(results(where, run))


@pytest.mark.parametrize("where", MEMORIES)
def test_element_matrices(where):
    cells = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])

    def run(device):
        operator = ElementOperator(cells, 5, MPI.COMM_SELF, dirichlet=[0, 4], symmetric=True)
        kappa = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64, device=device)
        kappa.requires_grad_()
        unit = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64, device=device)
        matrices = kappa[:, None, None] * unit
        load = torch.ones(5, dtype=torch.float64, device=device)
        prescribed = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64, device=device)
        b = operator.right_hand_side(matrices, load, prescribed)
        x = solve(operator, matrices, b, Solver("cg", "jacobi", Refinement(rtol=1e-12)))
        return [b, x, *torch.autograd.grad(x.square().sum(), kappa)]

    assert_equal(results(where, run))


@pytest.mark.parametrize("where", MEMORIES)
def test_errors_are_the_same(where):
    operator, values = SparseOperator.from_scipy(matrix(False), MPI.COMM_SELF)
    cases = [
        (values, Solver("minres", "none", Refinement(rtol=1e-8)), ValueError, "not symmetric"),
        (values * float("nan"), Solver("gmres", "none", 3), ValueError, "NaN or infinity"),
        (values, Solver("gmres", "none", Refinement(rtol=1e-13, max_it=None)), None, ""),
        (0.0 * values, Solver("gmres", "jacobi", Refinement(rtol=1e-8)), SolveError, "zero"),
    ]
    with solves_in(where) as device:
        for given, solver, kind, text in cases:
            b = draw(N).to(device)
            if kind is None:
                assert solve(operator, given.to(device), b, solver).isfinite().all()
                continue
            with pytest.raises(kind, match=text):
                solve(operator, given.to(device), b, solver)
        bad = torch.full((N,), float("nan"), dtype=torch.float64, device=device)
        with pytest.raises(SolveError, match="NaN or infinity"):
            solve(operator, values.to(device), bad, Solver("gmres", "none", 3))


@pytest.mark.parametrize("where", MEMORIES)
def test_values_that_changed_in_place_are_noticed(where):
    operator, values = SparseOperator.from_scipy(matrix(True), MPI.COMM_SELF)
    with solves_in(where) as device:
        values, b = values.to(device).clone(), draw(N).to(device)
        solver = Solver("gmres", "jacobi", Refinement(rtol=1e-12))
        before = solve(operator, values, b, solver)
        values.data.mul_(2.0)
        torch.testing.assert_close(solve(operator, values, b, solver), 0.5 * before)


def test_a_device_that_petsc_was_not_built_for_is_said_once():
    torch_petsc._device_memory.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert torch_petsc.memory_of(torch.device("xpu")) is torch_petsc.HOST
    torch_petsc._device_memory.cache_clear()
    assert len(caught) == 1
    assert "16 bytes per unknown" in str(caught[0].message)


@pytest.mark.parametrize("where", MEMORIES)
def test_the_first_hierarchy_is_as_good_as_the_following(where):
    grid = Grid((31, 33), "dirichlet", MPI.COMM_SELF)
    with solves_in(where) as device:
        solver = Solver("cg", "mg", Refinement(rtol=1e-10))
        poisson = Poisson(grid, solver)
        f, iterations = draw(31, 33).to(device), []
        for scale in (1.0, 2.0, 4.0):
            poisson.diffusivity = scale
            before = solver.report.forward.iterations
            poisson(f)
            iterations.append(solver.report.forward.iterations - before)
    assert max(iterations) <= min(iterations) + 1 <= 12


WORLD = MPI.COMM_WORLD


def of_several_ranks(device):
    """Solutions and gradients with entries in rows of other ranks, and of steps of PDEs."""
    dense = matrix(False, 23).toarray() + np.diag(np.full(20, 0.3), 3)
    rows, cols = np.nonzero(dense)
    mine = slice(WORLD.rank, None, WORLD.size)
    operator = SparseOperator(rows[mine], cols[mine], (23, 23), WORLD)
    values = torch.from_numpy(dense[rows, cols][mine]).to(device).requires_grad_()
    b = draw(2, operator.n_local, seed=WORLD.rank).to(device).requires_grad_()
    x = solve(operator, values, b, Solver("gmres", "bjacobi", Refinement(rtol=1e-12)))
    found = [x, *torch.autograd.grad((x**3).sum(), (values, b))]
    grid = Grid((9, 8), "periodic", WORLD)
    level = Refinement(rtol=1e-12)
    steppers = [
        (1, Heat(grid, 1e-2, 0.5, Solver("cg", "mg", level))),
        (2, Burgers(grid, 1e-2, 0.05, Solver("gmres", "jacobi", level))),
        (3, NavierStokes(grid, 1e-2, 0.05, Solver("gmres", "constraint", level))),
    ]
    for channels, stepper in steppers:
        u = draw(2, channels, *grid.local_shape, seed=WORLD.rank).to(device).requires_grad_()
        after = stepper(u)
        found += [after, *torch.autograd.grad(after.square().sum(), u)]
    return found


@pytest.mark.long_on(4)
@pytest.mark.parallel(nprocs=[2, 4])
def test_the_same_on_several_ranks():
    assert_equal(results("tensors", of_several_ranks), 1e-8)
