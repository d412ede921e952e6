"""Structured grids over MPI ranks, seen by torch as `(B, C, *local_shape)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.petsc_communicator import communicator_of
from prdp_hpc.distributed.transport import as_bytes, transport_for
from prdp_hpc.errors import InputError
from prdp_hpc.grid.dmda import (
    OwnershipRanges,
    create_dmda,
    layout_of,
    wrong_ownership_ranges,
)
from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.interpolation import linear_weights
from prdp_hpc.grid.partition import BOUNDARIES, Partition
from prdp_hpc.grid.sides import End, face_coordinates, face_shape
from prdp_hpc.petsc import PETSc


class Grid:
    """A 1-D, 2-D or 3-D grid of equal cells, divided among the ranks of `comm` by a PETSc DMDA.

    Parameters
    ----------
    shape : points per axis, in torch's order (the last axis is contiguous).
    boundary : "dirichlet", "neumann" or "periodic", one for all axes or one per axis. With spacing
        `h`, the points of an axis of length `L` are

        - dirichlet: `x_i = (i + 1) h`, `h = L / (n + 1)`: inner points only, the value on both ends
          is 0;
        - neumann: `x_i = (i + 1/2) h`, `h = L / n`: cell centres, no flux through both ends;
        - periodic: `x_i = i h`, `h = L / n`.

        A PDE may have other conditions on the sides of the first two, see
        `prdp_hpc.physics.boundaries`.
    comm : the ranks that share the grid; default: all.
    length : length of the domain, one for all axes or one per axis; default 1.
    group : the same ranks in torch.distributed, through which fields on GPUs are exchanged (NCCL);
        default: through MPI.
    ownership_ranges : how the grid is divided: for each axis the points of each part, as
        `[[3, 5], [8]]` for 8 × 8 points on 2 ranks; default: PETSc's even division.

    Raises
    ------
    ValueError
        For an impossible shape, boundary or length, for ranks that disagree, and when there are
        more ranks than the grid can be divided among.

    Notes
    -----
    PETSc manual page: DMDACreate.
    """

    def __init__(
        self,
        shape: Sequence[int],
        boundary: str | Sequence[str] = "dirichlet",
        comm: MPI.Comm | None = None,
        length: float | Sequence[float] = 1.0,
        group: dist.ProcessGroup | None = None,
        ownership_ranges: OwnershipRanges | None = None,
    ) -> None:
        self.comm = MPI.COMM_WORLD if comm is None else comm
        wrong = _wrong(shape, boundary, length)
        wrong = wrong or wrong_ownership_ranges(ownership_ranges, shape, self.comm.size)
        raise_together(self.comm, wrong)
        self.shape = tuple(int(n) for n in shape)
        self.boundary = _per_axis(boundary, len(self.shape))
        self.length = tuple(float(a) for a in _per_axis(length, len(self.shape)))
        given = self.shape, self.boundary, self.length, repr(ownership_ranges)
        if self.comm.size > 1 and len(set(private(self.comm).agreement.allgather(given))) > 1:
            raise InputError(
                "the ranks of one grid were given different shapes, boundaries, lengths or "
                "ownership ranges"
            )
        self.dm = create_dmda(self.shape, self.boundary, self.comm, ownership_ranges)
        parts = [np.cumsum([0, *sizes]).tolist() for sizes in self.dm.getOwnershipRanges()[::-1]]
        self.partition = Partition(tuple(map(tuple, parts)), self.boundary, self.comm, group)
        self.local_shape = self.partition.local_shape
        self.local_slices = self.partition.local_slices
        self.n_local = math.prod(self.local_shape)
        self.spacing = tuple(
            a / (n + 1) if b == "dirichlet" else a / n
            for a, n, b in zip(self.length, self.shape, self.boundary, strict=True)
        )
        self._halos: dict[int, Halo] = {}

    @classmethod
    def from_dm(
        cls,
        dm: Any,
        boundary: str | Sequence[str] = "dirichlet",
        length: float | Sequence[float] = 1.0,
        group: dist.ProcessGroup | None = None,
    ) -> Grid:
        """The grid of a petsc4py DMDA that the user made, divided among its ranks as it is.

        Sizes, periodic axes, process grid and ownership ranges are those of the DMDA, so that its
        global vectors are this rank's parts of fields: `vec.getArray().reshape(grid.local_shape)`.
        Its stencil does not matter: halos are as wide as `halo` is asked for. Axes are in torch's
        order, the reverse of PETSc's.

        Parameters
        ----------
        dm : a DMDA in 1, 2 or 3 dimensions with one number per point.
        boundary : the kind of the axes that are not periodic, which a DMDA does not have; or of all
            axes, where each that is periodic must be called so.
        length, group : as for `Grid`.

        Raises
        ------
        ValueError
            For another kind of DM, several numbers per point, or a boundary that does not fit.

        Example
        -------
        ::

            dm = PETSc.DMDA().create([64, 32], dof=1, stencil_width=1)
            grid = Grid.from_dm(dm, boundary="neumann")  # of shape (32, 64)
        """
        layout = layout_of(dm, boundary)
        return cls(
            layout.shape,
            layout.boundary,
            communicator_of(dm),
            length,
            group,
            layout.ownership_ranges,
        )

    def __repr__(self) -> str:
        return (
            f"Grid({self.shape}, boundary={self.boundary}, length={self.length}, "
            f"ranks={self.comm.size})"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Grid:
        return self  # Nothing in it changes.

    def __reduce__(self) -> Any:
        raise InputError(
            "a Grid belongs to the processes of its communicator and cannot be pickled: pickle its "
            "shape, boundary and length, and make it again where it is needed"
        )

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Points of the whole grid."""
        return math.prod(self.shape)

    @property
    def is_singular(self) -> bool:
        """Whether constants are in the nullspace of the Laplacian: no axis is Dirichlet."""
        return "dirichlet" not in self.boundary

    def axis_points(self, axis: int) -> NDArray[np.float64]:
        """Coordinates of all points of one axis, shape `(shape[axis],)`."""
        offset = {"dirichlet": 1.0, "neumann": 0.5, "periodic": 0.0}[self.boundary[axis]]
        return (np.arange(self.shape[axis], dtype=np.float64) + offset) * self.spacing[axis]

    def coordinates(self) -> tuple[Tensor, ...]:
        """Coordinates of this rank's points: one float64 tensor per axis, each of `local_shape`."""
        axes = [
            torch.from_numpy(self.axis_points(d)[part]) for d, part in enumerate(self.local_slices)
        ]
        return tuple(torch.meshgrid(*axes, indexing="ij"))

    def face_shape(self, axis: int, end: End) -> tuple[int, ...]:
        """The shape of this rank's part of a side, the end "low" or "high" of an axis:
        `local_shape` with 1 along `axis`, or 0 where this rank does not touch the side.
        """
        return face_shape(self, axis, end)

    def face_coordinates(self, axis: int, end: End) -> tuple[Tensor, ...]:
        """Coordinates of this rank's points of a side, one float64 tensor of `face_shape` per
        axis.
        """
        return face_coordinates(self, axis, end)

    def scatter(self, whole: Tensor) -> Tensor:
        """This rank's part `(..., *local_shape)` of a whole field `(..., *shape)` that is
        replicated on the ranks.

        Differentiable: in the backward pass each rank gets the gradient of the whole field,
        gathered from all parts, so whatever the ranks compute alike from whole fields (a network)
        needs no further reduction. The backward pass is collective, and the gradient must be asked
        for on all ranks or none. A field of a wrong shape raises on its own rank, since this call
        does not communicate.
        """
        if tuple(whole.shape[-self.dim :]) != self.shape:
            raise InputError(
                f"a whole field must end in the grid's shape {self.shape}, this one has "
                f"{tuple(whole.shape)}"
            )
        if self.comm.size == 1:
            return whole
        return self._whole_of_parts.transposed(whole)

    def gather(self, local: Tensor) -> Tensor:
        """The whole field `(..., *shape)` on every rank, from each rank's part `(...,
        *local_shape)`; collective.

        Differentiable, as the counterpart of `scatter`: every rank must use the whole field alike;
        the backward pass takes each rank's part of the gradient. Raises ValueError on all ranks if
        one has a field of a wrong shape.
        """
        # Together: beside the exchange of whole fields this reduction of one number is nothing.
        raise_together(self.comm, self._wrong_local(local))
        if self.comm.size == 1:
            return local
        return self._whole_of_parts(local)

    def halo(self, local: Tensor, width: int = 1) -> Tensor:
        """This rank's part with `width` neighbour points on each side of each axis.

        From `(..., *local_shape)` to `(..., *(n + 2 width))`; corners included; beyond a boundary
        that is not periodic the values are 0. Differentiable: the adjoint adds ghost contributions
        to their owners. Collective. Raises ValueError on all ranks if a part of the grid is
        narrower than the halo taken from it.
        """
        wrong = self._wrong_local(local)
        if wrong is not None:
            raise wrong
        if width < 1:
            raise InputError(f"a halo is at least 1 point wide, not {width}")
        if width not in self._halos:
            self._halos[width] = Halo(self.partition, width, width)
        return self._halos[width](local)

    def replicated(self, parameter: Tensor) -> Tensor:
        """A parameter that is replicated on the ranks of the grid; its gradient is summed over the
        ranks.
        """
        if self.comm.size == 1 or not parameter.requires_grad:
            return parameter
        return LinearMap(_same, self._sum)(parameter)

    def _sum(self, own: Tensor) -> Tensor:
        return transport_for(self.comm, None, own.device).all_reduce(own)

    @property
    def _whole_of_parts(self) -> LinearMap:
        """Parts to whole; the adjoint takes this rank's part."""

        def part(whole: Tensor) -> Tensor:
            return whole[_fields(self.local_slices)].clone()

        return LinearMap(partial(_assemble, self), part)

    @cached_property
    def blocks(self) -> list[tuple[slice, ...]]:
        """The `local_slices` of every rank."""
        return self.partition.blocks

    @cached_property
    def numbering(self) -> NDArray[np.int32]:
        """PETSc's global numbers of this rank's points with one halo layer; -1 beyond a boundary.

        Shape `local_shape + 2` per axis.
        """
        _, sizes = self.dm.getGhostCorners()
        indices: NDArray[np.int32] = np.asarray(self.dm.getLGMap().indices).reshape(sizes[::-1])
        return indices

    @property
    def axes_to_coarsen(self) -> tuple[int, ...]:
        """The axes with enough points on every rank for half as many."""
        processes = self.dm.getProcSizes()[::-1]
        return tuple(
            axis
            for axis, (n, p) in enumerate(zip(self.shape, processes, strict=True))
            if n // 2 >= max(2, 2 * p)
        )

    def coarsen(self, axes: Sequence[int] | None = None) -> Grid | None:
        """The grid of half as many points along `axes`, by default all, on the same domain and
        ranks; None when it gets too small.
        """
        halved = set(range(self.dim) if axes is None else axes)
        if not halved <= set(self.axes_to_coarsen) or not halved:
            return None
        shape = tuple(n // 2 if d in halved else n for d, n in enumerate(self.shape))
        return Grid(shape, self.boundary, self.comm, self.length)

    def interpolation_from(self, coarse: Grid) -> Any:
        """Multilinear interpolation from `coarse` to this grid as a PETSc matrix (fine rows, coarse
        columns).

        The two grids share the domain; their points need not coincide. Boundary values are 0
        (Dirichlet), the nearest point's (Neumann) or wrap around (periodic).
        """
        columns: Any = PETSc.IntType(0)
        weights: Any = 1.0
        for axis in range(self.dim):
            index, weight = linear_weights(self, coarse, axis)
            # Axes 0 … dim − 1 run over the fine points, dim … 2 dim − 1 over the two coarse
            # neighbours along each axis.
            view = [1] * (2 * self.dim)
            view[axis], view[self.dim + axis] = index.shape
            columns = columns + (index * math.prod(coarse.shape[axis + 1 :])).astype(
                PETSc.IntType
            ).reshape(view)
            weights = weights * weight.reshape(view)
        weights = weights.reshape(self.n_local, -1)
        needed = weights != 0.0
        columns = columns.reshape(self.n_local, -1)[needed]
        if self.comm.size > 1:
            columns = coarse.dm.getAO().app2petsc(columns)
        first = np.concatenate([[0], np.cumsum(needed.sum(axis=1))]).astype(PETSc.IntType)
        sizes = ((self.n_local, self.size), (coarse.n_local, coarse.size))
        return PETSc.Mat().createAIJ(sizes, csr=(first, columns, weights[needed]), comm=self.comm)

    def _wrong_local(self, local: Tensor) -> InputError | None:
        if tuple(local.shape[-self.dim :]) == self.local_shape:
            return None
        return InputError(
            f"a field on this rank must end in the local shape {self.local_shape}, this one "
            f"has {tuple(local.shape)}"
        )


def _per_axis(value: Any, dim: int) -> tuple[Any, ...]:
    return (value,) * dim if np.ndim(value) == 0 else tuple(value)


def _wrong(
    shape: Sequence[int], boundary: str | Sequence[str], length: float | Sequence[float]
) -> ValueError | None:
    if (
        not isinstance(shape, Sequence)
        or not 1 <= len(shape) <= 3
        or not all(isinstance(n, Integral) and n >= 2 for n in shape)
    ):
        return InputError(
            f"a grid's shape is a list of 1 to 3 integers, each at least 2, not {shape!r}"
        )
    boundaries, lengths = _per_axis(boundary, len(shape)), _per_axis(length, len(shape))
    if len(boundaries) != len(shape) or any(b not in BOUNDARIES for b in boundaries):
        return InputError(
            f"boundary must be one of {BOUNDARIES}, or one of them for each of {len(shape)} axes, "
            f"not {boundary!r}"
        )
    if len(lengths) != len(shape) or any(not 0 < a < math.inf for a in lengths):
        return InputError(
            f"length must be positive and finite, one number or one for each of {len(shape)} axes, "
            f"not {length!r}"
        )
    return None


def _fields(part: tuple[slice, ...]) -> Any:
    """The index of a part of the grid in a batch of fields."""
    return (..., *part)


def _assemble(grid: Grid, local: Tensor) -> Tensor:
    """All ranks' parts put together, on every rank."""
    lead = local.shape[: -grid.dim]
    host = local.detach().cpu().contiguous()
    counts = [math.prod(lead) * math.prod(s.stop - s.start for s in block) for block in grid.blocks]
    flat = torch.empty(sum(counts), dtype=host.dtype)
    # As bytes: neither MPI nor NumPy knows all of torch's types.
    sizes = [count * host.element_size() for count in counts]
    comm = private(grid.comm).sums
    comm.Allgatherv([as_bytes(host), MPI.BYTE], [as_bytes(flat), sizes, MPI.BYTE])
    whole = torch.empty((*lead, *grid.shape), dtype=host.dtype)
    for block, part in zip(grid.blocks, flat.split(counts), strict=True):
        whole[_fields(block)] = part.view(*lead, *(s.stop - s.start for s in block))
    return whole.to(local.device)


def _same(parameter: Tensor) -> Tensor:
    return parameter.view_as(parameter)
