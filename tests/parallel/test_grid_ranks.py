"""Property: on any number of ranks a grid is the grid of one rank, cut in parts; its exchanges have
exact adjoints.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from mpi4py import MPI
from petsc4py import PETSc

from prdp_hpc import Grid, Solver
from prdp_hpc.distributed.transport import TRAFFIC
from prdp_hpc.physics import Heat
from prdp_hpc.planning.cost import surface

WORLD = MPI.COMM_WORLD
KINDS = ("dirichlet", "neumann", "periodic")
CASES = [((13,), (k,)) for k in KINDS]
CASES += [((12, 13), k) for k in itertools.product(KINDS, repeat=2)]
CASES += [((12, 13, 12), k) for k in (*((kind,) * 3 for kind in KINDS), KINDS)]


def same_on_all(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def total(x):
    return WORLD.allreduce(float(x))


def check_parts(grid):
    covered = np.zeros(grid.shape, dtype=int)
    covered[grid.local_slices] = 1
    assert (WORLD.allreduce(covered) == 1).all()
    alone = Grid(grid.shape, grid.boundary, comm=MPI.COMM_SELF)
    for mine, whole in zip(grid.coordinates(), alone.coordinates(), strict=True):
        assert torch.equal(mine, whole[grid.local_slices])
    u = same_on_all((2, *grid.shape))
    assert torch.equal(grid.gather(grid.scatter(u)), u)
    assert torch.equal(grid.gather(grid.scatter(u).float()), u.float())


def check_adjoints_of_gather_and_scatter(grid):
    # A whole field, and so its gradient, is the same on all ranks and counts once; parts count
    # where they are.
    local = torch.randn(3, *grid.local_shape, dtype=torch.float64, requires_grad=True)
    weights = same_on_all((3, *grid.shape), seed=5)
    whole = grid.gather(local)
    whole.backward(weights)
    assert (whole * weights).sum().item() == pytest.approx(
        total((local * local.grad).sum()), rel=1e-10
    )
    field = same_on_all((3, *grid.shape), seed=6).requires_grad_()
    part = grid.scatter(field)
    weights = torch.randn_like(part)
    part.backward(weights)
    assert (field * field.grad).sum().item() == pytest.approx(
        total((part * weights).sum()), rel=1e-10
    )
    assert torch.equal(field.grad, grid.gather(weights))


def check_halo(grid, width):
    alone = Grid(grid.shape, grid.boundary, comm=MPI.COMM_SELF)
    whole = same_on_all((2, *grid.shape), seed=width)
    local = grid.scatter(whole).clone().requires_grad_()
    padded = grid.halo(local, width)
    wide = tuple(slice(s.start, s.stop + 2 * width) for s in grid.local_slices)
    assert torch.equal(padded, alone.halo(whole, width)[(..., *wide)])
    weights = torch.randn_like(padded)
    padded.backward(weights)
    assert total((padded * weights).sum()) == pytest.approx(
        total((local * local.grad).sum()), rel=1e-10
    )


def check_the_planner_counts_what_is_sent(grid):
    """Halos and PETSc's products, of the rank that sends most."""
    model = surface(grid.shape, grid.boundary, grid.partition.process_grid)
    before = copy.copy(TRAFFIC)
    grid.halo(torch.zeros(3, *grid.local_shape, dtype=torch.float64))
    assert WORLD.allreduce(TRAFFIC.messages - before.messages, op=MPI.MAX) == model.neighbours
    # The slabs of a later axis have the corners that came with an earlier one.
    corners = np.prod([(n + 2) / n for n in grid.local_shape[1:]])
    points = WORLD.allreduce((TRAFFIC.bytes - before.bytes) / (3 * 8), op=MPI.MAX)
    assert model.points * 0.8 <= points <= model.points * corners

    heat = Heat(grid, 1.0, 1.0, Solver("cg", "none", 1))
    heat.operator.load(heat.values())
    matrix = heat.operator.matrix
    x, y = matrix.createVecs()
    matrix.mult(x, y)
    event = PETSc.Log.Event("MatMult")
    before = event.getPerfInfo()
    matrix.mult(x, y)
    after = event.getPerfInfo()
    # Messages sent and received; to the neighbour on both sides of a periodic axis goes one.
    twice = sum(
        n == 2 and kind == "periodic"
        for n, kind in zip(grid.partition.process_grid, grid.boundary, strict=True)
    )
    sent = WORLD.allreduce((after["numMessages"] - before["numMessages"]) / 2, op=MPI.MAX)
    assert sent == model.neighbours - twice
    points = WORLD.allreduce((after["messageLength"] - before["messageLength"]) / 2 / 8, op=MPI.MAX)
    assert model.points * 0.8 <= points <= model.points


def check_interpolation(grid):
    coarse = grid.coarsen()
    if coarse is None:
        return
    matrix = grid.interpolation_from(coarse)
    source, target = matrix.createVecs()
    whole = same_on_all(coarse.shape)
    source.setArray(coarse.scatter(whole).numpy())
    matrix.mult(source, target)
    one, half = (Grid(g.shape, g.boundary, comm=MPI.COMM_SELF) for g in (grid, coarse))
    reference, (x, y) = one.interpolation_from(half), one.interpolation_from(half).createVecs()
    x.setArray(whole.numpy())
    reference.mult(x, y)
    fine = torch.from_numpy(y.getArray().copy()).reshape(grid.shape)
    torch.testing.assert_close(
        torch.from_numpy(target.getArray().copy()).reshape(grid.local_shape), grid.scatter(fine)
    )


def refused_everywhere(call):
    try:
        call()
        mine = 0
    except ValueError:
        mine = 1
    assert WORLD.allreduce(mine) == WORLD.size


@pytest.mark.long_on(2, 3)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_a_divided_grid_is_the_whole_one():
    torch.manual_seed(WORLD.rank)
    PETSc.Log.begin()
    for shape, boundary in CASES:
        grid = Grid(shape, boundary)
        check_parts(grid)
        check_adjoints_of_gather_and_scatter(grid)
        for width in (1, 2, 3):
            check_halo(grid, width)
        check_interpolation(grid)
        check_the_planner_counts_what_is_sent(grid)
    # A part narrower than the halo is found on all ranks, though PETSc would see it on that rank
    # only.
    narrow = Grid((2 * WORLD.size + 1,))
    refused_everywhere(lambda: narrow.halo(torch.zeros(narrow.local_shape), 3))
    refused_everywhere(lambda: Grid((8,), length=1.0 + WORLD.rank))
    refused_everywhere(lambda: Grid((8 if WORLD.rank else 1,)))
    if WORLD.size > 2:
        refused_everywhere(lambda: Grid((2,)))
    gathered = narrow.gather(torch.empty(0, *narrow.local_shape))
    assert gathered.shape == (0, *narrow.shape)
