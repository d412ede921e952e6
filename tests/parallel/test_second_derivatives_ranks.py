"""Property: on any number of ranks derivatives of any order are those of the whole system."""

import gc
import sys

import pytest
import torch
from mpi4py import MPI
from systems import dominant

from prdp_hpc import FunctionOperator, Grid, Heat, Solver, SparseOperator, solve
from prdp_hpc.distributed import communicators
from prdp_hpc.distributed.transport import all_reduce_sum
from prdp_hpc.grid.halo import Halo
from prdp_hpc.physics import Burgers

WORLD = MPI.COMM_WORLD
N = 9
MATRIX = dominant(N, density=0.6)
ROWS, COLS = MATRIX.nonzero(as_tuple=True)
MINE = slice(WORLD.rank, None, WORLD.size)  # most entries belong to rows of other ranks
SOLVER = ("gmres", "jacobi", 1e-13)


def same_on_all(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(values, b):
    each = values.reshape(-1, values.shape[-1])
    matrices = torch.stack(
        [torch.zeros(N, N, dtype=values.dtype).index_put((ROWS, COLS), own) for own in each]
    )
    return torch.linalg.solve(matrices, b.reshape(len(each), -1, N).mT).mT.reshape(b.shape)


def operator_and_part():
    operator = SparseOperator(ROWS[MINE].numpy(), COLS[MINE].numpy(), (N, N))
    return operator, slice(*operator.row_range)


def hvp_of(way, inputs, directions):
    """First derivatives, second ones along the directions, and third ones of both."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    first = torch.autograd.grad((way(*inputs) ** 3).sum(), inputs, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
    second = torch.autograd.grad(along, inputs, create_graph=True)
    third = torch.autograd.grad(sum((g**2).sum() for g in second), inputs)
    return [*first, *second, *third]


def check_higher_derivatives(matrices):
    operator, part = operator_and_part()
    values = MATRIX[ROWS, COLS]
    if matrices > 1:
        values = torch.stack([values * (1.0 + m) for m in range(matrices)])
    b = same_on_all(2 * matrices, N)
    directions = same_on_all(*values.shape, seed=1), same_on_all(*b.shape, seed=2)
    wanted = hvp_of(dense, (values, b), directions)
    solver = Solver(*SOLVER)
    found = hvp_of(
        lambda v, r: solve(operator, v, r, solver),
        (values[..., MINE], b[:, part]),
        (directions[0][..., MINE], directions[1][:, part]),
    )
    for index, (own, whole) in enumerate(zip(found, wanted, strict=True)):
        whole = whole[..., MINE] if index % 2 == 0 else whole[:, part]
        torch.testing.assert_close(own, whole, rtol=1e-7, atol=1e-9)

    v, r = values[..., MINE].clone().requires_grad_(), b[:, part].clone().requires_grad_()
    whole = values.clone().requires_grad_(), b.clone().requires_grad_()
    cotangents = same_on_all(3, *b.shape, seed=3)
    several = {"is_grads_batched": True}
    found = torch.autograd.grad(
        solve(operator, v, r, solver), (v, r), cotangents[..., part], **several
    )
    wanted = torch.autograd.grad(dense(*whole), whole, cotangents, **several)
    torch.testing.assert_close(found[0], wanted[0][..., MINE], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found[1], wanted[1][..., part], rtol=1e-7, atol=1e-9)

    tangents = directions[0][..., MINE], directions[1][:, part]
    _, found = torch.func.jvp(lambda v, r: solve(operator, v, r, solver), (v, r), tangents)
    _, wanted = torch.func.jvp(dense, (values, b), directions)
    torch.testing.assert_close(found, wanted[:, part], rtol=1e-7, atol=1e-9)
    found = torch.func.vmap(lambda c: solve(operator, values[..., MINE], c, solver))(
        cotangents[..., part]
    )
    wanted = torch.stack([dense(values, c) for c in cotangents])
    torch.testing.assert_close(found, wanted[..., part], rtol=1e-7, atol=1e-9)


def check_a_function_operator():
    """`A(p) u = u + p ∘ (−Δ u)` with a halo in it, against its matrix on one rank."""
    grid, alone = Grid((12,), "periodic"), Grid((12,), "periodic", MPI.COMM_SELF)

    def apply_on(where):
        def apply(p, x):
            padded = where.halo(x)
            return 3.0 * x + p**2 * (2.0 * x - padded[:-2] - padded[2:])

        return FunctionOperator(apply, where.n_local, where.comm)

    p, b, direction = same_on_all(3, 12)
    solver = Solver(*SOLVER[:1], "none", SOLVER[2])
    results = []
    for where in (alone, grid):
        operator = apply_on(where)
        results.append(
            hvp_of(
                lambda v, r, operator=operator: solve(operator, v, r, solver),
                [where.scatter(t) for t in (p, b)],
                [where.scatter(t) for t in (direction, p)],
            )
        )
    for whole, own in zip(*results, strict=True):
        torch.testing.assert_close(own, grid.scatter(whole), rtol=1e-7, atol=1e-9)


def check_chains_of_steps():
    """Of Heat in κ and of Burgers in the state: Hessian-vector products as on one rank."""
    results = []
    for comm in (MPI.COMM_SELF, WORLD):
        grid = Grid((12,), "periodic", comm)
        kappa, state = 0.5 + same_on_all(12).square(), 1.0 + 0.2 * same_on_all(2, 1, 12, seed=1)
        heat = Heat(grid, 1.0, 0.1, Solver("cg", "jacobi", 1e-13))
        burgers = Burgers(grid, 0.05, 0.02, Solver(*SOLVER))

        def steps(k, u, heat=heat, burgers=burgers):
            heat.diffusivity = k
            for _ in range(2):
                u = burgers(heat(u))
            return u

        inputs = [grid.scatter(kappa), grid.scatter(state)]
        scalar = torch.tensor(0.7, dtype=torch.float64)
        directions = [grid.scatter(t) for t in (same_on_all(12, seed=2), state)]
        found = [
            *hvp_of(steps, inputs, directions),
            *hvp_of(steps, [scalar, inputs[1]], [scalar, directions[1]]),
        ]
        results.append([grid.gather(t) if t.dim() else t for t in found])
    for whole, own in zip(*results, strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-6, atol=1e-8)


def check_exchanges_of_grids():
    """What goes through gather, scatter, replicated, halo and total has the derivatives of whole
    fields.
    """
    results = []
    for comm in (MPI.COMM_SELF, WORLD):
        grid = Grid((13,), "neumann", comm)

        def through(scale, field, grid=grid):
            shared = grid.replicated(scale)
            part = shared * grid.scatter(field**2)
            padded = grid.halo(part)
            whole = grid.gather(padded[1:-1] * (padded[:-2] + padded[2:]) * shared)
            mean = all_reduce_sum(part.pow(2).sum(), grid.comm)
            return grid.scatter(whole.sin()) * mean

        # Scales and whole fields are replicated on all ranks, and so are their gradients.
        inputs = [torch.tensor(0.3, dtype=torch.float64), same_on_all(13)]
        directions = [torch.tensor(1.0, dtype=torch.float64), same_on_all(13, seed=1)]
        first = [t.clone().requires_grad_() for t in inputs]
        one = torch.autograd.grad((through(*first) ** 3).sum(), first, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(one, directions, strict=True))
        two = torch.autograd.grad(along, first, create_graph=True)
        three = torch.autograd.grad(sum((g**2).sum() for g in two), first)
        _, tangent = torch.func.jvp(through, tuple(inputs), tuple(directions))
        fields = same_on_all(2, 13, seed=3)
        batched = torch.func.vmap(through, (None, 0))(inputs[0], fields)
        results.append([*one, *two, *three, grid.gather(tangent), grid.gather(batched)])
    for whole, own in zip(*results, strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-8, atol=1e-10)


def check_types_that_mpi_does_not_have():
    grid = Grid((13,))
    for kind in (torch.bfloat16, torch.float16):
        whole = same_on_all(2, 13).to(kind)
        assert torch.equal(grid.gather(grid.scatter(whole)), whole)
        parameter = torch.ones((), dtype=kind, requires_grad=True)
        (grid.replicated(parameter) * 2.0).backward()
        assert parameter.grad == 2.0 * WORLD.size
        assert parameter.grad.dtype is kind


def raised(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def check_values_changed_on_one_rank():
    last = WORLD.rank == WORLD.size - 1
    operator, part = operator_and_part()
    values, b = MATRIX[ROWS, COLS][MINE].clone(), same_on_all(N)[part].requires_grad_()
    solver = Solver(*SOLVER)
    x = solve(operator, values, b, solver)
    if last:
        values.data.mul_(3.0)
    whole = torch.from_numpy(WORLD.allreduce(_placed(values).numpy()))
    torch.testing.assert_close(
        solve(operator, values, b, solver).detach(), dense(whole, same_on_all(N))[part]
    )
    # The first solve's values are gone, on one rank only.
    message = raised(lambda: x.sum().backward())
    assert "changed between the solve" in message
    grid = Grid((13,))
    kappa = torch.ones(grid.local_shape, dtype=torch.float64)
    heat, field = (
        Heat(grid, kappa, 0.1, Solver("cg", "jacobi", 1e-13)),
        grid.scatter(same_on_all(13)),
    )
    heat(field)
    kappa.data.mul_(2.0 if last else 1.0)
    after = grid.gather(heat(field))
    alone = Grid((13,), comm=MPI.COMM_SELF)
    wanted = Heat(alone, grid.gather(kappa), 0.1, Solver("cg", "jacobi", 1e-13))(same_on_all(13))
    torch.testing.assert_close(after, wanted)


def _placed(values):
    whole = torch.zeros(len(ROWS), dtype=torch.float64)
    whole[MINE] = values
    return whole


def check_sets_of_matrices_of_dropped_graphs():
    """A set is free once every rank has dropped its graph, and not before."""
    operator, part = operator_and_part()
    made, create = [], operator._new_matrix

    def counted():
        made.append(1)
        return create()

    operator._new_matrix = counted
    values = torch.stack([MATRIX[ROWS, COLS][MINE]] * 2).requires_grad_()
    b, solver = same_on_all(2, N)[:, part], Solver(*SOLVER)
    for _ in range(5):
        solve(operator, values, b, solver)
    assert len(made) == 2
    kept = [solve(operator, values * m, b, solver) if m else None for m in range(4)]
    assert len(made) == 6
    if WORLD.rank == 0:
        kept = kept[:1]
        gc.collect()
    again = solve(operator, values, b, solver)
    assert len(made) == 8
    del kept
    gc.collect()
    for _ in range(5):
        solve(operator, values, b, solver)
    assert len(made) == 8
    again.sum().backward()
    # A backward pass that fails, on all ranks, gives them back too.
    for _ in range(3):
        x = solve(operator, values, b, solver)
        assert "NaN" in raised_by_solve(lambda x=x: x.backward(torch.full_like(x, torch.nan)))
    assert len(made) == 8


def raised_by_solve(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


class CountingComm(MPI.Intracomm):
    """Counts reductions, of buffers and of pickled objects."""

    buffers = pickled = 0

    def Allreduce(self, *args, **kwargs):  # noqa: N802 - MPI's name
        CountingComm.buffers += 1
        return super().Allreduce(*args, **kwargs)

    def allreduce(self, *args, **kwargs):
        CountingComm.pickled += 1
        return super().allreduce(*args, **kwargs)


PRIVATE = communicators.private


def counted_private(comm):
    """The private copies of a communicator, whose reductions are counted too."""
    return communicators.Private(*(CountingComm(copy) for copy in PRIVATE(comm)))


def check_reductions_of_a_batch_of_matrices():
    operator, part = operator_and_part()
    solver, counts = Solver(*SOLVER), []

    def step(matrices):
        values = MATRIX[ROWS, COLS][MINE].repeat(matrices, 1).requires_grad_()
        b = same_on_all(matrices, N)[:, part].requires_grad_()
        solve(operator, values, b, solver).sum().backward()

    step(6)  # what PETSc makes, it makes for its own communicator
    operator.comm = CountingComm(WORLD)
    with pytest.MonkeyPatch.context() as patch:
        for module in list(sys.modules.values()):
            if getattr(module, "private", None) is PRIVATE:
                patch.setattr(module, "private", counted_private)
        for matrices in (1, 2, 6):
            CountingComm.buffers = CountingComm.pickled = 0
            step(matrices)
            counts.append((CountingComm.buffers, CountingComm.pickled))
    # Two for each matrix: whether its set-up failed on a rank, forward and adjoint. All else is
    # agreed on once for the batch.
    first = counts[0][0]
    assert counts == [(first, 0), (first + 2, 0), (first + 10, 0)]


def check_mistakes():
    last = WORLD.rank == WORLD.size - 1
    grid = Grid((13,))
    field = torch.ones(grid.local_shape)
    # Without a message, so that one rank may ask alone.
    if last:
        assert grid.blocks[-1] == grid.local_slices
    assert WORLD.allgather(grid.local_slices) == grid.blocks
    messages = WORLD.allgather(raised(lambda: grid.gather(field[1:] if last else field)))
    assert all("must end in the local shape" in message for message in messages)
    for widths in ((1, 1 + last), (1, -1 if last else 1), (1, (1, 1) if last else 1)):
        messages = WORLD.allgather(raised(lambda widths=widths: Halo(grid.partition, *widths)))
        assert all("halo" in message for message in messages)
    # A shorter message than expected is no field.
    batch = torch.ones(3 if last else 2, *grid.local_shape)
    assert any(WORLD.allgather("bytes were expected" in raised(lambda: grid.halo(batch)))) or (
        WORLD.size == 1
    )


@pytest.mark.long_on(4)
@pytest.mark.parallel(nprocs=[2, 4])
def test_derivatives_of_divided_systems():
    for matrices in (1, 2):
        check_higher_derivatives(matrices)
    check_a_function_operator()
    check_chains_of_steps()
    check_exchanges_of_grids()
    check_types_that_mpi_does_not_have()
    check_values_changed_on_one_rank()
    check_sets_of_matrices_of_dropped_graphs()
    check_reductions_of_a_batch_of_matrices()
    check_mistakes()
