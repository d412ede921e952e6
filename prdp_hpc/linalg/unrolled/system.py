"""The matrix and the preconditioner of an unrolled solve as differentiable maps of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import as_tensor
from prdp_hpc.linalg.linear_system import LinearSystem
from prdp_hpc.linalg.method_types import OWN_PRECONDITIONERS
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.torch_petsc import to_memory
from prdp_hpc.linalg.unrolled.operations import PlainOperations
from prdp_hpc.linalg.unrolled.reductions import dots
from prdp_hpc.linalg.validation import is_batch
from prdp_hpc.petsc import PETSc

# Options with which the derivatives of these preconditioners would be wrong.
_DIFFERENTIATED = {
    "none": "-",
    "jacobi": "pc_jacobi",
    "lu": "pc_factor_shift",
    "cholesky": "pc_factor_shift",
    **dict.fromkeys(OWN_PRECONDITIONERS, "-"),
}


def is_differentiated(solver: Solver, operator: Operator) -> bool:
    """Whether the dependence of the preconditioner on the matrix is differentiated too."""
    changing = _DIFFERENTIATED.get(solver.pc)
    if operator.preconditioner is not None:
        return False
    return changing is not None and not any(
        key.lstrip("-").startswith(changing) for key in solver.petsc_options
    )


class System(Protocol):
    """The interface of a method to its system: see `UnrolledSystem` and `AdjointSystem`."""

    comm: MPI.Comm
    right_side: bool

    def product(self, x: Tensor) -> Tensor:
        """`A x`."""

    def precondition(self, r: Tensor) -> Tensor:
        """`M⁻¹ r`."""

    def curvature(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `PlainOperations`."""

    def descend(
        self, x: Tensor, r: Tensor, alpha: Tensor, p: Tensor, ap: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See `PlainOperations`."""

    def turn(self, z: Tensor, beta: Tensor, p: Tensor) -> Tensor:
        """See `PlainOperations`."""

    def without_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the matrix's nullspace."""

    def without_left_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the nullspace of the transpose."""


class _Prepared(NamedTuple):
    """What systems with and without recorded gradients share, after the set-up."""

    operator: Operator
    members: list[Any]
    values: Any
    report: SolveReport
    systems: list[LinearSystem]
    pc: str | None


class UnrolledSystem(PlainOperations):
    """`A x`, `M⁻¹ r` for a batch `(B, n_local)`, differentiable with respect to vectors and values.

    Parameters
    ----------
    operator : the operator of `values`.
    members : one operator per matrix, loaded; the operator itself for one matrix.
    values : `(nnz_local,)`, or `(M, nnz_local)` with M members; gradients are recorded for
        `with_values`.
    solver : its KSP determines the preconditioner and its side.
    """

    def __init__(self, operator: Operator, members: list[Any], values: Any, solver: Solver) -> None:
        systems: list[LinearSystem] = [solver.system(member) for member in members]
        for system in systems:
            system.set_level("forward", solver.refinement)
            system.set_up("forward")
            if anywhere(operator.comm, bool(system.preconditioner.getFailedReason())):
                reason = PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED
                raise errors.failed_solve("forward", system.method, reason, 0, solver.refinement)
        pc = solver.pc if is_differentiated(solver, operator) else None
        self._keep(_Prepared(operator, members, values, solver.report, systems, pc), None)

    def _keep(self, prepared: _Prepared, leaf: Tensor | None) -> None:
        self._prepared, self.operator, self.members = prepared, prepared.operator, prepared.members
        self.comm, self._report = self.operator.comm, prepared.report
        self.systems, self.ksp = prepared.systems, prepared.systems[0].forward_ksp
        self.right_side = self.ksp.getPCSide() == PETSc.PC.Side.RIGHT
        self._nullspaces = self.operator.nullspace_basis, self.operator.left_nullspace_basis
        values, self._pc = prepared.values, prepared.pc
        self._values = values.detach() if isinstance(values, Tensor) else values
        self._leaf = leaf
        self._inverse: Tensor | None = None
        self._own: Any = None

    def set_up_again(self, solver: Solver) -> None:
        """Set the preconditioners up for the matrices as they are now, by the solver's KSPs: those
        of the forward pass are not used again if another solve failed in the meantime. Collective.
        """
        self.systems[:] = [solver.system(member) for member in self.members]
        for system in self.systems:
            system.set_up("adjoint")

    def check_transposed(self) -> None:
        """Determine how M⁻ᵀ is applied, for the backward pass; collective.

        Raises
        ------
        ValueError
            If it cannot be applied.
        """
        if self._pc in ("none", "jacobi"):
            return
        for system in self.systems:
            try:
                why = system.inverse.why_not_transposed()
            except PETSc.Error as error:
                failure = system.failure("adjoint", error)
                if isinstance(failure, errors.SolveError):
                    why = "it is not symmetric, and " + str(error).strip().splitlines()[-1].strip()
                    failure = errors.no_transposed_preconditioner(system.method, why)
                raise failure from error
            if why is not None:
                raise errors.no_transposed_preconditioner(system.method, why)

    def with_values(self, leaf: Tensor | None) -> UnrolledSystem:
        """The same system, which records gradients of a float64 leaf of the same values unless it
        is None.
        """
        system = object.__new__(UnrolledSystem)
        system._keep(self._prepared, leaf)
        return system

    def product(self, x: Tensor) -> Tensor:
        """`A x`."""
        result: Tensor = _Product.apply(self._leaf, x, self)  # type: ignore[no-untyped-call]
        return result

    def precondition(self, r: Tensor) -> Tensor:
        """`M⁻¹ r`; on the left side without its part in the nullspace, as PETSc's KSP_PCApply."""
        if self._pc == "none":
            z = r
        elif self._pc == "jacobi":
            z = r * self._jacobi(len(r))
        elif self._pc in OWN_PRECONDITIONERS and self._leaf is not None:
            self._own = self._own or self.operator.differentiable_preconditioner(
                self._pc, self._diagonals()
            )
            z = self._own(r, self.product)
        else:
            z = _Precondition.apply(self._leaf, r, self)  # type: ignore[no-untyped-call]
        return z if self.right_side else self.without_nullspace(z)

    def transposed_precondition(self, r: Tensor) -> Tensor:
        """The transpose of `precondition`, without recording."""
        r = r if self.right_side else self.without_nullspace(r)
        return self.plain_precondition(r, transposed=True)

    @property
    def has_nullspace(self) -> bool:
        """Whether the matrix has a promised nullspace."""
        return self._nullspaces[0] is not None

    def without_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the matrix's nullspace."""
        return without_span(self.comm, self._nullspaces[0], x)

    def without_left_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the nullspace of the transpose."""
        return without_span(self.comm, self._nullspaces[1], x)

    def plain_product(self, x: Tensor, transposed: bool = False) -> Tensor:
        """`A x` or `Aᵀ x` without recording."""
        return plain_product(self.systems, x, transposed)

    def plain_precondition(self, r: Tensor, transposed: bool = False) -> Tensor:
        """`M⁻¹ r` or `M⁻ᵀ r` without recording."""
        if self._pc == "jacobi":
            return r * self._jacobi(len(r))
        if self._pc == "none":
            return r

        def run(system: LinearSystem, part: Tensor) -> Tensor:
            numbers = to_memory(part, self.operator.memory)
            return as_tensor(system.inverse(numbers, transposed))

        return _each(self.systems, r, transposed, run)

    def values_gradient(self, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`∂(λᵀ A x)/∂values`, summed over the right-hand sides of each matrix."""
        with self._report.part("adjoint", "gradient"):
            return self._values_gradient(adjoint, solution)

    def _values_gradient(self, adjoint: Tensor, solution: Tensor) -> Tensor:
        values: Any = self._values
        if is_batch(values) and self.members[0] is not self.operator:
            shape = (len(self.members), len(adjoint) // len(self.members), adjoint.shape[-1])
            adjoint, solution = adjoint.reshape(shape), solution.reshape(shape)
        return -self.operator.values_gradient(values, adjoint, solution)

    def _jacobi(self, batch: int) -> Tensor:
        """The inverse of the diagonal for each right-hand side."""
        if self._inverse is None:
            diagonal = self._diagonals()
            # PETSc's PCJACOBI also replaces zeros by 1.
            self._inverse = 1.0 / torch.where(diagonal == 0.0, 1.0, diagonal)
        return (
            self._inverse
            if len(self.members) == 1
            else self._inverse.repeat_interleave(batch // len(self.members), dim=0)
        )

    def _diagonals(self) -> Tensor:
        """The diagonal of each matrix, `(M, n_local)`."""
        values = self._values if self._leaf is None else self._leaf
        each = [values] if self.members[0] is self.operator else list(values)
        return torch.stack(
            [member.diagonal_of(own) for member, own in zip(self.members, each, strict=True)]
        )


def without_span(comm: MPI.Comm, basis: Tensor | None, x: Tensor) -> Tensor:
    """`x (B, n_local)` minus its part in the span of an orthonormal basis `(k, n_local)`, if there
    is one; one reduction.
    """
    if basis is None:
        return x
    vectors = [z.expand_as(x) for z in basis]
    for along, z in zip(dots(comm, *((x, z) for z in vectors)), vectors, strict=True):
        x = x - along * z
    return x


def plain_product(systems: list[LinearSystem], x: Tensor, transposed: bool) -> Tensor:
    """`A x` or `Aᵀ x` without recording; the rows of x are those of each matrix in turn."""
    return _each(systems, x, transposed, lambda system, part: system.product(part, transposed))


def _each(
    systems: list[LinearSystem],
    x: Tensor,
    transposed: bool,
    run: Callable[[LinearSystem, Tensor], Tensor],
) -> Tensor:
    """Apply a function to the right-hand sides of each matrix."""
    results = []
    for system, part in zip(systems, x.tensor_split(len(systems)), strict=True):
        try:
            results.append(run(system, part))
        except PETSc.Error as error:
            raise system.failure("adjoint" if transposed else "forward", error) from error
    return results[0] if len(results) == 1 else torch.cat(results)


class AdjointSystem(PlainOperations):
    """The system of the adjoint solve, without recording, as in implicit differentiation.

    For a symmetric matrix it is A with M, else Aᵀ with M⁻ᵀ; GMRES then uses right preconditioning,
    see `LinearSystem`.
    """

    def __init__(self, system: UnrolledSystem, solver: Solver) -> None:
        self.comm, self._system = system.comm, system
        self._transposed = not (
            system.operator.symmetric or solver.ksp in ("cg", "steepest_descent")
        )
        self.right_side = system.right_side or (self._transposed and solver.ksp == "gmres")

    def product(self, x: Tensor) -> Tensor:
        """`Aᵀ x`."""
        return self._system.plain_product(x, self._transposed)

    def precondition(self, r: Tensor) -> Tensor:
        """`M⁻ᵀ r`; on the left side without its part in the nullspace of Aᵀ."""
        z = self._system.plain_precondition(r, self._transposed)
        return z if self.right_side else self.without_nullspace(z)

    def without_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the left nullspace of A, which is that of Aᵀ."""
        return self._system.without_left_nullspace(x)

    def without_left_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the nullspace of A."""
        return self._system.without_nullspace(x)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor | None, x: Tensor, system: UnrolledSystem) -> Tensor:
        ctx.system = system
        ctx.save_for_backward(x if ctx.needs_input_grad[0] else None)
        return system.plain_product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        system, grad, (x,) = ctx.system, grads[0].contiguous(), ctx.saved_tensors
        values = system.values_gradient(grad, x) if ctx.needs_input_grad[0] else None
        return (
            values,
            system.plain_product(grad, transposed=True) if ctx.needs_input_grad[1] else None,
            None,
        )


class _Precondition(torch.autograd.Function):
    """If M is the matrix itself, the gradient of the values is `−(M⁻ᵀ g)[row] z[col]`."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor | None, r: Tensor, system: UnrolledSystem) -> Tensor:
        z = system.plain_precondition(r)
        ctx.system = system
        ctx.save_for_backward(z if ctx.needs_input_grad[0] else None)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        system, (z,) = ctx.system, ctx.saved_tensors
        adjoint = system.plain_precondition(grads[0], transposed=True)
        values = -system.values_gradient(adjoint, z) if ctx.needs_input_grad[0] else None
        return values, adjoint, None
