"""A grid on one rank: shapes, points, halos, interpolation. Several ranks:
tests/parallel/test_grid_ranks.py.
"""

import itertools

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid
from prdp_hpc.errors import InputError

KINDS = ("dirichlet", "neumann", "periodic")
SHAPES = [(5,), (4, 6), (3, 4, 5)]


def grid(shape, boundary, **options):
    return Grid(shape, boundary, comm=MPI.COMM_SELF, **options)


@pytest.mark.parametrize(
    ("kind", "points", "spacing"),
    [
        ("dirichlet", [0.5, 1.0, 1.5], 0.5),
        ("neumann", [1 / 3, 1.0, 5 / 3], 2 / 3),
        ("periodic", [0, 2 / 3, 4 / 3], 2 / 3),
    ],
)
def test_points_of_an_axis(kind, points, spacing):
    one = grid((3,), kind, length=2.0)
    np.testing.assert_allclose(one.axis_points(0), points)
    assert one.spacing == pytest.approx((spacing,))


def test_axes_have_their_own_boundary_and_length():
    mixed = grid((2, 3), ("periodic", "dirichlet"), length=(1.0, 4.0))
    x, y = mixed.coordinates()
    assert x[:, 0].tolist() == [0.0, 0.5]
    assert y[0].tolist() == [1.0, 2.0, 3.0]
    assert not mixed.is_singular
    assert grid((2, 3), ("periodic", "neumann")).is_singular


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_halo_is_numpy_padding(shape, width):
    modes = {"dirichlet": "constant", "neumann": "constant", "periodic": "wrap"}
    for kinds in itertools.product(KINDS, repeat=len(shape)):
        u = torch.randn(2, *shape, dtype=torch.float64)
        padded = u.numpy()
        for axis, kind in enumerate(kinds):
            widths = [(width, width) if d == axis + 1 else (0, 0) for d in range(u.dim())]
            padded = np.pad(padded, widths, mode=modes[kind])
        np.testing.assert_array_equal(grid(shape, kinds).halo(u, width), padded)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_halo_is_differentiable(shape, kind):
    u = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
    one = grid(shape, kind)
    assert torch.autograd.gradcheck(lambda v: one.halo(v, 2), (u,))


def test_a_halo_keeps_type_and_leading_axes():
    one = grid((4, 3), "periodic")
    assert one.halo(torch.ones(4, 3)).shape == (6, 5)
    padded = one.halo(torch.ones(2, 0, 4, 3, dtype=torch.float32))
    assert (padded.shape, padded.dtype) == ((2, 0, 6, 5), torch.float32)


COARSE_PAIRS = list(itertools.product([(16,), (9,), (8, 12), (6, 5), (4, 6, 8)], KINDS))


def interpolate(fine, coarse, u):
    matrix = fine.interpolation_from(coarse)
    source, target = matrix.createVecs()
    source.setArray(u.numpy().reshape(-1))
    matrix.mult(source, target)
    return torch.from_numpy(target.getArray().copy()).reshape(fine.shape)


@pytest.mark.parametrize(("shape", "kind"), COARSE_PAIRS)
def test_interpolation_reproduces_linear_functions_between_coarse_points(shape, kind):
    fine = grid(shape, kind, length=2.0)
    coarse = fine.coarsen()
    assert coarse.shape == tuple(n // 2 for n in shape)
    slopes = range(1, len(shape) + 1)
    linear = [
        1.0 + sum(a * x for a, x in zip(slopes, g.coordinates(), strict=True))
        for g in (coarse, fine)
    ]
    inside = torch.ones(shape, dtype=torch.bool)
    for axis, x in enumerate(fine.coordinates()):
        points = coarse.axis_points(axis)
        inside &= (x >= points[0] - 1e-12) & (x <= points[-1] + 1e-12)
    assert inside.any()
    torch.testing.assert_close(interpolate(fine, coarse, linear[0])[inside], linear[1][inside])


@pytest.mark.parametrize(("shape", "kind"), COARSE_PAIRS)
def test_interpolation_knows_the_boundary(shape, kind):
    fine = grid(shape, kind)
    coarse = fine.coarsen()
    if kind != "dirichlet":
        ones = torch.ones(coarse.shape, dtype=torch.float64)
        torch.testing.assert_close(
            interpolate(fine, coarse, ones), torch.ones(fine.shape, dtype=torch.float64)
        )
        return

    def tent(g):  # linear between the walls and any coarse point, zero on the walls
        values = torch.ones(g.shape, dtype=torch.float64)
        for axis, x in enumerate(g.coordinates()):
            first, last = coarse.axis_points(axis)[[0, -1]]
            values = values * torch.clamp(
                torch.minimum(x / first, (1.0 - x) / (1.0 - last)), max=1.0
            )
        return values

    torch.testing.assert_close(interpolate(fine, coarse, tent(coarse)), tent(fine))


def test_coarsening_ends():
    sizes = []
    level = grid((20, 9), "dirichlet")
    while level is not None:
        sizes.append(level.shape)
        level = level.coarsen()
    assert sizes == [(20, 9), (10, 4), (5, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((30,), "list of 1 to 3 integers"),
        (((),), "list of 1 to 3"),
        (((2, 2, 2, 2),), "list of 1 to 3"),
        (((1, 5),), "at least 2"),
        (((3.5,),), "integers"),
        (((4,), "robin"), "boundary must be one of"),
        (((4, 4), ("periodic",)), "for each of 2 axes"),
        (((4,), "periodic", None, 0.0), "length must be positive"),
        (((4,), "periodic", None, float("inf")), "length must be positive"),
        (((4, 4), "periodic", None, (1.0,)), "length must be positive"),
        (((4, 4), ["periodic", ["neumann"]]), "boundary must be one of"),
        (((4, 4), "periodic", None, [1.0, [2.0]]), "length must be positive"),
        (((4,), "periodic", None, 1.0, None, 4), "ownership_ranges must list"),
        (((4, 4), "periodic", None, 1.0, None, [4, 4]), "ownership_ranges must list"),
    ],
)
def test_impossible_grids(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


def test_impossible_fields_and_halos():
    one = grid((4, 5), "periodic")
    for call in (one.halo, one.gather, one.scatter):
        with pytest.raises(ValueError, match=r"must end in .*\(4, 5\).*\(5, 4\)"):
            call(torch.ones(5, 4))
    with pytest.raises(ValueError, match="a width of at least 1 point"):
        one.halo(torch.ones(4, 5), 0)
    with pytest.raises(ValueError, match="a halo of 5 points does not fit"):
        one.halo(torch.ones(4, 5), 5)
    for width in ("1", 1.0, None, [1, 1]):
        with pytest.raises(InputError, match="a width of at least 1 point, an integer"):
            one.halo(torch.ones(4, 5), width)


def test_a_halo_of_numpy_integers():
    field = torch.rand(4, 5)
    one = grid((4, 5), "periodic")
    torch.testing.assert_close(one.halo(field, np.int64(2)), one.halo(field, 2))


@pytest.mark.parametrize("axes", [5, [-1], [0, 2], "01", [0.5]])
def test_axes_that_a_grid_does_not_have(axes):
    with pytest.raises(InputError, match="axis numbers from 0 to 1"):
        grid((8, 8), "neumann").coarsen(axes)


@pytest.mark.parametrize(("axis", "end"), [("0", "low"), (0.5, "low"), (None, "low"), (0, None)])
def test_sides_that_a_grid_does_not_have(axis, end):
    with pytest.raises(InputError, match="a side needs an axis from 0 to 1"):
        grid((8, 8), "neumann").face_shape(axis, end)


@pytest.mark.parametrize(
    "other",
    [
        lambda: Grid((4,), "neumann", MPI.COMM_SELF, length=2.0),
        lambda: Grid((4,), "dirichlet", MPI.COMM_SELF),
        lambda: Grid((4, 4), "neumann", MPI.COMM_SELF),
        lambda: None,
    ],
)
def test_an_interpolation_between_two_domains_is_refused(other):
    with pytest.raises(InputError, match=r"share the domain|needs a Grid"):
        grid((8,), "neumann").interpolation_from(other())
