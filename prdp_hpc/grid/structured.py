"""Structured grids over MPI ranks, with fields as torch tensors `(B, C, *local_shape)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch.distributed as dist
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.petsc_communicator import communicator_of
from prdp_hpc.distributed.transport import transport_for
from prdp_hpc.errors import InputError
from prdp_hpc.grid.dmda import (
    OwnershipRanges,
    create_dmda,
    layout_of,
    starts_of,
    validate_ownership_ranges,
)
from prdp_hpc.grid.geometry import GridGeometry, per_axis, validate_geometry
from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.interpolation import interpolation_matrix
from prdp_hpc.grid.partition import Boundary, Partition, validate_local
from prdp_hpc.number_checks import is_integer
from prdp_hpc.petsc import PETSc


class Grid(GridGeometry):
    """A structured grid in 1, 2 or 3 dimensions, divided among MPI ranks by a PETSc DMDA.

    Fields are torch tensors `(B, C, *local_shape)` with this rank's points. With spacing `h`, the
    points of an axis of length `L` with n points are

    - dirichlet: `x_i = (i + 1) h`, `h = L / (n + 1)`: interior points only; the value at both ends
      is 0;
    - neumann: `x_i = (i + 1/2) h`, `h = L / n`: cell centres, without flux through both ends;
    - periodic: `x_i = i h`, `h = L / n`.

    A PDE may set other conditions on the sides of the first two, see `prdp_hpc.physics.boundaries`.

    Parameters
    ----------
    shape : sequence of int
        Points per axis, in torch's order (the last axis is contiguous).
    boundary : str or sequence of str, default "dirichlet"
        "dirichlet", "neumann" or "periodic", one for all axes or one per axis.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share the grid. Default: all ranks.
    length : float or sequence of float, default 1.0
        Length of the domain, one for all axes or one per axis, in the user's unit of length.
    group : torch.distributed.ProcessGroup, optional
        The same ranks in torch.distributed, through which fields on GPUs are exchanged (NCCL).
        Default: through MPI.
    ownership_ranges : sequence of sequence of int, optional
        The division of the grid: per axis the points of each part, e.g. `[[3, 5], [8]]` for 8 × 8
        points on 2 ranks. Default: PETSc's even division.

    Attributes
    ----------
    local_shape : tuple of int
        Points of this rank per axis.
    local_slices : tuple of slice
        This rank's part of the whole field.
    n_local : int
        Number of points of this rank.
    dim : int
        Number of axes.
    size : int
        Number of points of the whole grid.
    is_singular : bool
        Whether constants are in the nullspace of the Laplacian: no axis is Dirichlet.
    spacing : tuple of float
        Spacing per axis.
    partition : Partition
        The division, for networks.
    numbering : ndarray
        PETSc's global numbers of this rank's points with one halo layer, −1 beyond a boundary;
        shape `local_shape + 2` per axis.

    Raises
    ------
    InputError
        For an invalid shape, boundary or length, for ranks that disagree, and for more ranks than
        the grid can be divided among.

    Notes
    -----
    PETSc manual page: DMDACreate.

    Examples
    --------
    >>> from prdp_hpc import Grid
    >>> grid = Grid((4, 3), boundary=["neumann", "periodic"], length=[2.0, 3.0])
    >>> grid.spacing
    (0.5, 1.0)
    >>> y, x = grid.coordinates()
    >>> y[:, 0]
    tensor([0.2500, 0.7500, 1.2500, 1.7500], dtype=torch.float64)
    """

    def __init__(
        self,
        shape: Sequence[int],
        boundary: Boundary | Sequence[Boundary] = "dirichlet",
        comm: MPI.Comm | None = None,
        length: float | Sequence[float] = 1.0,
        group: dist.ProcessGroup | None = None,
        ownership_ranges: OwnershipRanges | None = None,
    ) -> None:
        self.comm = MPI.COMM_WORLD if comm is None else comm
        wrong = validate_geometry(shape, boundary, length)
        if wrong is None and ownership_ranges is not None:
            wrong = validate_ownership_ranges(ownership_ranges, shape, self.comm.size)
        raise_together(self.comm, wrong)
        super().__init__(shape, boundary, length)
        given = self.shape, self.boundary, self.length, repr(ownership_ranges)
        if self.comm.size > 1 and len(set(private(self.comm).agreement.allgather(given))) > 1:
            raise InputError(
                "the ranks of one grid were given different shapes, boundaries, lengths or "
                "ownership ranges"
            )
        self.dm = create_dmda(self.shape, self.boundary, self.comm, ownership_ranges)
        self.partition = Partition(starts_of(self.dm), self.boundary, self.comm, group)
        self.local_shape = self.partition.local_shape
        self.local_slices = self.partition.local_slices
        self.n_local = math.prod(self.local_shape)
        self._halos: dict[int, Halo] = {}

    @classmethod
    def from_dm(
        cls,
        dm: PETSc.DM,
        boundary: Boundary | Sequence[Boundary] = "dirichlet",
        length: float | Sequence[float] = 1.0,
        group: dist.ProcessGroup | None = None,
    ) -> Grid:
        """Make the grid of a petsc4py DMDA, with its division among ranks.

        Sizes, periodic axes, process grid and ownership ranges are those of the DMDA, so its global
        vectors are this rank's parts of fields: `vec.getArray().reshape(grid.local_shape)`. Its
        stencil width has no effect, because each `halo` has its own width. Axes are in torch's
        order, the reverse of PETSc's.

        Parameters
        ----------
        dm : petsc4py.PETSc.DMDA
            A DMDA in 1, 2 or 3 dimensions with one number per point.
        boundary : str or sequence of str, default "dirichlet"
            The boundary of the axes that are not periodic in the DMDA; or of all axes, with
            "periodic" for each periodic one.
        length : float or sequence of float, default 1.0
            As for `Grid`.
        group : torch.distributed.ProcessGroup, optional
            As for `Grid`.

        Returns
        -------
        Grid
            The grid.

        Raises
        ------
        InputError
            For another kind of DM, several numbers per point, or a boundary that does not match.

        Examples
        --------
        >>> from prdp_hpc import Grid
        >>> from prdp_hpc.petsc import PETSc
        >>> dm = PETSc.DMDA().create([64, 32], dof=1, stencil_width=1)
        >>> Grid.from_dm(dm, boundary="neumann").shape
        (32, 64)
        """
        shape, boundary, ranges = layout_of(dm, boundary)
        return cls(shape, boundary, communicator_of(dm), length, group, ranges)

    def __repr__(self) -> str:
        return (
            f"Grid({self.shape}, boundary={self.boundary}, length={self.length}, "
            f"ranks={self.comm.size})"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Grid:
        return self  # A grid is immutable.

    def __reduce__(self) -> Any:
        raise InputError(
            "a Grid belongs to the processes of its communicator and cannot be pickled: pickle its "
            "shape, boundary and length, and make the grid from them"
        )

    def scatter(self, whole: Tensor) -> Tensor:
        """Return this rank's part of a whole field that is replicated on the ranks.

        Differentiable: in the backward pass each rank receives the gradient of the whole field,
        gathered from all parts, so replicated computations on whole fields (a network) need no
        further reduction. The backward pass is collective, and the gradient must be needed on all
        ranks or none.

        Parameters
        ----------
        whole : Tensor
            The field, shape `(..., *shape)`.

        Returns
        -------
        Tensor
            This rank's part, shape `(..., *local_shape)`.

        Raises
        ------
        InputError
            For another shape, on this rank only, because the forward pass does not communicate.

        Examples
        --------
        >>> import torch
        >>> from prdp_hpc import Grid
        >>> grid = Grid((8,))
        >>> field = torch.ones(1, 1, 8)
        >>> torch.equal(grid.gather(grid.scatter(field)), field)
        True
        """
        return self.partition.scatter(whole)

    def gather(self, local: Tensor) -> Tensor:
        """Return the whole field on every rank, from each rank's part; collective.

        Differentiable, the counterpart of `scatter`: the whole field must be used in the same way
        on every rank; the backward pass returns each rank's part of the gradient.

        Parameters
        ----------
        local : Tensor
            This rank's part, shape `(..., *local_shape)`.

        Returns
        -------
        Tensor
            The whole field, shape `(..., *shape)`.

        Raises
        ------
        InputError
            On all ranks, if one rank has a field of another shape.
        """
        return self.partition.gather(local)

    def halo(self, local: Tensor, width: int = 1) -> Tensor:
        """Return this rank's part with `width` neighbour points on each side of each axis.

        Corners are included. Beyond a boundary that is not periodic the values are 0.
        Differentiable: the adjoint is the reverse halo exchange, which adds ghost contributions to
        their owners. Collective.

        Parameters
        ----------
        local : Tensor
            This rank's part, shape `(..., *local_shape)`.
        width : int, default 1
            Number of neighbour points.

        Returns
        -------
        Tensor
            The part with its halo, shape `(..., *(n + 2 width))` for the sizes n of `local_shape`.

        Raises
        ------
        InputError
            On all ranks, if a part of the grid is narrower than the halo.

        Examples
        --------
        >>> import torch
        >>> from prdp_hpc import Grid
        >>> Grid((3,), boundary="periodic").halo(torch.tensor([[[1.0, 2.0, 3.0]]]))
        tensor([[[3., 1., 2., 3., 1.]]])
        """
        wrong = validate_local(local, self.local_shape)
        if wrong is not None:
            raise wrong
        if not (is_integer(width) and int(width) >= 1):
            raise InputError(f"a halo needs a width of at least 1 point, an integer, not {width!r}")
        if width not in self._halos:
            self._halos[width] = Halo(self.partition, width, width)
        return self._halos[width](local)

    def replicated(self, parameter: Tensor) -> Tensor:
        """Return a replicated parameter whose gradient is summed over the ranks of the grid.

        Parameters
        ----------
        parameter : Tensor
            A tensor that is equal on all ranks, of any shape.

        Returns
        -------
        Tensor
            The same numbers, of the same shape.
        """
        if not isinstance(parameter, Tensor):
            raise InputError(f"replicated needs a tensor, not a {type(parameter).__name__}")
        if self.comm.size == 1 or not parameter.requires_grad:
            return parameter
        return LinearMap(_same, self._sum)(parameter)

    def _sum(self, own: Tensor) -> Tensor:
        return transport_for(self.comm, None, own.device).all_reduce(own)

    @cached_property
    def blocks(self) -> list[tuple[slice, ...]]:
        """The `local_slices` of every rank."""
        return self.partition.blocks

    @cached_property
    def numbering(self) -> NDArray[np.int32]:
        """PETSc's global numbers of this rank's points with one halo layer; −1 beyond a boundary.

        Shape `local_shape + 2` per axis.
        """
        _, sizes = self.dm.getGhostCorners()
        indices: NDArray[np.int32] = np.asarray(self.dm.getLGMap().indices).reshape(sizes[::-1])
        return indices

    @property
    def axes_to_coarsen(self) -> tuple[int, ...]:
        """The axes that have enough points on every rank for half as many."""
        least = [max(2, 2 * processes) for processes in self.dm.getProcSizes()[::-1]]
        return tuple(axis for axis in range(self.dim) if self.shape[axis] // 2 >= least[axis])

    def coarsen(self, axes: Sequence[int] | None = None) -> Grid | None:
        """Return the grid with half the points along some axes, or None if it is too small.

        Domain and ranks are the same.

        Parameters
        ----------
        axes : sequence of int, optional
            The axes to coarsen. Default: all.

        Returns
        -------
        Grid or None
            The coarser grid.

        Raises
        ------
        InputError
            For an axis that the grid does not have.
        """
        chosen = per_axis(range(self.dim) if axes is None else axes, 1)
        if any(axis not in range(self.dim) for axis in chosen):
            raise InputError(
                f"coarsen: axes must be axis numbers from 0 to {self.dim - 1}, not {axes!r}"
            )
        halved = set(chosen)
        if not halved <= set(self.axes_to_coarsen) or not halved:
            return None
        shape = tuple(n // 2 if d in halved else n for d, n in enumerate(self.shape))
        return Grid(shape, self.boundary, self.comm, self.length)

    def interpolation_from(self, coarse: Grid) -> Any:
        """Return the multilinear interpolation from `coarse` to this grid as a PETSc matrix.

        The two grids share the domain; their points need not coincide. Beyond the boundary the
        values are 0 (Dirichlet), the nearest point's (Neumann) or periodic.

        Parameters
        ----------
        coarse : Grid
            The coarser grid.

        Returns
        -------
        petsc4py.PETSc.Mat
            The matrix, with the fine grid's points as rows.

        Raises
        ------
        InputError
            For a grid of another domain or other boundaries.
        """
        if not isinstance(coarse, Grid):
            raise InputError(f"interpolation_from needs a Grid, not a {type(coarse).__name__}")
        return interpolation_matrix(self, coarse)


def _same(parameter: Tensor) -> Tensor:
    return parameter.view_as(parameter)
