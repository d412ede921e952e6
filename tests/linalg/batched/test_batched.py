"""Property: batched solves are PETSc's own iterations and have the derivatives of the solution, for
one matrix or several, on every device.
"""

import pytest
import torch
from devices import DEVICES
from mpi4py import MPI
from solver_pairs import CASES, DOUBLE, LEVELS, assert_same, gradients, pair
from systems import dominant, exact, sparse

from prdp_hpc import (
    Grid,
    Solver,
    SparseOperator,
    solve,
)

pytestmark = pytest.mark.parametrize("device", DEVICES)


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


@pytest.mark.parametrize("of_b", [1.0, 1e-40, 1e60])
@pytest.mark.parametrize("of_A", [1e-150, 1e-90, 1.0, 1e90, 1e150])
@pytest.mark.parametrize(("ksp", "symmetric"), CASES)
def test_a_guess_is_the_start_for_numbers_of_any_size(ksp, symmetric, of_A, of_b, device):
    """The size of the guess was compared with that of b, although A is as small as b."""
    operator, values = sparse(dominant(6, symmetric), symmetric=symmetric)
    b, guess = torch.randn(2, 2, 6, **DOUBLE, generator=torch.Generator().manual_seed(0))
    values, b, guess = (t.to(device) for t in (values.detach(), b, guess))
    solver = Solver(f"batched_{ksp}", "jacobi", 2)
    expected = solve(operator, values, of_b * b, solver, guess)
    found = solve(operator, of_A * values, of_A * of_b * b, solver, guess)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * max(1.0, of_b))


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
