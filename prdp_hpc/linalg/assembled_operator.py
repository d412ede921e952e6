"""Matrices that the user's code assembles from parameters, with the user's derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply, is_transformed
from prdp_hpc.distributed.collective import raise_together, share_or_end_job
from prdp_hpc.distributed.petsc_communicator import communicator_of
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.array_types import RealArray
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.nullspaces import nullspaces_of
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.petsc_matrices import checked_matrix, validate_layout
from prdp_hpc.linalg.preconditioner_data import Fields, create_preconditioner_data
from prdp_hpc.linalg.torch_petsc import Array, in_double, is_real_tensor, to_host
from prdp_hpc.petsc import PETSc

Assemble = Callable[[Any, Any], None]
Vjp = Callable[[Any, Any, Any], "Tensor | Array"]


class AssembledOperator(Operator):
    """A PETSc matrix `A(θ)` that the user's code assembles from parameters θ.

    The gradient is computed by the user's `vjp`: `∂L/∂θ = −λᵀ (∂A/∂θ) x` with the adjoint solution
    λ. θ is a real tensor of any shape, or None if nothing depends on parameters. Both functions
    receive it in double precision on the host, without a gradient. It is treated as this rank's own
    data: for parameters that are replicated on all ranks, `vjp` must add the contributions of the
    ranks (`comm.allreduce`), so that every rank returns the whole gradient.

    Gradients of θ are of first order. A second derivative (`create_graph=True`) and forward-mode
    derivatives with respect to θ raise an `InputError`.

    Parameters
    ----------
    matrix : petsc4py.PETSc.Mat
        A square matrix with its type, sizes and preallocation; it need not be assembled yet. Its
        block size, nullspaces and near-nullspace are used. It belongs to this operator afterwards:
        other entries that are written into it are lost at the next solve.
    assemble : callable
        `assemble(theta, matrix)` puts `A(θ)` into the matrix and assembles it; collective. It must
        clear earlier entries itself (`matrix.zeroEntries()`).
    vjp : callable, optional
        `vjp(theta, adjoint, solution)` returns `−λᵀ (∂A/∂θ) x`, a tensor or an array of the shape
        of θ. λ and x are petsc4py `Vec` with the layout of the matrix, valid during the call. It is
        called once per right-hand side, and the results are added; collective if it communicates.
        Default: θ has no gradient.
    symmetric : bool, default False
        As for `SparseOperator`.
    grid : Grid, optional
        As for `SparseOperator`.
    coordinates : array_like, optional
        As for `SparseOperator`, shape `(n_local / block_size, dim)`.
    fields : dict, optional
        As for `SparseOperator`.
    preconditioner : tuple, optional
        As for `SparseOperator`.

    Raises
    ------
    InputError
        On all ranks: for a matrix that is not square or whose rows and columns are divided
        differently, and as for `SparseOperator`; in a solve, for θ with NaN. An exception in one of
        the functions is raised unchanged by `solve` or `backward`.

    Examples
    --------
    A diagonal matrix θ plus the identity:

    >>> import torch
    >>> from prdp_hpc import AssembledOperator, Solver, solve
    >>> from prdp_hpc.petsc import PETSc
    >>> def assemble(theta, matrix):
    ...     start, end = matrix.getOwnershipRange()
    ...     for i in range(start, end):
    ...         matrix.setValue(i, i, 1.0 + float(theta[i - start]))
    ...     matrix.assemble()
    >>> def vjp(theta, adjoint, solution):
    ...     return -adjoint.getArray() * solution.getArray()
    >>> operator = AssembledOperator(PETSc.Mat().createAIJ(2), assemble, vjp, symmetric=True)
    >>> theta = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    >>> x = solve(operator, theta, torch.ones(2).double(), Solver("cg", "jacobi"))
    >>> x.sum().backward()
    >>> theta.grad
    tensor([-0.2500, -0.0625], dtype=torch.float64)
    """

    is_read_by_derivatives = True

    def __init__(
        self,
        matrix: PETSc.Mat,
        assemble: Assemble,
        vjp: Vjp | None = None,
        *,
        symmetric: bool = False,
        grid: Grid | None = None,
        coordinates: RealArray | None = None,
        fields: Fields | None = None,
        preconditioner: tuple[Operator, Tensor | None] | None = None,
    ) -> None:
        comm = communicator_of(checked_matrix(matrix))
        super().__init__(comm, symmetric, grid)
        raise_together(comm, validate_layout(matrix))
        self.matrix, self.assemble, self.vjp = matrix, assemble, vjp
        self.nullspaces = nullspaces_of(comm, matrix)
        self.preconditioner_data = create_preconditioner_data(
            comm, matrix, coordinates=coordinates, fields=fields
        )
        self._loaded_state = -1
        self.preconditioner = preconditioner

    def check_form(self, values: Any) -> Exception | None:
        """Return an InputError for invalid parameters, else None.

        Valid are None and real tensors; a tensor that requires a gradient needs `vjp`.
        """
        if values is None:
            return None
        if not is_real_tensor(values):
            return InputError(
                "the parameters of an AssembledOperator are None or a real floating-point tensor, "
                f"not {type(values).__name__}"
            )
        if values.requires_grad and torch.is_grad_enabled() and self.vjp is None:
            return InputError(
                "the parameters need a gradient, and this AssembledOperator was made without vjp: "
                "give AssembledOperator(matrix, assemble, vjp)"
            )
        return None

    def check_numbers(self, host: Array | None) -> Exception | None:
        """Return an InputError for parameters that are not finite, else None."""
        if host is not None and has_bad_numbers(host):
            return InputError(
                "the operator's parameters hold NaN or infinity: look at what produced them"
            )
        return None

    def differs(self, values: Tensor | Array | None) -> bool:
        """Return whether the parameters differ, or other entries were written into the matrix."""
        return self._was_written_to() or super().differs(values)

    def is_loaded_with(self, values: Tensor | None) -> bool:
        """See `Operator`."""
        return super().is_loaded_with(values) and not self._was_written_to()

    def holds(self, load: Any) -> bool:
        """See `Operator`."""
        return super().holds(load) and not self._was_written_to()

    def _was_written_to(self) -> bool:
        return bool(self.matrix.stateGet() != self._loaded_state)

    def _put(self, host: Array | None) -> None:
        theta = None if host is None else torch.from_numpy(host.copy())
        # Invalid until `assemble` returns: after an exception some entries may be new.
        self._loaded_state = -1
        _collective_call(self, lambda: self.assemble(theta, self.matrix))
        self.matrix.assemble()
        # Entries may have been written directly into the arrays of the matrix, without PETSc.
        self.matrix.stateIncrease()
        self._loaded_state = self.matrix.stateGet()

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """Return `−∂(λᵀ A(θ) x)/∂θ` by the user's `vjp`, summed over the batch.

        It is of first order only: a second derivative raises an InputError.
        """
        if torch.is_grad_enabled() and not any(map(is_transformed, (adjoint, solution))):
            raise _not_offered("second derivatives (create_graph=True)")
        return apply(_UserGradient, in_double(values), adjoint, solution, self)

    def gradient_of_rows(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """Return `values_gradient` without recording, for λ and x `(B, n_local)`."""
        theta, total = values.detach().clone(), torch.zeros_like(values)
        for left, right in zip(adjoint, solution, strict=True):
            total += _collective_call(self, lambda: self._gradient_of_row(theta, left, right))  # noqa: B023
        return total

    def _gradient_of_row(self, theta: Tensor, left: Tensor, right: Tensor) -> Tensor:
        assert self.vjp is not None, "checked by check_form"
        # Copies, so that changes by the user's code have no effect here.
        vectors = [
            PETSc.Vec().createWithArray(np.array(to_host(row)), comm=self.comm)
            for row in (left, right)
        ]
        try:
            # A copy: it may be the memory of one of the vectors.
            found = torch.as_tensor(self.vjp(theta, *vectors)).detach().clone()
        finally:
            for vector in vectors:
                vector.destroy()
        gradient = found.to("cpu", torch.float64)
        if gradient.shape != theta.shape:
            raise InputError(
                f"vjp of an AssembledOperator must return the shape of the parameters, "
                f"{tuple(theta.shape)}, not {tuple(gradient.shape)}"
            )
        if not torch.isfinite(gradient).all():
            raise InputError("vjp of an AssembledOperator returned NaN or infinity")
        return gradient

    def tangent_product(
        self, values: Any, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """Raise an InputError: forward-mode derivatives are not available."""
        raise _not_offered("forward-mode derivatives")

    def diagonal_of(self, values: Any) -> Tensor:
        """Return the diagonal of the loaded matrix; its derivative is not available."""
        if isinstance(values, Tensor) and values.requires_grad:
            raise InputError(
                "differentiation='unrolled' with pc='jacobi' needs the derivative of the diagonal, "
                "which an AssembledOperator's vjp does not compute: use another pc, or "
                "differentiation='implicit'"
            )
        return torch.from_numpy(np.array(self.matrix.getDiagonal().getArray(readonly=True)))


def _collective_call(operator: AssembledOperator, call: Callable[[], Any]) -> Any:
    """Call the user's code, which may communicate; an exception on one rank ends the job if others
    wait in a collective call of that code.
    """
    try:
        result = call()
    except Exception as error:
        share_or_end_job(operator.comm, error)
        raise
    raise_together(operator.comm, None)
    return result


def _not_offered(what: str) -> InputError:
    return InputError(
        f"an AssembledOperator has no {what} with respect to its parameters: its vjp is a "
        "first derivative; use SparseOperator.from_petsc and compute the values in torch"
    )


class _UserGradient(torch.autograd.Function):
    """The user's vjp as a torch function, so that a derivative of it raises an error."""

    @staticmethod
    def forward(
        values: Tensor, adjoint: Tensor, solution: Tensor, operator: AssembledOperator
    ) -> Tensor:
        return operator.gradient_of_rows(values, adjoint, solution)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise _not_offered("second derivatives")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise _not_offered("second derivatives")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        values: Tensor,
        adjoint: Tensor,
        solution: Tensor,
        operator: AssembledOperator,
    ) -> tuple[Tensor, int]:
        if in_dims[0] is not None:
            raise InputError(
                "vmap over the parameters of an AssembledOperator is not available: call solve "
                "once for each set"
            )
        pairs = [
            [tensor] * info.batch_size if dim is None else tensor.unbind(dim)
            for tensor, dim in zip((adjoint, solution), in_dims[1:3], strict=True)
        ]
        rows = zip(*pairs, strict=True)
        each = [apply(_UserGradient, values, left, right, operator) for left, right in rows]
        return torch.stack(each), 0
