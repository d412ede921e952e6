"""Finite element matrices: element matrices that PETSc assembles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.array_types import IntegerArray
from prdp_hpc.linalg.arrays import Numbers, array_of, as_tensor, has_bad_numbers, on_host
from prdp_hpc.linalg.element_products import ElementProducts
from prdp_hpc.linalg.ghosts import GhostedIndex
from prdp_hpc.linalg.mesh_checks import check_cells, check_numbers, require_equal
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import in_double, is_real_tensor, like, to_memory
from prdp_hpc.linalg.validation import sizes_of, wrong_form
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.operator_options import OperatorOptions


class ElementOperator(SparseOperator):
    """The matrix of a finite element method, `A = Σ_e P_eᵀ K_e P_e`.

    P_e selects the k numbers of cell e from a vector. The values, which are passed to each solve,
    are the element matrices K_e: `solve(operator, K, b, solver)` takes K as `(n_cells, k, k)`, or
    `(M, n_cells, k, k)` for M matrices, and works as for a `SparseOperator`, to any order of
    derivatives and with batches of right-hand sides. The gradient is `∂L/∂K_e = −λ_e x_eᵀ` with the
    adjoint solution λ, cell by cell, so `∂L/∂p = −Σ_e λ_eᵀ (∂K_e/∂p) x_e` for parameters p of the
    element matrices.

    Rows of constrained dofs become those of the identity, and their columns are 0 in the other
    rows, so the matrix stays symmetric if the K_e are:

        ⎡ A_ff  0 ⎤ ⎡ x_f ⎤   ⎡ b_f ⎤
        ⎣  0    I ⎦ ⎣ x_c ⎦ = ⎣ b_c ⎦

    Hence x equals b at constrained dofs, which do not affect the others. A load vector must be 0
    there for homogeneous conditions; `right_hand_side` computes b from a load and from non-zero
    prescribed values.

    Parameters
    ----------
    cells : array_like of int, shape (n_cells, k)
        Global dof numbers of this rank's cells. Each cell is on one rank and may touch dofs of
        other ranks. A rank without cells gives an array of shape `(0, k)`.
    n : int
        Number of dofs. Their rows are divided among the ranks in contiguous ranges (`row_range`),
        so dofs that are close in the mesh should have close numbers.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share the matrix. Default: all ranks.
    dirichlet : array_like of int, optional
        Global numbers of constrained dofs, shape `(n_constrained,)`. Each may be given by any rank,
        or by several.
    **options : Any
        Keyword arguments of `SparseOperator`: `symmetric`, `n_local`, `nullspace` and others.

    Raises
    ------
    InputError
        On all ranks: for cells or dofs of a wrong kind or range, and as for `SparseOperator`.

    Notes
    -----
    PETSc manual pages: MatSetPreallocationCOO, MatSetValuesCOO. The pattern is set up once; an
    assembly is one call, which sends entries to the ranks that own their rows.

    Examples
    --------
    A rod of three elements, `−(κ u′)′ = 0`, `u(0) = 0`, `u(1) = 1`:

    >>> import torch
    >>> from prdp_hpc import ElementOperator, Refinement, Solver, solve
    >>> cells = [[0, 1], [1, 2], [2, 3]]
    >>> operator = ElementOperator(cells, 4, dirichlet=[0, 3], symmetric=True)
    >>> kappa = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    >>> K = 3.0 * kappa[:, None, None] * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> b = operator.right_hand_side(K, torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0]))
    >>> u = solve(operator, K, b, Solver("cg", "jacobi", Refinement(rtol=1e-10)))
    >>> u.detach()
    tensor([0.0000, 0.5714, 0.8571, 1.0000])
    """

    takes_entries = False

    def __init__(
        self,
        cells: IntegerArray,
        n: int,
        comm: MPI.Comm | None = None,
        *,
        dirichlet: IntegerArray | None = None,
        **options: Unpack[OperatorOptions],
    ) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        cells, dofs = array_of(cells), array_of([] if dirichlet is None else dirichlet)
        call_together(comm, lambda: _validate_mesh(cells, dofs, n))
        require_equal(comm, "numbers of dofs", n)
        n = int(n)
        self._cells = cells.astype(PETSc.IntType)
        constraints = _Constraints(dofs.astype(PETSc.IntType), n, comm)
        free = ~constraints.hold(self._cells)
        # Which entries of each element matrix are in the pattern; all without constraints.
        kept = (free[:, :, None] & free[:, None, :]).reshape(-1)
        self._kept_entries = None if kept.all() else np.flatnonzero(kept)
        self._count, self._free = len(constraints.given), free
        self._constraints = constraints
        rows, cols = (
            np.append(entry.reshape(-1)[kept], constraints.given)
            for entry in np.broadcast_arrays(self._cells[:, :, None], self._cells[:, None, :])
        )
        super().__init__(rows, cols, (n, n), comm, **options)

    def _share(self, other: Any) -> None:
        super()._share(other)
        self._cells, self._constraints = other._cells, other._constraints
        self._kept_entries, self._count, self._free = other._kept_entries, other._count, other._free

    def _place(self) -> None:
        device = self.memory.device
        self._kept = None
        if self._kept_entries is not None:
            self._kept = torch.from_numpy(self._kept_entries).to(device)
        self._ones = torch.ones(self._count, dtype=torch.float64, device=device)
        own = self._constraints.hold(np.arange(*self.row_range))
        self._constrained = torch.from_numpy(own).to(device)
        template, free = self.matrix.createVecLeft(), self._free
        mask = torch.from_numpy(free.astype(np.float64)).to(device)
        self._products = ElementProducts(self._cells, template, mask, mask, self.memory)
        # Prescribed values affect other dofs through these cells only.
        border = np.flatnonzero(~free.all(axis=1))
        self._border = torch.from_numpy(border).to(device)
        inside = mask[self._border]
        self._coupling = ElementProducts(
            self._cells[border], template, inside, 1.0 - inside, self.memory
        )

    def right_hand_side(
        self, values: Tensor, load: Tensor, prescribed: Tensor | float = 0.0
    ) -> Tensor:
        """Return the right-hand side with which `solve` gives x the prescribed values.

        It is `b_c = g`, `b_f = load_f − A_fc g`. Differentiable to any order with respect to all
        three arguments; collective.

        Parameters
        ----------
        values : Tensor
            Element matrices, shape `(n_cells, k, k)` or `(M, n_cells, k, k)`.
        load : Tensor
            This rank's part of the load vector, shape `(n_local,)` or `(B, n_local)`; not read at
            constrained dofs.
        prescribed : Tensor or float, default 0.0
            The values g, of the load's shape or one that broadcasts to it; read at constrained dofs
            only.

        Returns
        -------
        Tensor
            The right-hand side b, of the load's shape.

        Raises
        ------
        InputError
            On all ranks, for wrong shapes or types.
        """
        if isinstance(load, Tensor):
            own = self.on(load.device)
            assert isinstance(own, ElementOperator)
            return own._right_hand_side(values, load, prescribed)
        return self._right_hand_side(values, load, prescribed)

    def _right_hand_side(self, values: Tensor, load: Tensor, prescribed: Tensor | float) -> Tensor:
        device = self.memory.device
        matrices = self.as_entries(values)
        self._check_terms(matrices, load, prescribed)
        given, fixed = torch.as_tensor(prescribed, dtype=torch.float64), self._constrained
        given = torch.where(fixed, given.to(device), 0.0).expand_as(load)
        count = len(load) if load.dim() == 2 else 1
        batch = (len(matrices), count // len(matrices)) if matrices.dim() == 2 else (count,)
        vectors = given.reshape(*batch, self.n_local)
        moved = self._coupling.product(self._border_entries(matrices), vectors)
        free = in_double(load, device) - moved.reshape(load.shape)
        return like(torch.where(fixed, given, free), load)

    def _border_entries(self, entries: Tensor) -> Tensor:
        """The entries of cells with constrained dofs, in double precision on the host."""
        size = self._cells.shape[1] ** 2
        cells = entries.reshape(*entries.shape[:-1], len(self._cells), size)
        own = cells.index_select(-2, self._border.to(entries.device))
        return in_double(own, self.memory.device).flatten(-2)

    def _check_terms(self, entries: Any, load: Any, prescribed: Any) -> None:
        """Raise an InputError on all ranks for invalid terms, or if ranks disagree."""
        raise_together(self.comm, wrong_form(self, entries, load))
        call_together(self.comm, lambda: _validate_prescribed(prescribed, load))
        require_equal(self.comm, "matrices and loads", sizes_of(self, entries, load))

    @property
    def nnz_local(self) -> int:
        """Number of values of this rank's element matrices, `n_cells k k`."""
        return int(self._cells.size * self._cells.shape[1])

    def as_entries(self, values: Any) -> Any:
        """Flatten the element matrices: `(n_cells, k, k)` to `(n_cells k k,)`, also in a batch."""
        shape = (*self._cells.shape, self._cells.shape[1])
        is_right = is_real_tensor(values) and values.dim() in (3, 4) and values.shape[-3:] == shape
        return values.flatten(-3) if is_right else values

    def check_form(self, values: Any) -> Exception | None:
        """See `Operator`."""
        if super().check_form(values) is None:
            return None
        n_cells, k = self._cells.shape
        what = f"shape {tuple(values.shape)}" if is_real_tensor(values) else f"{type(values)}"
        return InputError(
            "values must be the element matrices of this rank's cells, real floating-point numbers "
            f"of shape ({n_cells}, {k}, {k}) or, for M matrices, (M, {n_cells}, {k}, {k}), not "
            f"{what}"
        )

    def check_numbers(self, numbers: Numbers | None) -> Exception | None:
        """Return an InputError that names the first cell whose matrix is not finite, else None."""
        if numbers is not None and has_bad_numbers(numbers):
            cell = (
                int(np.argwhere(~np.isfinite(on_host(numbers)))[0, -1]) // self._cells.shape[1] ** 2
            )
            return InputError(
                f"the element matrices hold NaN or infinity, first in cell {cell} of this rank "
                f"(dofs {self._cells[cell].tolist()}): look at what produced them"
            )
        return None

    def diagonal_of(self, values: Tensor) -> Tensor:
        """See `Operator`; 1 at constrained dofs."""
        return torch.where(self._constrained, 1.0, self._products.diagonal(values))

    def coo_pattern(self) -> tuple[Any, Any, Any, int]:
        """See `SparseOperator`; the last ones are those of constrained rows."""
        return self._pattern.rows, self._pattern.cols, self._kept_entries, self._count

    def coo_values(self, numbers: Numbers | None) -> Numbers | None:
        """See `SparseOperator`; the last ones are those of constrained rows."""
        entries = as_tensor(numbers)
        kept = entries if self._kept is None else entries.index_select(0, self._kept)
        return to_memory(torch.cat([kept, self._ones]), self.memory)


class _Constraints:
    """Which dofs are constrained on any rank; collective.

    Attributes
    ----------
    given : numbers of constrained dofs, each on one rank.
    """

    def __init__(self, dofs: NDArray[np.integer], n: int, comm: MPI.Comm) -> None:
        self._vector = PETSc.Vec().createMPI(n, comm=comm)
        self._vector.setValues(dofs, np.ones(len(dofs)))
        self._vector.assemble()
        self._flags = torch.from_numpy(self._vector.getArray().copy())
        start = self._vector.getOwnershipRange()[0]
        self.given = (start + np.flatnonzero(self._flags.numpy())).astype(PETSc.IntType)

    def hold(self, dofs: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these are constrained, of the same shape; collective."""
        flags = GhostedIndex(dofs.reshape(-1), self._vector).gather(self._flags)
        return (flags.numpy() > 0.0).reshape(dofs.shape)


def _validate_mesh(cells: Any, dofs: Any, n: int) -> None:
    """Raise an `InputError` for invalid cells or constrained dofs of this rank."""
    check_cells(cells, n, "dof")
    if dofs.ndim != 1:
        raise InputError(f"dirichlet must be a list of dof numbers, not of shape {dofs.shape}")
    check_numbers("dirichlet", dofs, n, "dof")


def _validate_prescribed(prescribed: Any, load: Tensor) -> None:
    """Raise an `InputError` for invalid prescribed values, see `right_hand_side`."""
    shape = prescribed.shape if isinstance(prescribed, Tensor) else ()
    try:
        fits = torch.broadcast_shapes(shape, load.shape) == load.shape
    except RuntimeError:
        fits = False
    if fits and (isinstance(prescribed, int | float) or is_real_tensor(prescribed)):
        return
    raise InputError(
        f"prescribed must be a number, or a tensor of real floating-point numbers that broadcasts "
        f"to the load's shape {tuple(load.shape)}, not "
        f"{tuple(shape) if isinstance(prescribed, Tensor) else type(prescribed)}"
    )
