"""Property: the grid of a user's DMDA has its layout, so that its vectors are the grid's fields."""

import numpy as np
import pytest
import torch
from mpi4py import MPI
from petsc4py import PETSc

from prdp_hpc import Grid, Poisson, Solver

WORLD = MPI.COMM_WORLD
PERIODIC, GHOSTED = PETSc.DM.BoundaryType.PERIODIC, PETSc.DM.BoundaryType.GHOSTED


def uneven(parts):
    """Points of each part of an axis: the last has more."""
    return (3,) * (parts - 1) + (8,)


def dmda(comm, dim, boundary=GHOSTED, **options):
    """A DMDA divided unevenly along its first axis, which is the last of a grid."""
    ranges = (uneven(comm.size), *((n,) for n in (7, 4)[: dim - 1]))
    return PETSc.DMDA().create(
        dim=dim,
        dof=options.pop("dof", 1),
        sizes=tuple(map(sum, ranges)),
        proc_sizes=tuple(map(len, ranges)),
        ownership_ranges=ranges,
        boundary_type=(boundary,) * dim,
        comm=comm,
        **options,
    )


def check_vectors_are_fields(comm):
    for dim in (1, 2, 3):
        for kind, boundary in ((GHOSTED, "neumann"), (PERIODIC, "periodic")):
            dm = dmda(comm, dim, kind, stencil_width=2)
            grid = Grid.from_dm(dm, "neumann", length=2.0)
            assert grid.shape == dm.getSizes()[::-1]
            assert grid.boundary == (boundary,) * dim
            assert grid.length == (2.0,) * dim
            vector = dm.createGlobalVec()
            whole = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0)).double()
            array = dm.getVecArray(vector)
            corner, sizes = dm.getCorners()
            part = tuple(slice(a, a + n) for a, n in zip(corner, sizes, strict=True))
            array[part] = whole.numpy().T[part]
            own = torch.from_numpy(vector.getArray().copy()).reshape(grid.local_shape)
            torch.testing.assert_close(own, grid.scatter(whole), rtol=0, atol=0)
            torch.testing.assert_close(grid.gather(own), whole, rtol=0, atol=0)


def check_a_solve(comm):
    """The same as on PETSc's own division, with a hierarchy of coarser grids too."""
    for dm in (dmda(comm, 1), dmda(comm, 2)):
        grids = Grid.from_dm(dm), Grid(dm.getSizes()[::-1], comm=comm)
        results = []
        for grid in grids:
            force = torch.linspace(1, 2, grid.size, dtype=torch.float64).reshape(grid.shape)
            right = grid.scatter(force).requires_grad_()
            for pc in ("mg", "jacobi"):
                x = Poisson(grid, Solver("cg", pc, 1e-11))(right[None, None])[0, 0]
            (slope,) = torch.autograd.grad((x**2).sum(), right)
            results.append((grid.gather(x.detach()), grid.gather(slope)))
        torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9)


def check_refused(comm):
    twisted = dmda(comm, 1)
    for words, call in (
        ("petsc4py DMDA", lambda: Grid.from_dm(PETSc.DMShell().create(comm=comm))),
        ("not set up yet", lambda: Grid.from_dm(PETSc.DMDA().create([8], comm=comm, setup=False))),
        ("3 numbers per point", lambda: Grid.from_dm(dmda(comm, 2, dof=3))),
        ("does not match", lambda: Grid.from_dm(twisted, "periodic")),
        ("does not match", lambda: Grid.from_dm(dmda(comm, 2, PERIODIC), ["periodic", "neumann"])),
        ("boundary must be one of", lambda: Grid.from_dm(twisted, "free")),
        ("does not match", lambda: Grid.from_dm(dmda(comm, 2, PERIODIC), None)),
        ("with sums equal to the shape", lambda: Grid((9,), comm=comm, ownership_ranges=[[4]])),
        (
            "one part per rank",
            lambda: (
                Grid((9,), comm=comm, ownership_ranges=[[1] * 8 + [1]]) if comm.size != 9 else None
            ),
        ),
    ):
        try:
            call()
            message = ""
        except ValueError as error:
            message = str(error)
        assert all(words in told for told in comm.allgather(message)), (words, message)


CHECKS = [check_vectors_are_fields, check_a_solve, check_refused]


@pytest.mark.parametrize("check", CHECKS)
def test_on_one_rank(check):
    check(MPI.COMM_SELF)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_the_same_on_several_ranks():
    for check in CHECKS:
        check(WORLD)


def test_a_twisted_boundary_is_refused():
    dm = PETSc.DMDA().create([8], boundary_type=["twist"], comm=MPI.COMM_SELF)
    with pytest.raises(ValueError, match="twisted"):
        Grid.from_dm(dm)
    assert np.isfinite(Grid((8,), comm=MPI.COMM_SELF, ownership_ranges=[[8]]).spacing).all()
