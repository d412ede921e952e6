"""Assembled Jacobians: exact entries by torch, one product per colour of the pattern."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.transforms import outside_transforms
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.array_types import IntegerArray
from prdp_hpc.linalg.ghosts import GhostedIndex
from prdp_hpc.linalg.nonlinear.colouring import lattice_colours, pattern_colours
from prdp_hpc.linalg.nonlinear.jacobians import (
    Jacobian,
    check_products,
    collective,
    linearised,
    random_vector,
)
from prdp_hpc.linalg.nonlinear.linearisation import Linearisation
from prdp_hpc.linalg.nonlinear.problem import Problem
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.validation import check_and_load
from prdp_hpc.number_checks import count_error

Indices = NDArray[np.int64]


class ColouredJacobian(Jacobian):
    """The Jacobian `J = ∂F/∂u` of a torch residual, assembled from its pattern.

    It is a stored matrix, so every preconditioner can be used: "gamg", "ilu", "lu", "mg" and
    others. Columns that share no row have the same colour, and one product `J s` with the sum s of
    the columns of a colour gives all their entries. A Jacobian therefore costs one evaluation of
    the residual and one product per colour, and is exact (no finite differences). One more product,
    with a random vector, is compared with that of the matrix, so that a pattern with missing
    entries is an error.

    Parameters
    ----------
    rows, cols : array_like of int, shape (nnz_local,)
        Global indices of the entries of this rank's rows; an entry may occur more than once. The
        diagonal is added where it is missing.
    n_local : int
        Unknowns of this rank.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share the unknowns. Default: all ranks.
    symmetric : bool, default False
        Promise that the Jacobian is symmetric; needed for `ksp="cg"`.
    colours : array_like of int, optional
        Colours of this rank's unknowns, shape `(n_local,)`, from 0, such that no row has two
        unknowns of one colour. Default: a greedy distance-2 colouring of the pattern.
    **options : Any
        Keyword arguments of `SparseOperator`, e.g. `block_size`, `near_nullspace`,
        `constant_nullspace`.

    Attributes
    ----------
    operator : SparseOperator
        The operator that holds the matrix.
    colours : int
        The number of colours, i.e. of products per assembly.

    Raises
    ------
    InputError
        On all ranks: for an invalid pattern, or rows of other ranks; in a solve, if the residual
        depends on unknowns that are not in the pattern.

    Notes
    -----
    Source: Curtis, Powell and Reid, On the estimation of sparse Jacobian matrices (1974).

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import ColouredJacobian, Grid, NonlinearSolver, Solver, solve_nonlinear
    >>> grid = Grid((8,), boundary="periodic")
    >>> jacobian = ColouredJacobian.on_grid(grid)  # each point depends on its neighbours
    >>> def residual(u):
    ...     near = grid.halo(u)
    ...     return u + u**3 - 0.1 * (near[..., 2:] - 2.0 * u + near[..., :-2]) - 2.0
    >>> solver = NonlinearSolver(Solver("gmres", "ilu"))
    >>> u = solve_nonlinear(
    ...     residual, torch.zeros(1, 1, 8).double(), solver=solver, grid=grid, jacobian=jacobian
    ... )
    >>> bool((u - 1.0).abs().max() < 1e-6)
    True
    """

    def __init__(
        self,
        rows: IntegerArray,
        cols: IntegerArray,
        n_local: int,
        comm: MPI.Comm | None = None,
        *,
        symmetric: bool = False,
        colours: IntegerArray | None = None,
        **options: Any,
    ) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        raise_together(comm, count_error("n_local", n_local, least=0))
        end = cast("MPI.Intracomm", private(comm).agreement).scan(n_local)
        start, size = end - n_local, private(comm).agreement.allreduce(n_local)
        own_rows, own_cols = (np.asarray(index).reshape(-1) for index in (rows, cols))
        raise_together(comm, _validate_rows(own_rows, own_cols, start, end))
        diagonal = np.arange(start, end)
        self._rows, self._cols = _unique(
            np.concatenate([own_rows, diagonal]), np.concatenate([own_cols, diagonal]), size
        )
        options.setdefault("n_local", n_local)
        self.operator: SparseOperator = SparseOperator(
            self._rows, self._cols, (size, size), comm, symmetric=symmetric, **options
        )
        own = self._own_colours(comm) if colours is None else np.asarray(colours).reshape(-1)
        raise_together(comm, _validate_colours(own, n_local))
        self.colours = int(private(comm).agreement.allreduce(own.max(initial=-1), op=MPI.MAX)) + 1
        template = self.operator.matrix.createVecRight()
        of_entries = GhostedIndex(self._cols, template).gather(torch.from_numpy(own * 1.0))
        template.destroy()
        self._colour_of_entry = of_entries.to(torch.int64)
        self._row_of_entry = torch.from_numpy(self._rows - start)
        self._own_colours_of = torch.from_numpy(own.astype(np.int64))

    @classmethod
    @outside_transforms
    def on_grid(
        cls,
        grid: Grid,
        channels: int = 1,
        width: int = 1,
        box: bool = False,
        symmetric: bool = False,
        **options: Any,
    ) -> Self:
        """Make the Jacobian of a residual on fields `(B, channels, *local_shape)`; collective.

        Parameters
        ----------
        grid : Grid
            The grid of the fields; periodic axes are connected across their ends.
        channels : int, default 1
            Number of fields; each may depend on all of them.
        width : int, default 1
            How many neighbours along an axis, in each direction, a point depends on.
        box : bool, default False
            Whether a point also depends on neighbours along several axes at once, e.g. 9 points in
            2-D. Default: along one axis at a time.
        symmetric : bool, default False
            As for `ColouredJacobian`.
        **options : Any
            Keyword arguments of `SparseOperator`.

        Returns
        -------
        ColouredJacobian
            The Jacobian.
        """
        rows, cols = _stencil_pattern(grid, channels, width, box)
        colours = lattice_colours(grid, width, box)
        if colours is not None:
            options.setdefault(
                "colours",
                np.stack([colours.ravel() * channels + channel for channel in range(channels)]),
            )
        if channels == 1:
            options |= {"grid": grid}
        return cls(rows, cols, channels * grid.n_local, grid.comm, symmetric=symmetric, **options)

    def load(
        self, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor], exact: bool
    ) -> None:
        """Assemble the Jacobian at u, see `Jacobian.load`."""
        comm = self.operator.comm
        recorded = linearised(comm, problem, sample, u, tensors)
        v = random_vector(self.operator)
        values, product = collective(comm, lambda: (self._values(recorded), recorded.product(v)))
        check_and_load(self.operator, values, (1, -1), ())
        # At each load, because an entry may be 0 at one u and not at another.
        check_products(
            self.operator,
            v,
            product,
            "the residual depends on unknowns that are not in the pattern of ColouredJacobian: add "
            "them to rows and cols, or use on_grid with a larger width or box=True",
        )

    def _values(self, recorded: Linearisation) -> Tensor:
        products = torch.stack(
            [
                recorded.product((self._own_colours_of == colour).to(torch.float64))
                for colour in range(self.colours)
            ]
        )
        return products[self._colour_of_entry, self._row_of_entry]

    def _own_colours(self, comm: MPI.Comm) -> Indices:
        ones = np.ones(self.operator.nnz_local)
        self.operator.load(ones)
        return pattern_colours(self.operator.matrix, comm)


def _validate_rows(rows: Indices, cols: Indices, start: int, end: int) -> InputError | None:
    if rows.shape != cols.shape or rows.dtype.kind not in "iu" or cols.dtype.kind not in "iu":
        return InputError(
            "rows and cols of a ColouredJacobian must be integer arrays of the same "
            f"shape, not {rows.shape} of {rows.dtype} and {cols.shape} of {cols.dtype}"
        )
    if rows.size and not (start <= rows.min() and rows.max() < end):
        return InputError(
            f"this rank has rows {start} to {end - 1}, and its pattern has rows from {rows.min()} "
            f"to {rows.max()}: pass each rank the entries of its own rows"
        )
    return None


def _validate_colours(colours: Indices, n_local: int) -> InputError | None:
    if colours.shape == (n_local,) and (colours.size == 0 or colours.min() >= 0):
        return None
    return InputError(
        f"colours must be {n_local} integers of at least 0, one per unknown of this rank, "
        f"not of shape {colours.shape}"
    )


def _unique(rows: Indices, cols: Indices, size: int) -> tuple[Indices, Indices]:
    """Each entry once, row by row."""
    keys = np.unique(rows.astype(np.int64) * size + cols.astype(np.int64))
    return keys // size, keys % size


def _stencil_pattern(grid: Grid, channels: int, width: int, box: bool) -> tuple[Indices, Indices]:
    """Rows and columns of this rank's entries; collective."""
    n, comm = channels * grid.n_local, private(grid.comm).agreement
    start = cast("MPI.Intracomm", comm).scan(n) - n
    own = torch.arange(start, start + n).view(channels, *grid.local_shape)
    # Beyond a boundary the halo is 0.
    padded = grid.halo((own + 1).to(torch.float64), width).to(torch.int64).numpy() - 1
    rows, cols = [], []
    for shift in np.ndindex(*(2 * width + 1,) * grid.dim):
        if not box and sum(step != width for step in shift) > 1:
            continue
        part = tuple(slice(s, s + m) for s, m in zip(shift, grid.local_shape, strict=True))
        there = padded[(slice(None), *part)].reshape(channels, -1)
        for channel in range(channels):
            row = np.broadcast_to(own[channel].numpy().ravel(), there.shape)
            rows.append(row[there >= 0])
            cols.append(there[there >= 0])
    return np.concatenate(rows), np.concatenate(cols)
