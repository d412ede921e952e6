"""Property: memory, counters and gradients of unrolled solves are right for any use between the
forward and the backward pass.
"""

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import FunctionOperator, Refinement, SolveError, Solver, SparseOperator, solve
from prdp_hpc.linalg.unrolled import reductions

METHODS = ["richardson", "steepest_descent", "cg", "gmres", "bcgs"]
DOUBLE = {"dtype": torch.float64}


@pytest.fixture
def made(monkeypatch):
    """How many matrices were made for batches of matrices, as a list of one number."""
    count, real = [0], SparseOperator._new_matrix

    def counted(operator):
        count[0] += 1
        return real(operator)

    monkeypatch.setattr(SparseOperator, "_new_matrix", counted)
    return count


def several(members=3, n=6):
    """An operator, values for several matrices, and two right-hand sides for each."""
    matrices = [dominant(n, True, density=1.0, seed=seed) for seed in range(members)]
    operator, _ = sparse(matrices[0])
    return (
        operator,
        torch.stack([matrix.flatten() for matrix in matrices]),
        torch.randn(2 * members, n, **DOUBLE),
    )


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("ksp", METHODS)
def test_a_graph_may_be_gone_through_twice(ksp, batched):
    operator, values, b = several()
    values = (values if batched else values[0]).clone().requires_grad_()
    b.requires_grad_()
    solver = Solver(ksp, "jacobi", 3, differentiation="unrolled")
    x = solve(operator, values, b, solver)
    first = torch.autograd.grad(x.sum(), (values, b), retain_graph=True)
    # Other values in the same matrices, once without and once with a separate graph.
    other = (2 * values).detach().requires_grad_()
    y = solve(operator, other, b, solver)
    solve(operator, 3 * values.detach(), b.detach(), solver)
    second = torch.autograd.grad(x.sum(), (values, b), retain_graph=True)
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=0.0)
    wanted = solve(several()[0], other, b, solver)
    for one, two in zip(
        *(torch.autograd.grad(z.sum(), (other, b)) for z in (y, wanted)), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-15)


def test_values_changed_in_place_are_noticed():
    operator, values = sparse(dominant(6))
    leaf = values.clone().requires_grad_()
    used = leaf * 1.0
    x = solve(
        operator,
        used,
        torch.ones(6, **DOUBLE),
        Solver("gmres", "jacobi", 2, differentiation="unrolled"),
    )
    with torch.no_grad():
        used.mul_(2.0)
    with pytest.raises(RuntimeError, match="inplace"):
        x.sum().backward()


@pytest.mark.parametrize("ksp", METHODS)
def test_without_gradients_nothing_is_held(made, ksp):
    operator, values, b = several()
    solver = Solver(ksp, "jacobi", 2, differentiation="unrolled")
    values.requires_grad_()
    with torch.no_grad():
        for _ in range(3):
            assert not solve(operator, values, b, solver).requires_grad
    assert made == [3]
    graphs = [solve(operator, values, b, solver) for _ in range(2)]
    assert made == [6]
    for x in graphs:
        x.sum().backward()
    solve(operator, values, b, solver)
    assert made == [6]


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_failed_solve_holds_nothing(made, differentiation, requires_grad):
    operator, values, b = several()
    values.requires_grad_(requires_grad)
    good = Solver("gmres", "jacobi", 2, differentiation=differentiation)
    singular = torch.ones_like(values, requires_grad=requires_grad)
    for _ in range(3):
        with pytest.raises(SolveError, match="NaN"):
            solve(operator, values, torch.full_like(b, torch.nan), good)
        with pytest.raises(SolveError, match="PCSETUP"):
            solve(operator, singular, b, Solver("gmres", "lu", 2, differentiation=differentiation))
    assert made == [3]
    torch.testing.assert_close(
        solve(operator, values, b, good),
        solve(several()[0], values, b, good),
        rtol=1e-13,
        atol=1e-15,
    )


@pytest.mark.parametrize("ksp", METHODS)
def test_an_absolute_tolerance_holds_as_with_petsc(ksp):
    operator, values = sparse(dominant(20, True), symmetric=True)
    b = torch.randn(3, 20, **DOUBLE) * torch.tensor([[1.0], [1e-2], [1e-6]], **DOUBLE)
    solvers = [
        Solver(ksp, "jacobi", level, petsc_options={"ksp_atol": 1e-4}, differentiation=kind)
        for level in (1e-9, Refinement(max_it=5, rtol=1e-9), 4)
        for kind in ("implicit", "unrolled")
    ]
    for theirs, ours in zip(solvers[::2], solvers[1::2], strict=True):
        wanted = solve(operator, values, b, theirs)
        torch.testing.assert_close(solve(operator, values, b, ours), wanted, rtol=1e-10, atol=1e-16)
        assert ours.report.forward.iterations == theirs.report.forward.iterations
    # The last right-hand side is small enough from the start, but not for a fixed number of
    # iterations.
    assert not solve(operator, values, b, solvers[1])[2].any()
    assert solve(operator, values, b, solvers[-1])[2].any()


def test_the_values_of_a_function_operator_have_any_shape():
    def apply(values, x):
        return values.sum(0) * x + values[0, 0] * x.roll(1)

    operator = FunctionOperator(apply, 5, MPI.COMM_SELF, diagonal=lambda values: values.sum(0))
    values, b, grad = torch.rand(3, 5, **DOUBLE) + 1.0, *torch.randn(2, 2, 5, **DOUBLE)
    for ksp in ("gmres", "bcgs", "richardson"):
        solver = Solver(ksp, "jacobi", 2, differentiation="unrolled")
        wanted = solve(operator, values, b, Solver(ksp, "jacobi", 2))
        torch.testing.assert_close(
            solve(operator, values, b, solver), wanted, rtol=1e-12, atol=1e-14
        )

        def loss(v, right, solver=solver):
            # A new tensor each time: gradcheck changes its own behind torch's back.
            return (solve(operator, v * 1.0, right, solver) * grad).sum()

        assert torch.autograd.gradcheck(
            loss,
            (values.clone().requires_grad_(), b.clone().requires_grad_()),
            rtol=1e-6,
            atol=1e-7,
        )


@pytest.mark.parametrize("ksp", METHODS)
def test_single_precision_comes_in_and_goes_out(ksp):
    operator, values = sparse(dominant(8, True), symmetric=True)
    b = torch.randn(2, 8)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = values.float().to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
        x = solve(operator, *leaves, Solver(ksp, "jacobi", 3, differentiation="unrolled"))
        results.append([x, *torch.autograd.grad(x.sum(), leaves)])
    for single, double in zip(*results, strict=True):
        # Only the result is rounded: both solves run in double precision.
        assert single.dtype == torch.float32
        torch.testing.assert_close(single, double.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("level", [4, 1e-6])
@pytest.mark.parametrize("ksp", METHODS)
def test_what_the_report_counts(ksp, level):
    operator, values, b = several()
    solver = Solver(ksp, "jacobi", level, differentiation="unrolled")
    x = solve(operator, values.requires_grad_(), b, solver)
    forward, adjoint = solver.report.forward, solver.report.adjoint
    assert (forward.solves, forward.set_ups, adjoint.solves, adjoint.set_ups) == (6, 3, 0, 0)
    assert forward.iterations == 24 if level == 4 else forward.iterations > 6
    x.sum().backward()
    # Each forward iteration is gone back through; the preconditioners are there already.
    assert (adjoint.solves, adjoint.set_ups, adjoint.iterations) == (6, 0, forward.iterations)
    assert min(forward.seconds, adjoint.seconds) > 0.0


@pytest.mark.parametrize(
    ("ksp", "start", "each", "cycle"),
    [
        ("richardson", 1, 1, 0),
        ("steepest_descent", 1, 2, 0),
        ("cg", 1, 2, 0),
        ("bcgs", 1, 3, 0),
        ("gmres", 0, 2, 1),
    ],
)
def test_reductions_with_a_tolerance_and_across_restarts(monkeypatch, ksp, start, each, cycle):
    calls, real = [0], reductions.all_reduce

    def counted(local, comm):
        calls[0] += 1
        return real(local, comm)

    monkeypatch.setattr(reductions, "all_reduce", counted)
    operator, values = sparse(dominant(40, True), symmetric=True)
    for batch in (1, 5):
        for most in (3, 8, 9):
            calls[0] = 0
            solver = Solver(
                ksp, "jacobi", Refinement(max_it=most, rtol=1e-14), differentiation="unrolled"
            )
            solver.petsc_options |= {"ksp_gmres_restart": 3} if ksp == "gmres" else {}
            solve(operator, values, torch.randn(batch, 40, **DOUBLE), solver)
            assert solver.report.forward.iterations == most * batch
            assert calls[0] == start + each * most + cycle * -(-most // 3)
