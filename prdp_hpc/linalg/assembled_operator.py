"""Matrices that the user's own code assembles from parameters, with its own derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply, is_transformed
from prdp_hpc.distributed.collective import raise_together, tell_or_end_job
from prdp_hpc.distributed.petsc_communicator import communicator_of
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.nullspaces import nullspaces_of
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.petsc_matrices import checked_matrix, wrong_layout
from prdp_hpc.linalg.preconditioner_data import Fields, create_preconditioner_data
from prdp_hpc.linalg.torch_petsc import Array, in_double, is_real_tensor, to_host
from prdp_hpc.petsc import PETSc

Assemble = Callable[[Any, Any], None]
Vjp = Callable[[Any, Any, Any], "Tensor | Array"]


class AssembledOperator(Operator):
    """A PETSc matrix `A(θ)` that the user's own code assembles.

    Parameters
    ----------
    matrix : the user's petsc4py `Mat`, square, with its type, sizes and preallocation; it need not
        be assembled yet. Its block size, nullspaces and near-nullspace are used. It belongs to this
        operator from now on: what else is written into it is lost at the next solve.
    assemble : `assemble(theta, matrix)` puts `A(θ)` into the matrix and assembles it. Collective.
        Entries that were there before are the user's to clear (`matrix.zeroEntries()`).
    vjp : `vjp(theta, adjoint, solution)` gives `−λᵀ (∂A/∂θ) x` for the adjoint λ and the solution
        x, two petsc4py `Vec` with the layout of the matrix that are valid during the call: the
        loss' gradient through the matrix, a tensor or an array of the shape of θ. Collective if it
        communicates; called for one right-hand side after the other, and the results are added.
        None: no gradient of θ is offered.
    symmetric, grid : as for `SparseOperator`.
    coordinates, fields, preconditioner : as for `SparseOperator`.

    Solved by `solve(operator, theta, b, solver)`. θ is a real tensor of any shape, or None if
    nothing depends on parameters; both functions receive it in double precision on the host,
    without a gradient. It is taken to be this rank's own: for parameters that every rank holds,
    `vjp` must add up what the ranks contribute (`comm.allreduce`), so that every rank gives the
    whole gradient.

    Gradients of θ are of first order. A second derivative (`create_graph=True`) raises an
    `InputError`, as do forward-mode derivatives with respect to θ.

    Raises
    ------
    ValueError
        On all ranks: for a matrix that is not square or divided unlike its columns, or as
        `SparseOperator`; at a solve for θ with NaN. An exception in one of the functions comes out
        of `solve` or `backward` as it is.

    Example
    -------
    A diagonal `θ` plus the identity::

        def assemble(theta, matrix):
            start, end = matrix.getOwnershipRange()
            for i in range(start, end):
                matrix.setValue(i, i, 1.0 + float(theta[i - start]))
            matrix.assemble()

        def vjp(theta, adjoint, solution):
            return -adjoint.getArray() * solution.getArray()

        matrix = PETSc.Mat().createAIJ(8)
        operator = AssembledOperator(matrix, assemble, vjp, symmetric=True)
        theta = torch.ones(operator.n_local, dtype=torch.float64, requires_grad=True)
        solve(operator, theta, torch.ones_like(theta), Solver("cg", "jacobi")).sum().backward()
    """

    is_read_by_derivatives = True

    def __init__(
        self,
        matrix: Any,
        assemble: Assemble,
        vjp: Vjp | None = None,
        *,
        symmetric: bool = False,
        grid: Grid | None = None,
        coordinates: ArrayLike | None = None,
        fields: Fields | None = None,
        preconditioner: tuple[Operator, Tensor | None] | None = None,
    ) -> None:
        comm = communicator_of(checked_matrix(matrix))
        super().__init__(comm, symmetric, grid)
        raise_together(comm, wrong_layout(matrix))
        self.matrix, self.assemble, self.vjp = matrix, assemble, vjp
        self.nullspaces = nullspaces_of(comm, matrix)
        self.preconditioner_data = create_preconditioner_data(
            comm, matrix, coordinates=coordinates, fields=fields
        )
        self._loaded_state = -1
        self.preconditioner = preconditioner

    def check_form(self, values: Any) -> Exception | None:
        """A ValueError for parameters that are neither None nor a real tensor, or need a gradient
        that `vjp` is missing for.
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
        """A ValueError for parameters that are not finite."""
        if host is not None and has_bad_numbers(host):
            return InputError(
                "the operator's parameters hold NaN or infinity: look at what produced them"
            )
        return None

    def differs(self, values: Tensor | Array | None) -> bool:
        """Also where something else was written into the matrix since."""
        return self._was_written_to() or super().differs(values)

    def holds(self, load: Any) -> bool:
        """See `Operator`."""
        return super().holds(load) and not self._was_written_to()

    def _was_written_to(self) -> bool:
        return bool(self.matrix.stateGet() != self._loaded_state)

    def _put(self, host: Array | None) -> None:
        theta = None if host is None else torch.from_numpy(host.copy())
        # Until it is done: an exception leaves some of other numbers behind.
        self._loaded_state = -1
        _collective_call(self, lambda: self.assemble(theta, self.matrix))
        self.matrix.assemble()
        # Entries may have been written past PETSc, into the arrays of the matrix.
        self.matrix.stateIncrease()
        self._loaded_state = self.matrix.stateGet()

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`−∂(λᵀ A(θ) x)/∂θ` by the user's `vjp`, summed over the batch; of first order only."""
        if torch.is_grad_enabled() and not any(map(is_transformed, (adjoint, solution))):
            raise _not_offered("second derivatives (create_graph=True)")
        return apply(_UserGradient, in_double(values), adjoint, solution, self)

    def gradient_of_rows(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`values_gradient` in plain numbers: λ and x `(B, n_local)`."""
        theta, total = values.detach().clone(), torch.zeros_like(values)
        for left, right in zip(adjoint, solution, strict=True):
            total += _collective_call(self, lambda: self._gradient_of_row(theta, left, right))  # noqa: B023
        return total

    def _gradient_of_row(self, theta: Tensor, left: Tensor, right: Tensor) -> Tensor:
        assert self.vjp is not None, "checked when the values came"
        # Copies: what the user does to them changes nothing here.
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
                f"vjp of an AssembledOperator must give the shape of the parameters, "
                f"{tuple(theta.shape)}, not {tuple(gradient.shape)}"
            )
        if not torch.isfinite(gradient).all():
            raise InputError("vjp of an AssembledOperator gave NaN or infinity")
        return gradient

    def tangent_product(
        self, values: Any, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """Not offered: a ValueError."""
        raise _not_offered("forward-mode derivatives")

    def diagonal_of(self, values: Any) -> Tensor:
        """The diagonal of the matrix as it is loaded; a ValueError where its derivative is asked
        for.
        """
        if isinstance(values, Tensor) and values.requires_grad:
            raise InputError(
                "differentiation='unrolled' with pc='jacobi' needs the derivative of the diagonal, "
                "which an AssembledOperator's vjp does not give: use another pc, or "
                "differentiation='implicit'"
            )
        return torch.from_numpy(np.array(self.matrix.getDiagonal().getArray(readonly=True)))


def _collective_call(operator: AssembledOperator, call: Callable[[], Any]) -> Any:
    """Call the user's code, which may communicate; an exception on one rank must not leave the
    others waiting in it.
    """
    try:
        result = call()
    except Exception as error:
        tell_or_end_job(operator.comm, error)
        raise
    raise_together(operator.comm, None)
    return result


def _not_offered(what: str) -> InputError:
    return InputError(
        f"an AssembledOperator does not offer {what} with respect to its parameters: its vjp is a "
        "first derivative; use SparseOperator.from_petsc and compute the values in torch"
    )


class _UserGradient(torch.autograd.Function):
    """The user's vjp as a function that torch sees, so that a derivative of it raises."""

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
                "vmap over the parameters of an AssembledOperator is not offered: call solve once "
                "for each set"
            )
        pairs = [
            [tensor] * info.batch_size if dim is None else tensor.unbind(dim)
            for tensor, dim in zip((adjoint, solution), in_dims[1:3], strict=True)
        ]
        rows = zip(*pairs, strict=True)
        each = [apply(_UserGradient, values, left, right, operator) for left, right in rows]
        return torch.stack(each), 0
