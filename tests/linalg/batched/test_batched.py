"""Property: batched solves are PETSc's own iterations and have the derivatives of the solution, for
one matrix or several, on every device.
"""

import copy

import pytest
import torch
from devices import DEVICES
from mpi4py import MPI
from systems import dominant, exact, sparse

from prdp_hpc import (
    AssembledOperator,
    ElementOperator,
    Grid,
    Heat,
    NonlinearSolver,
    Refinement,
    Solver,
    SparseOperator,
    solve,
)
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.batched import graphs
from prdp_hpc.linalg.batched.dia import DiaPattern
from prdp_hpc.linalg.batched.engine import engine_of
from prdp_hpc.petsc import PETSc

DOUBLE = {"dtype": torch.float64}
CASES = [
    ("cg", True),
    *((ksp, symmetric) for ksp in ("gmres", "bcgs", "richardson") for symmetric in (True, False)),
]
LEVELS = [1, 2, 5, 9, 1e-2, 1e-6, Refinement(max_it=4, rtol=1e-3)]

pytestmark = pytest.mark.parametrize("device", DEVICES)


def options(ksp, pc):
    if ksp == "gmres":
        return {"ksp_gmres_restart": 4}
    return {"ksp_richardson_scale": 0.05} if (ksp, pc) == ("richardson", "none") else {}


def pair(ksp, pc, level, **more):
    """PETSc's solver, and the batched one."""
    given = options(ksp, pc) | more
    return [Solver(name, pc, level, petsc_options=given) for name in (ksp, f"batched_{ksp}")]


def gradients(operator, values, b, solver):
    """The solution, and the gradients of values and b for a fixed loss."""
    values, b = values.clone().requires_grad_(), b.clone().requires_grad_()
    x = solve(operator, values, b, solver)
    weights = torch.linspace(-1.0, 1.0, b.numel(), **DOUBLE).view(b.shape).to(b.device)
    return [x.detach(), *torch.autograd.grad((x * weights).sum(), (values, b))]


def assert_same(found, wanted, rtol=1e-10):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one.cpu() - other).norm() <= rtol * other.norm()


@pytest.mark.parametrize("pc", ["none", "jacobi"])
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_iterates_gradients_and_counts_are_those_of_petsc(ksp, symmetric, pc, device):
    operator, values = sparse(dominant(30, symmetric, density=0.2), symmetric=symmetric)
    b = torch.randn(3, 30, **DOUBLE) * torch.tensor([[1.0], [1e-6], [1e3]], **DOUBLE)
    for level in LEVELS:
        theirs, ours = pair(ksp, pc, level)
        found = gradients(operator, values.to(device), b.to(device), ours)
        assert_same(found, gradients(operator, values, b, theirs))
        assert found[0].device == found[2].device == torch.empty(0, device=device).device
        for direction in ("forward", "adjoint"):
            counts = [getattr(one.report, direction) for one in (ours, theirs)]
            assert counts[0].iterations == counts[1].iterations, (level, direction)
            assert counts[0].solves == counts[1].solves == 3


@pytest.mark.parametrize("ksp", ["gmres", "bcgs"])
def test_a_preconditioner_on_the_right(ksp, device):
    operator, values = sparse(dominant(12))
    b = torch.randn(2, 12, **DOUBLE)
    for level in (1, 3, 6, 1e-6):
        theirs, ours = pair(ksp, "jacobi", level, ksp_pc_side="right")
        wanted = gradients(operator, values, b, theirs)
        assert_same(gradients(operator, values.to(device), b.to(device), ours), wanted)


@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_several_matrices_with_several_right_hand_sides(ksp, symmetric, device):
    matrices = [dominant(11, symmetric, density=1.0, seed=seed) for seed in range(3)]
    operator, _ = sparse(matrices[0], symmetric=symmetric)
    rows, cols = matrices[0].nonzero(as_tuple=True)
    values = torch.stack([matrix[rows, cols] for matrix in matrices])
    for each in (1, 2):
        b = torch.randn(3 * each, 11, **DOUBLE)
        for level in (3, 1e-8):
            theirs, ours = pair(ksp, "jacobi", level)
            found = gradients(operator, values.to(device), b.to(device), ours)
            assert_same(found, gradients(operator, values, b, theirs))
        x = solve(operator, values.to(device), b.to(device), pair(ksp, "jacobi", 1e-12)[1])
        for number, matrix in enumerate(matrices):
            part = slice(number * each, (number + 1) * each)
            wanted, _, _ = exact(matrix, b[part], b[part])
            torch.testing.assert_close(x[part].cpu(), wanted, rtol=1e-9, atol=1e-10)


def coupled(grid):
    """The pattern and values of two coupled fields on a grid, with entries that occur twice."""
    n, draw = grid.size, torch.Generator().manual_seed(3)
    numbers = torch.arange(n).view(grid.shape)
    rows, cols = [], []
    for field, other, shift in ((0, 0, 0), (1, 1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 1), (0, 1, 0)):
        for axis in range(grid.dim) if shift else (0,):
            rows.append(field * n + numbers.flatten())
            cols.append(other * n + numbers.roll(shift, axis).flatten())
    rows, cols = torch.cat(rows), torch.cat(cols)
    rows, cols = torch.cat([rows, rows[:5]]), torch.cat([cols, cols[:5]])
    values = torch.randn(len(rows), generator=draw, **DOUBLE)
    return rows, cols, values + 12.0 * (rows == cols)


class Coupled(SparseOperator):
    """An operator whose fields lie on a grid that its rows alone are not."""

    stencil_grid = None


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 4, 5)])
def test_stencils_are_found_and_are_the_same_matrix(shape, device):
    grid = Grid(shape, "periodic", MPI.COMM_SELF)
    rows, cols, values = coupled(grid)
    size = (2 * grid.size, 2 * grid.size)
    b = torch.randn(2, size[0], **DOUBLE)
    results = []
    for places in (None, grid):
        operator = Coupled(rows.numpy(), cols.numpy(), size, MPI.COMM_SELF)
        operator.stencil_grid = places
        solver = Solver("batched_bcgs", "jacobi", 6)
        results.append(gradients(operator, values.to(device), b.to(device), solver))
        is_stencil = isinstance(engine_of(solver).pattern(operator), DiaPattern)
        assert is_stencil == (places is not None)
    wanted = gradients(operator, values, b, Solver("bcgs", "jacobi", 6))
    for found in results:
        assert_same(found, wanted)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_physics_on_grids(boundary, device):
    grid = Grid((7, 6), boundary, MPI.COMM_SELF)
    field = torch.randn(3, 1, 7, 6, **DOUBLE)
    results = []
    for ksp, where in (("cg", "cpu"), ("batched_cg", device)):
        heat = Heat(grid, 1e-2, 0.5, Solver(ksp, "jacobi", 4))
        u = field.to(where).requires_grad_()
        after = heat(u)
        results.append([after, *torch.autograd.grad(after.square().sum(), u)])
    assert_same(results[1], results[0])


def test_elements_with_dirichlet_conditions(device):
    cells = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]]).numpy()
    operator = ElementOperator(cells, 5, MPI.COMM_SELF, dirichlet=[0, 4], symmetric=True)
    stiffness = torch.rand(4, 1, 1, **DOUBLE) + 1.0
    values = stiffness * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], **DOUBLE)
    b = torch.randn(2, 5, **DOUBLE)
    theirs, ours = (Solver(ksp, "jacobi", 1e-10) for ksp in ("cg", "batched_cg"))
    wanted = gradients(operator, values, b, theirs)
    assert_same(gradients(operator, values.to(device), b.to(device), ours), wanted, 1e-8)


@pytest.mark.parametrize(
    ("ksp", "symmetric", "count"),
    [("cg", True, 1), ("cg", True, 2), ("gmres", False, 1), ("bcgs", False, 1)],
)
def test_derivatives_of_first_and_second_order(ksp, symmetric, count, device):
    matrix = dominant(4, symmetric, density=1.0)
    operator, values = sparse(matrix, symmetric=symmetric)
    rows, cols = matrix.nonzero(as_tuple=True)
    low, high = torch.minimum(rows, cols), torch.maximum(rows, cols)
    pairs = torch.stack([low, high] if symmetric else [rows, cols])
    _, index = torch.unique(pairs, dim=1, return_inverse=True)
    parameters = torch.zeros(int(index.max()) + 1, **DOUBLE)
    parameters[index] = values
    if count > 1:
        parameters = torch.stack([parameters * (1 + number) for number in range(count)])
    inputs = [t.to(device).requires_grad_() for t in (parameters, torch.randn(2, 4, **DOUBLE))]
    solver = Solver(f"batched_{ksp}", "jacobi", 1e-13)

    def function(p, b):
        return solve(operator, p[..., index.to(p.device)], b, solver)

    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_transforms_of_torch(device):
    matrix = dominant(6, True)
    operator, values = sparse(matrix, symmetric=True)
    values, solver = values.to(device), Solver("batched_cg", "jacobi", 1e-12)
    b = torch.randn(5, 2, 6, **DOUBLE, device=device)
    found = torch.func.vmap(lambda one: solve(operator, values, one, solver))(b)
    wanted = torch.linalg.solve(matrix, b.cpu().reshape(10, 6).mT).mT.view(5, 2, 6)
    torch.testing.assert_close(found.cpu(), wanted)
    many = torch.stack([values, 2.0 * values])
    found = torch.func.vmap(lambda one: solve(operator, one, b[0], solver))(many)
    torch.testing.assert_close(found.cpu(), torch.stack([wanted[0], wanted[0] / 2.0]))


def test_new_values_are_noticed_and_derivatives_have_the_numbers_of_their_solve(device):
    matrix = dominant(6, True)
    operator, values = sparse(matrix, symmetric=True)
    values, solver = values.to(device), Solver("batched_cg", "jacobi", 1e-12)
    b = torch.randn(6, **DOUBLE).to(device).requires_grad_()
    x = solve(operator, values, b, solver)
    solve(operator, values, b, solver)
    assert solver.report.forward.set_ups == 1
    values.data.mul_(2.0)
    half = solve(operator, values, b, solver)
    assert solver.report.forward.set_ups == 2
    torch.testing.assert_close(half, x / 2.0)
    (gradient,) = torch.autograd.grad(x.sum(), b)
    torch.testing.assert_close(gradient.cpu(), torch.linalg.solve(matrix, torch.ones(6, **DOUBLE)))


@pytest.mark.parametrize("ksp", ["cg", "gmres", "richardson"])
def test_a_guess_is_the_start_and_a_tolerance_refers_to_b(ksp, device):
    matrix = dominant(20, True, density=0.2)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(3, 20, **DOUBLE)
    b[1] = 0.0
    guess = torch.linalg.solve(matrix, b.mT).mT + 1e-5 * torch.randn(3, 20, **DOUBLE)
    # PETSc's Richardson looks at another norm too once there is a guess.
    for level in (2,) if ksp == "richardson" else (2, 1e-3, 1e-8):
        theirs, ours = pair(ksp, "jacobi", level)
        wanted = solve(operator, values, b, theirs, guess)
        found = solve(operator, *(t.to(device) for t in (values, b)), ours, guess.to(device))
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-9, atol=1e-12)
        if isinstance(level, float):
            assert ours.report.forward.iterations == theirs.report.forward.iterations


def test_solves_start_from_the_last_solution_of_their_sample(device):
    matrix = dominant(20, True, density=0.2)
    operator, values = sparse(matrix, symmetric=True)
    given = torch.randn(2, 20, **DOUBLE)
    counts = []
    for ksp, where in (("cg", "cpu"), ("batched_cg", device)):
        solver = Solver(ksp, "jacobi", 1e-8, initial_guess="last")
        for step in range(3):
            b = (given * (1.0 + 1e-4 * step)).to(where).requires_grad_()
            with solver.samples(["a", "b"]):
                x = solve(operator, values.to(where), b, solver)
            torch.autograd.grad(x.sum(), b)
        counts.append((solver.report.forward.iterations, solver.report.adjoint.iterations))
        # What is kept goes into checkpoints, on the host.
        kept = Solver(ksp, "jacobi", 1e-8, initial_guess="last")
        kept.load_state_dict(solver.state_dict())
        with kept.samples(["a", "b"]):
            again = solve(operator, values.to(where), b.detach(), kept)
        assert kept.report.forward.iterations == 0
        torch.testing.assert_close(again, x.detach())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e200])
def test_right_hand_sides_of_extreme_size(size, device):
    matrix = dominant(9, True)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(2, 9, **DOUBLE)
    scale = torch.tensor([[1.0], [size]], **DOUBLE)
    theirs, ours = pair("cg", "jacobi", 3)
    wanted = solve(operator, values, scale * b, theirs)
    found = solve(operator, values.to(device), (scale * b).to(device), ours)
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_device_of_b_are_those_of_x(dtype, device):
    operator, values = sparse(dominant(6, True), symmetric=True)
    b = torch.randn(6, dtype=dtype, device=device, requires_grad=True)
    x = solve(operator, values.to(device), b, Solver("batched_cg", "jacobi", 1e-10))
    (gradient,) = torch.autograd.grad(x.sum(), b)
    assert x.dtype == gradient.dtype == dtype
    assert x.device == gradient.device == b.device


def test_singular_matrices_have_the_pseudo_inverse(device):
    grid = Grid((6, 5), "periodic", MPI.COMM_SELF)
    shift = torch.arange(30).view(6, 5)
    rows = shift.flatten().repeat(5)
    near = [shift.roll(step, axis).flatten() for axis in (0, 1) for step in (-1, 1)]
    cols = torch.cat([shift.flatten(), *near])
    values = torch.cat([torch.full((30,), 4.0, **DOUBLE), torch.full((120,), -1.0, **DOUBLE)])
    operator = SparseOperator(
        rows.numpy(),
        cols.numpy(),
        (30, 30),
        MPI.COMM_SELF,
        symmetric=True,
        grid=grid,
        constant_nullspace=True,
    )
    b = torch.randn(2, 30, **DOUBLE)
    theirs, ours = pair("cg", "jacobi", 1e-12)
    wanted = gradients(operator, values, b, theirs)
    assert_same(gradients(operator, values.to(device), b.to(device), ours), wanted, 1e-9)


def failure_of(action):
    with pytest.raises((InputError, RuntimeError)) as caught:
        action()
    return type(caught.value), str(caught.value).replace("batched_", "")


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


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("ksp", "pc"), [("cg", "jacobi"), ("bcgs", "chebyshev"), ("gmres", "none")]
)
def test_solves_that_are_alike_may_be_one_graph(ksp, pc, precision, device):
    """On a GPU the later ones are replayed, with the numbers of their own b and values."""
    matrix = dominant(15, True, density=0.3)
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver(f"batched_{ksp}", pc, 5, precision=precision)
    tolerance = 1e-9 if precision == "float64" else 1e-4
    for step in range(4):
        own = (1.0 + step) * values
        b = torch.randn(2, 15, **DOUBLE)
        found = gradients(operator, own.to(device), b.to(device), solver)
        fresh = Solver(f"batched_{ksp}", pc, 5)
        assert_same(found, gradients(operator, own, b, fresh), tolerance)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("pc", ["jacobi", "chebyshev"])
@pytest.mark.parametrize(("ksp", "symmetric"), [case for case in CASES if case[0] != "gmres"])
def test_graphs_do_the_same_iterations(ksp, symmetric, pc, precision, device, monkeypatch):
    """On the CPU the functions that a GPU captures run directly."""
    operator, values = sparse(dominant(40, symmetric, density=0.1), symmetric=symmetric)
    plain, graphed = (Solver(f"batched_{ksp}", pc, 3, precision=precision) for _ in range(2))
    results = {}
    for step, level in enumerate((3, 3, 3, 1e-3, 1e-9, Refinement(max_it=11, rtol=1e-12))):
        own, b = (1.0 + step) * values, torch.randn(3, 40, **DOUBLE)
        b[0] *= step != 1
        for name, solver in (("plain", plain), ("graphs", graphed)):
            monkeypatch.setattr(graphs, "is_captured", lambda *_, name=name: name == "graphs")
            solver.refine(level)
            results[name] = gradients(operator, own.to(device), b.to(device), solver)
        assert_same(results["graphs"], [one.cpu() for one in results["plain"]], 1e-13)
        assert plain.report.forward.iterations == graphed.report.forward.iterations


def test_failures_inside_of_a_graph(device, monkeypatch):
    monkeypatch.setattr(graphs, "is_captured", lambda *_: True)
    matrix = dominant(12, True)
    operator, values = sparse(matrix - 2.0 * torch.diag(matrix.diagonal()) * (torch.arange(12) % 2))
    b = torch.randn(1, 12, **DOUBLE)
    for level in (1e-10, 6, 6):
        theirs, ours = pair("cg", "jacobi", level)
        wanted = failure_of(lambda: solve(operator, values, b, theirs))  # noqa: B023
        for _ in range(2):
            found = failure_of(lambda: solve(operator, values.to(device), b.to(device), ours))  # noqa: B023
            assert found == wanted
