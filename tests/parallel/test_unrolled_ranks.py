"""Property: unrolled solves on several ranks are those of one rank, gradients included, with as many messages for any batch."""

import pytest
import scipy.sparse
import torch
from mpi4py import MPI
from systems import dominant

from prdp_hpc import Grid, SolveError, Solver, SparseOperator, solve
from prdp_hpc.linalg.unrolled import reductions
from prdp_hpc.physics import Poisson

WORLD = MPI.COMM_WORLD
DOUBLE = {"dtype": torch.float64}
CASES = [("richardson", True), ("richardson", False), ("steepest_descent", True), ("cg", True), ("gmres", False), ("bcgs", False)]


def options(ksp):
    return {"ksp_gmres_restart": 3} if ksp == "gmres" else {}


def on_one_rank(matrices, b, grad, solver):
    """Solution and gradients of the whole system, computed by each rank alone."""
    rows, cols = matrices[0].nonzero(as_tuple=True)
    operator = SparseOperator(rows.numpy(), cols.numpy(), tuple(matrices[0].shape), MPI.COMM_SELF)
    values = torch.stack([matrix[rows, cols] for matrix in matrices])
    leaves = (values if len(matrices) > 1 else values[0]).requires_grad_(), b.clone().requires_grad_()
    x = solve(operator, *leaves, solver)
    x.backward(grad)
    dense = torch.zeros(len(matrices), *matrices[0].shape, **DOUBLE)
    dense[:, rows, cols] = leaves[0].grad.view(len(matrices), -1)
    return x.detach(), leaves[1].grad, dense, solver.report.forward.iterations


def check_a_divided_system(n, ksp, symmetric, members=1, levels=(5, 1e-3)):
    """Entries of any row on any rank, each given in two parts."""
    matrices = [dominant(n, symmetric, density=1.0, seed=seed) for seed in range(members)]
    rows, cols = matrices[0].nonzero(as_tuple=True)
    share = torch.linspace(-1, 2, len(rows), **DOUBLE)
    both = torch.stack([torch.cat([m[rows, cols] * share, m[rows, cols] * (1 - share)]) for m in matrices])
    rows, cols = (index.repeat(2)[WORLD.rank :: WORLD.size] for index in (rows, cols))
    operator = SparseOperator(rows.numpy(), cols.numpy(), (n, n))
    own = slice(*operator.row_range)
    b, grad = torch.randn(2, 2 * members, n, generator=torch.Generator().manual_seed(1), **DOUBLE)
    for level in levels:
        solver, alone = (Solver(ksp, "jacobi", level, petsc_options=options(ksp), differentiation="unrolled") for _ in range(2))
        values = both[:, WORLD.rank :: WORLD.size].clone() if members > 1 else both[0, WORLD.rank :: WORLD.size].clone()
        values.requires_grad_()
        right = b[:, own].clone().requires_grad_()
        x = solve(operator, values, right, solver)
        x.backward(grad[:, own])
        solution, b_grad, dense, iterations = on_one_rank(matrices, b, grad, alone)
        torch.testing.assert_close(x.detach(), solution[:, own], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(right.grad, b_grad[:, own], rtol=1e-9, atol=1e-11)
        wanted = dense[:, rows, cols] if members > 1 else dense[0, rows, cols]
        torch.testing.assert_close(values.grad, wanted, rtol=1e-9, atol=1e-11)
        assert solver.report.forward.iterations == solver.report.adjoint.iterations == iterations


def check_a_nullspace(ksp):
    """A Neumann problem divided among the ranks, with a gradient of the right-hand side."""
    found = []
    source = torch.randn(9, generator=torch.Generator().manual_seed(3), **DOUBLE)
    for comm in (WORLD, MPI.COMM_SELF):
        grid = Grid((9,), "neumann", comm)
        own = slice(*Poisson(grid, Solver()).operator.row_range)
        right = source.clone().requires_grad_()
        u = Poisson(grid, Solver(ksp, "jacobi", 3, differentiation="unrolled"))(right[own])
        (gradient,) = torch.autograd.grad((u * torch.arange(9)[own]).sum(), right)
        found.append((comm.allreduce(u.abs().sum().item()), torch.from_numpy(comm.allreduce(gradient.numpy()))))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


def check_messages(ksp):
    """As many reductions for a batch as for one right-hand side."""
    counts, real = [], reductions.summed
    tridiagonal = scipy.sparse.diags([-1.0, 3.0, -1.0], [-1, 0, 1], shape=(20, 20))
    operator, values = SparseOperator.from_scipy(tridiagonal, symmetric=True)
    for batch in (1, 6):
        calls = [0]

        def counted(local, comm, calls=calls):
            calls[0] += 1
            return real(local, comm)

        reductions.summed = counted
        try:
            leaf = values.clone().requires_grad_()
            b = torch.randn(batch, operator.n_local, **DOUBLE)
            solve(operator, leaf, b, Solver(ksp, "jacobi", 4, differentiation="unrolled")).sum().backward()
        finally:
            reductions.summed = real
        counts.append(calls[0])
    assert counts[0] == counts[1]


def check_failures():
    """NaN on one rank is an error on all of them."""
    n = 4 * WORLD.size
    rows = torch.arange(4 * WORLD.rank, 4 * WORLD.rank + 4).numpy()
    operator = SparseOperator(rows, rows, (n, n))
    values, b = torch.full((4,), 2.0, **DOUBLE), torch.ones(4, **DOUBLE)
    bad = b.clone()
    bad[0] = torch.nan if WORLD.rank == WORLD.size - 1 else 1.0
    for ksp, level in (("cg", 2), ("richardson", 2), ("gmres", 1e-6), ("richardson", 1e-6)):
        solver = Solver(ksp, "none", level, petsc_options={"ksp_richardson_scale": 0.3} if ksp == "richardson" else {})
        solver.differentiation = "unrolled"
        with pytest.raises(SolveError, match="right-hand side holds NaN"):
            solve(operator, values, bad, solver)
        x = solve(operator, values, b.clone().requires_grad_(), solver)
        with pytest.raises(SolveError, match="incoming gradient holds NaN"):
            x.backward(bad)


@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_unrolled_solves_on_several_ranks():
    for ksp, symmetric in CASES:
        check_a_divided_system(11, ksp, symmetric)
        # fewer rows than ranks: some hold none
        check_a_divided_system(WORLD.size - 1, ksp, symmetric, levels=(2,))
    check_a_divided_system(5, "gmres", False, members=3)
    for ksp in ("richardson", "steepest_descent", "cg", "gmres", "bcgs"):
        check_a_nullspace(ksp)
        check_messages(ksp)
    check_failures()
