"""Operators given by functions instead of a stored matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mpi4py import MPI
from petsc4py import PETSc
from torch import Tensor

from prdp_hpc.collective import raise_together
from prdp_hpc.grid import Grid
from prdp_hpc.linalg.bridge import Array, has_bad_numbers, to_host
from prdp_hpc.linalg.operator import Operator

Apply = Callable[[Any, Tensor], Tensor]


class FunctionOperator(Operator):
    """A matrix-free operator `x ↦ A(values) x`.

    Parameters
    ----------
    apply : `apply(values, x) -> A(values) x`, in torch: differentiated with respect to `values` for their
        gradient. `x` and the result are this rank's part, float64, shape `(n_local,)`; collective if it
        communicates.
    n_local : entries of a vector on this rank.
    comm : the ranks that share a vector; default: all.
    apply_transpose : `apply_transpose(values, y) -> A(values)ᵀ y`; default: torch's derivative of `apply`, which is
        right as long as whatever `apply` communicates is differentiable too.
    diagonal : `diagonal(values)`, shape `(n_local,)`: what `pc="jacobi"` needs.
    symmetric, grid : as for `SparseOperator`.

    `values` given to `solve` may be a tensor of any shape, or None if nothing depends on parameters. They are
    taken to be this rank's own; wrap replicated parameters in `Grid.replicated`.

    Notes
    -----
    PETSc manual page: MATPYTHON.
    """

    def __init__(
        self,
        apply: Apply,
        n_local: int,
        comm: MPI.Comm | None = None,
        *,
        apply_transpose: Apply | None = None,
        diagonal: Callable[[Any], Tensor] | None = None,
        symmetric: bool = False,
        grid: Grid | None = None,
    ) -> None:
        super().__init__(MPI.COMM_WORLD if comm is None else comm, symmetric, grid)
        wrong = None if isinstance(n_local, int) and n_local >= 0 else ValueError(f"n_local must be a whole number ≥ 0, not {n_local!r}")
        raise_together(self.comm, wrong)
        self.apply = apply
        self.apply_transpose = apply_transpose or self._derived_transpose
        self.diagonal = diagonal
        self.values: Any = None
        size = (n_local, PETSc.DETERMINE)
        self.matrix = PETSc.Mat().createPython((size, size), _Context(self), comm=self.comm)
        self.matrix.setUp()

    def check_values(self, values: Any) -> Exception | None:
        """A ValueError for values that are neither None nor a real tensor, or that are not finite."""
        if values is None:
            return None
        if not isinstance(values, Tensor) or not values.is_floating_point():
            return ValueError(f"the values of a function operator are None or a real floating-point tensor, not {type(values).__name__}")
        if has_bad_numbers(to_host(values)):
            return ValueError("the operator's values hold NaN or infinity: look at what produced them")
        return None

    def _put(self, values: Any) -> None:
        self.values = None if values is None else values.detach().clone()
        self.matrix.assemble()
        self.matrix.stateIncrease()

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`−∂(λᵀ A(values) x)/∂values` by torch, summed over the batch."""
        with torch.enable_grad():
            variable = values.detach().requires_grad_()
            total = sum(-(lam @ self.apply(variable, x)) for lam, x in zip(adjoint, solution, strict=True))
            if not isinstance(total, Tensor):
                return torch.zeros_like(values)
            (gradient,) = torch.autograd.grad(total, variable, allow_unused=True)
        return torch.zeros_like(values) if gradient is None else gradient

    def _derived_transpose(self, values: Any, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = torch.zeros_like(y, requires_grad=True)
            (result,) = torch.autograd.grad(self.apply(values, x), x, y)
        return result


class _Context:
    """What PETSc calls back; PETSc manual page: MATPYTHON."""

    def __init__(self, operator: FunctionOperator) -> None:
        self.operator = operator

    def _call(self, function: Apply, x: PETSc.Vec, y: PETSc.Vec) -> None:
        argument: Array = x.getArray(readonly=True).copy()
        with torch.no_grad():
            result = function(self.operator.values, torch.from_numpy(argument))
        y.setArray(to_host(result))

    def mult(self, mat: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        self._call(self.operator.apply, x, y)

    def multTranspose(self, mat: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:  # noqa: N802 - PETSc's name
        self._call(self.operator.apply_transpose, x, y)

    def getDiagonal(self, mat: PETSc.Mat, d: PETSc.Vec) -> None:  # noqa: N802 - PETSc's name
        if self.operator.diagonal is None:
            raise ValueError("pc='jacobi' needs the operator's diagonal: give FunctionOperator(diagonal=...), or use pc='none'")
        d.setArray(to_host(self.operator.diagonal(self.operator.values)))
