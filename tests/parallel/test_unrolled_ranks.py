"""Property: unrolled solves on several ranks are those of one rank, gradients included, with as
many messages for any batch.
"""

import pytest
import scipy.sparse
import torch
from mpi4py import MPI
from systems import dominant
from unrolled_preconditioners import check, divided

from prdp_hpc import Grid, SolveError, Solver, SparseOperator, solve
from prdp_hpc.linalg import products
from prdp_hpc.linalg.products import BatchedProduct
from prdp_hpc.linalg.unrolled import reductions
from prdp_hpc.physics import Poisson

WORLD = MPI.COMM_WORLD
DOUBLE = {"dtype": torch.float64}
SUMMED = reductions.all_reduce
CASES = [
    ("richardson", False),
    ("steepest_descent", True),
    ("cg", True),
    ("gmres", False),
    ("bcgs", False),
]


def options(ksp):
    return {"ksp_gmres_restart": 3} if ksp == "gmres" else {}


def on_one_rank(matrices, b, grad, solver):
    """Solution and gradients of the whole system, computed by each rank alone."""
    rows, cols = matrices[0].nonzero(as_tuple=True)
    operator = SparseOperator(rows.numpy(), cols.numpy(), tuple(matrices[0].shape), MPI.COMM_SELF)
    values = torch.stack([matrix[rows, cols] for matrix in matrices])
    leaves = (
        (values if len(matrices) > 1 else values[0]).requires_grad_(),
        b.clone().requires_grad_(),
    )
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
    both = torch.stack(
        [torch.cat([m[rows, cols] * share, m[rows, cols] * (1 - share)]) for m in matrices]
    )
    rows, cols = (index.repeat(2)[WORLD.rank :: WORLD.size] for index in (rows, cols))
    operator = SparseOperator(rows.numpy(), cols.numpy(), (n, n))
    own = slice(*operator.row_range)
    b, grad = torch.randn(2, 2 * members, n, generator=torch.Generator().manual_seed(1), **DOUBLE)
    for level in levels:
        solver, alone = (
            Solver(ksp, "jacobi", level, petsc_options=options(ksp), differentiation="unrolled")
            for _ in range(2)
        )
        values = (
            both[:, WORLD.rank :: WORLD.size].clone()
            if members > 1
            else both[0, WORLD.rank :: WORLD.size].clone()
        )
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
        found.append(
            (
                comm.allreduce(u.abs().sum().item()),
                torch.from_numpy(comm.allreduce(gradient.numpy())),
            )
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


class CountingComm(MPI.Intracomm):
    """A communicator that counts the reductions asked of it."""

    reductions = 0

    def Allreduce(self, *arguments, **options):  # noqa: N802 - mpi4py's name
        CountingComm.reductions += 1
        return super().Allreduce(*arguments, **options)

    def allreduce(self, *arguments, **options):
        CountingComm.reductions += 1
        return super().allreduce(*arguments, **options)


def counted_sum(local, comm):
    """`reductions.all_reduce`, which reduces on a private communicator, counted too."""
    CountingComm.reductions += 1
    return SUMMED(local, comm)


def check_messages(ksp, each):
    """As many reductions for a batch as for one right-hand side, and for each iteration those of
    the method.
    """
    tridiagonal = scipy.sparse.diags([-1.0, 3.0, -1.0], [-1, 0, 1], shape=(40, 40))
    operator, values = SparseOperator.from_scipy(tridiagonal, symmetric=True)
    solver = Solver(ksp, "jacobi", 4, differentiation="unrolled")
    solve(operator, values, torch.ones(operator.n_local, **DOUBLE), solver)
    # Not before PETSc's objects are made: they take none but mpi4py's own.
    operator.comm = CountingComm(WORLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reductions, "all_reduce", counted_sum)
        counts = count_messages(operator, values, solver)
    assert counts[:4] == counts[4:]
    few, few_back, many, many_back = counts[:4]
    assert many - few == 5 * each
    assert 5 * each <= many_back - few_back <= 10 * each


def count_messages(operator, values, solver):
    """Reductions forward and backward for 4 and for 9 iterations, of one right-hand side and of
    six.
    """
    counts = []
    for batch in (1, 6):
        for iterations in (4, 9):
            solver.refine(iterations)
            CountingComm.reductions = 0
            b = torch.randn(batch, operator.n_local, **DOUBLE)
            x = solve(operator, values.clone().requires_grad_(), b, solver)
            counts.append(CountingComm.reductions)
            CountingComm.reductions = 0
            x.sum().backward()
            counts.append(CountingComm.reductions)
    return counts


def check_changed_values():
    """The same solver for other values, forward and back."""
    rows, cols = dominant(8, density=1.0).nonzero(as_tuple=True)
    rows, cols = (index[WORLD.rank :: WORLD.size].numpy() for index in (rows, cols))
    matrices = [dominant(8, density=1.0, seed=seed) for seed in range(2)]
    b, grad = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(5), **DOUBLE)
    reused, found = SparseOperator(rows, cols, (8, 8)), []
    own = slice(*reused.row_range)
    solver = Solver("gmres", "jacobi", 3, differentiation="unrolled")
    for operator in (reused, None):
        used = [
            SparseOperator(rows, cols, (8, 8)) if operator is None else operator for _ in matrices
        ]
        solvers = [
            Solver("gmres", "jacobi", 3, differentiation="unrolled") if operator is None else solver
            for _ in matrices
        ]
        leaves = [matrix[rows, cols].requires_grad_() for matrix in matrices]
        results = [solve(o, v, b[:, own], s) for o, v, s in zip(used, leaves, solvers, strict=True)]
        for x in results:
            x.backward(grad[:, own])
        found.append([x.detach() for x in results] + [leaf.grad for leaf in leaves])
    for same, fresh in zip(*found, strict=True):
        torch.testing.assert_close(same, fresh, rtol=1e-12, atol=1e-14)


def check_products():
    """Products with batches, by either way of computing them; some ranks may hold no rows."""
    for n in (13, WORLD.size - 1):
        matrix = dominant(n, density=1.0)
        rows, cols = (
            index[WORLD.rank :: WORLD.size].numpy() for index in matrix.nonzero(as_tuple=True)
        )
        operator = SparseOperator(rows, cols, (n, n))
        own = slice(*operator.row_range)
        operator.load(matrix[rows, cols])
        product, most = BatchedProduct(operator.matrix, symmetric=False), products.MOST_TRANSPOSED
        for batch in (1, 3):
            x = torch.randn(batch, n, generator=torch.Generator().manual_seed(batch), **DOUBLE)
            torch.testing.assert_close(
                product(x[:, own]), (x @ matrix.T)[:, own], rtol=1e-12, atol=1e-12
            )
            for products.MOST_TRANSPOSED in (0, most):
                torch.testing.assert_close(
                    product(x[:, own], True), (x @ matrix)[:, own], rtol=1e-12, atol=1e-12
                )


def check_failures():
    """NaN on one rank is an error on all of them."""
    n = 4 * WORLD.size
    rows = torch.arange(4 * WORLD.rank, 4 * WORLD.rank + 4).numpy()
    operator = SparseOperator(rows, rows, (n, n))
    values, b = torch.full((4,), 2.0, **DOUBLE), torch.ones(4, **DOUBLE)
    bad = b.clone()
    bad[0] = torch.nan if WORLD.rank == WORLD.size - 1 else 1.0
    for ksp, level in (("cg", 2), ("richardson", 2), ("gmres", 1e-6), ("richardson", 1e-6)):
        solver = Solver(
            ksp,
            "none",
            level,
            petsc_options={"ksp_richardson_scale": 0.3} if ksp == "richardson" else {},
        )
        solver.differentiation = "unrolled"
        with pytest.raises(SolveError, match="right-hand side holds NaN"):
            solve(operator, values, bad, solver)
        x = solve(operator, values, b.clone().requires_grad_(), solver)
        with pytest.raises(SolveError, match="incoming gradient holds NaN"):
            x.backward(bad)


PRECONDITIONERS = [
    ("asm", {}),
    ("asm", {"sub_pc_type": "lu"}),
    ("asm", {"pc_asm_blocks": 8}),
    ("bjacobi", {}),
    ("gamg", {"pc_gamg_coarse_eq_limit": 2}),
    ("sor", {}),
    ("sor", {"pc_sor_local_forward": None}),
    ("redundant", {}),
]


def check_preconditioners():
    """With the transpose of the preconditioner, which PETSc may make unsymmetric; Schwarz methods
    and algebraic multigrid in each Krylov method.
    """
    for pc, more in PRECONDITIONERS:
        others = [("richardson", True), ("cg", True)] if pc in ("asm", "gamg") else []
        for ksp, symmetric in (*others, ("gmres", False)):
            level = 1 if pc == "redundant" else 3
            done = check(WORLD, ksp, pc, symmetric, 13, level, options=more, density=0.15)
            assert done or pc == "sor" or "pc_asm_blocks" in more


def check_zero_right_hand_sides():
    """Zero on all ranks, or on some of them only."""
    n = 11
    for ksp, symmetric in CASES:
        operator, values = divided(dominant(n, symmetric, density=0.6), WORLD)
        own = slice(*operator.row_range)
        b, grad = torch.randn(2, 3, n, generator=torch.Generator().manual_seed(4), **DOUBLE)
        b[0], b[1, : n // 2], b[2, n // 2 :] = 0.0, 0.0, 0.0
        for level in (3, 1e-6) if ksp == "cg" else (3,):
            found = []
            for kind, rows in (("unrolled", [0, 1, 2]), ("unrolled", [1, 2]), ("implicit", [0])):
                solver = Solver(ksp, "jacobi", level, differentiation=kind)
                leaves = values.clone().requires_grad_(), b[rows, own].clone().requires_grad_()
                x = solve(operator, *leaves, solver)
                found.append(torch.autograd.grad(x, leaves, grad[rows, own]))
            (values_grad, b_grad), (values_others, others), (_, implicit) = found
            torch.testing.assert_close(b_grad[:1], implicit, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(b_grad[1:], others, rtol=1e-10, atol=1e-13)
            torch.testing.assert_close(values_grad, values_others, rtol=1e-10, atol=1e-13)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_unrolled_solves_on_several_ranks():
    for ksp, symmetric in CASES:
        check_a_divided_system(11, ksp, symmetric)
        # fewer rows than ranks: some hold none
        check_a_divided_system(WORLD.size - 1, ksp, symmetric, levels=(2,))
    check_a_divided_system(5, "gmres", False, members=3)
    for ksp, each in (
        ("richardson", 0),
        ("steepest_descent", 1),
        ("cg", 2),
        ("gmres", 2),
        ("bcgs", 3),
    ):
        check_a_nullspace(ksp)
        check_messages(ksp, each)
    check_preconditioners()
    check_zero_right_hand_sides()
    check_changed_values()
    check_products()
    check_failures()
