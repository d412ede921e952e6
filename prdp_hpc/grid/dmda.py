"""PETSc DMDAs of structured grids: made for a grid, or read from the user's DMDA."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mpi4py import MPI

from prdp_hpc.errors import InputError
from prdp_hpc.grid.geometry import per_axis
from prdp_hpc.grid.partition import Boundary
from prdp_hpc.number_checks import is_integer
from prdp_hpc.petsc import PETSc

OwnershipRanges = Sequence[Sequence[int]]


class Layout(NamedTuple):
    """The properties that a grid copies from a DMDA; axes in torch's order, reverse of PETSc's."""

    shape: tuple[int, ...]
    boundary: tuple[Boundary, ...]
    ownership_ranges: tuple[tuple[int, ...], ...]


def create_dmda(
    shape: tuple[int, ...],
    boundary: tuple[Boundary, ...],
    comm: MPI.Comm,
    ownership_ranges: OwnershipRanges | None,
) -> Any:
    """A DMDA with one number per point and a halo of one point, corners included; collective.

    Raises
    ------
    ValueError
        If PETSc cannot divide the points among the ranks.
    """
    kinds = {"periodic": PETSc.DM.BoundaryType.PERIODIC}
    division: dict[str, Any] = {}
    if ownership_ranges is not None:
        division["ownership_ranges"] = tuple(tuple(sizes) for sizes in ownership_ranges[::-1])
        division["proc_sizes"] = tuple(len(sizes) for sizes in ownership_ranges[::-1])
    try:
        return PETSc.DMDA().create(
            dim=len(shape),
            dof=1,
            sizes=shape[::-1],
            boundary_type=tuple(
                kinds.get(b, PETSc.DM.BoundaryType.GHOSTED) for b in boundary[::-1]
            ),
            stencil_type=PETSc.DMDA.StencilType.BOX,
            stencil_width=1,
            comm=comm,
            **division,
        )
    except PETSc.Error as error:
        raise InputError(
            f"a grid of {shape} points cannot be divided among {comm.size} ranks: use fewer grid "
            "ranks or more points"
        ) from error


def starts_of(dm: Any) -> tuple[tuple[int, ...], ...]:
    """Per axis, in torch's order, the first point of each part, and the number of points."""
    return tuple((0, *itertools.accumulate(map(int, n))) for n in dm.getOwnershipRanges()[::-1])


def validate_ownership_ranges(
    ranges: OwnershipRanges, shape: Sequence[int], ranks: int
) -> InputError | None:
    """The error for an invalid division among ranks, or None."""
    are_lists = isinstance(ranges, Iterable) and all(
        isinstance(sizes, Iterable) and not isinstance(sizes, str) for sizes in ranges
    )
    fits = (
        are_lists
        and len(ranges) == len(shape)
        and all(
            len(sizes) > 0 and all(is_integer(size) and int(size) >= 1 for size in sizes)
            for sizes in ranges
        )
    )
    if not fits or [sum(sizes) for sizes in ranges] != list(shape):
        return InputError(
            "ownership_ranges must list the points of each part of each axis, with sums equal to "
            f"the shape {tuple(shape)}, not {ranges!r}"
        )
    if math.prod(map(len, ranges)) != ranks:
        return InputError(
            f"ownership_ranges divide the grid into {math.prod(map(len, ranges))} parts, but there "
            f"are {ranks} ranks: specify one part per rank"
        )
    return None


def layout_of(dm: Any, boundary: Boundary | Sequence[Boundary]) -> Layout:
    """The layout of a user's DMDA; `boundary` is that of the axes that are not periodic.

    Raises
    ------
    ValueError
        Unless it is a DMDA with one number per point and matching periodic axes.
    """
    if not isinstance(dm, PETSc.DMDA) or not dm.handle:
        raise InputError(f"from_dm needs a petsc4py DMDA, not {type(dm).__name__}")
    if min(dm.getSizes()) < 0 or min(dm.getProcSizes()) < 1:
        raise InputError("the DMDA is not set up yet: call its setUp() before from_dm")
    if dm.getDof() != 1:
        raise InputError(
            f"the DMDA has {dm.getDof()} numbers per point, but the vectors of a Grid have one: "
            "make a DMDA with dof=1 and the same sizes (DMDA.duplicate(dof=1))"
        )
    types = dm.getBoundaryType()[::-1]
    if PETSc.DM.BoundaryType.TWIST in types:
        raise InputError("the DMDA has a twisted boundary, which a Grid does not have")
    periodic = [kind == PETSc.DM.BoundaryType.PERIODIC for kind in types]
    if isinstance(boundary, str):
        boundary = ["periodic" if is_so else boundary for is_so in periodic]
    boundary = per_axis(boundary, len(periodic))
    if [kind == "periodic" for kind in boundary] != periodic:
        raise InputError(
            f"boundary={boundary!r} does not match the DMDA, whose axes (in torch's order, the "
            f"reverse of PETSc's) are periodic: {periodic}"
        )
    ranges = tuple(tuple(map(int, sizes)) for sizes in dm.getOwnershipRanges()[::-1])
    return Layout(tuple(map(int, dm.getSizes()[::-1])), tuple(boundary), ranges)
