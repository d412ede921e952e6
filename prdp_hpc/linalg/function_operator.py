"""Operators given by functions instead of a stored matrix."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.autograd.recomputed import gradient_of, recomputed, tangent_of
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.torch_petsc import Array, in_double, is_real_tensor, to_host
from prdp_hpc.number_checks import count_error
from prdp_hpc.petsc import PETSc

Apply = Callable[[Any, Tensor], Tensor]


class FunctionOperator(Operator):
    """A matrix-free operator `x ↦ A(values) x`, given by functions.

    The `values` that are passed to `solve` may be a tensor of any shape, or None if nothing depends
    on parameters; the functions receive them in double precision on the host. They are treated as
    this rank's own data; wrap replicated parameters in `Grid.replicated`. The gradient of the
    values is `−∂(λᵀ A(values) x)/∂values`, by torch. An exception in one of the functions is raised
    unchanged by `solve`.

    Parameters
    ----------
    apply : callable
        `apply(values, x) -> A(values) x` in torch; it is differentiated with respect to `values`
        for their gradient. x and the result are this rank's parts, float64, shape `(n_local,)`.
        Collective if it communicates.
    n_local : int
        Entries of a vector on this rank.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share a vector. Default: all ranks.
    apply_transpose : callable, optional
        `apply_transpose(values, y) -> A(values)ᵀ y`. Default: torch's derivative of `apply`, which
        is right if all communication in `apply` is differentiable.
    diagonal : callable, optional
        `diagonal(values)` returns the diagonal, shape `(n_local,)`; needed for `pc="jacobi"`.
    symmetric : bool, default False
        As for `SparseOperator`.
    grid : Grid, optional
        As for `SparseOperator`.
    preconditioner : tuple, optional
        As for `SparseOperator`. With an assembled approximation every pc can be used.

    Raises
    ------
    InputError
        For an `n_local` that is not an integer of at least 0; in a solve, for values that are not
        finite, a result of another shape, or a preconditioner that needs entries.

    Notes
    -----
    PETSc manual page: MATPYTHON.

    Examples
    --------
    A scaled identity, `A(s) x = s x`:

    >>> import torch
    >>> from prdp_hpc import FunctionOperator, Solver, solve
    >>> operator = FunctionOperator(lambda s, x: s * x, n_local=2, symmetric=True)
    >>> s = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    >>> x = solve(operator, s, torch.ones(2).double(), Solver("cg", "none"))
    >>> x.sum().backward()
    >>> s.grad
    tensor(-0.1250, dtype=torch.float64)
    """

    is_read_by_derivatives = True

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
        preconditioner: tuple[Operator, Tensor | None] | None = None,
    ) -> None:
        super().__init__(MPI.COMM_WORLD if comm is None else comm, symmetric, grid)
        wrong = count_error("n_local", n_local, least=0)
        raise_together(self.comm, wrong)
        self.apply = apply
        self.apply_transpose = apply_transpose
        self.diagonal = diagonal
        self.values: Any = None
        size = (n_local, PETSc.DETERMINE)
        self.matrix = PETSc.Mat().createPython((size, size), _Context(self), comm=self.comm)
        self.matrix.setUp()
        self.preconditioner = preconditioner

    def check_form(self, values: Any) -> Exception | None:
        """Return an InputError for values that are neither None nor a real tensor, else None."""
        if values is None or is_real_tensor(values):
            return None
        return InputError(
            "a function operator's values are None or a real floating-point tensor, not "
            f"{type(values).__name__}"
        )

    def check_numbers(self, host: Array | None) -> Exception | None:
        """Return an InputError for values that are not finite, else None."""
        if host is not None and has_bad_numbers(host):
            return InputError(
                "the operator's values hold NaN or infinity: look at what produced them"
            )
        return None

    def check_preconditioner(self, pc: str) -> None:
        """Raise an InputError for Jacobi without a diagonal, before PETSc fails in a set-up."""
        if pc == "jacobi" and self.diagonal is None and self.preconditioner is None:
            raise InputError(
                "pc='jacobi' needs the operator's diagonal: pass FunctionOperator(diagonal=...), "
                "or use pc='none'"
            )

    def _put(self, host: Array | None) -> None:
        # The private copy, which no other code writes to.
        self.values = None if host is None else torch.from_numpy(self.loaded.copy)
        self.matrix.assemble()
        self.matrix.stateIncrease()

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """Return `−∂(λᵀ A(values) x)/∂values` by torch, summed over the batch."""
        gradient = gradient_of(partial(_rows, self.apply), 0)
        return -recomputed(gradient, in_double(values), solution, adjoint)

    def tangent_product(
        self, values: Tensor, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """Return the derivative of `A(values) x` along a tangent of the values, by torch."""
        function = partial(_rows, self.transposed if transposed else self.apply)
        return recomputed(tangent_of(function, 0), in_double(values), x, in_double(tangent))

    def diagonal_of(self, values: Any) -> Tensor:
        """Return the result of `diagonal`, in double precision on the host."""
        assert self.diagonal is not None, "checked when the solver was made"
        return self.diagonal(None if values is None else in_double(values))

    def transposed(self, values: Any, y: Tensor) -> Tensor:
        """Return `A(values)ᵀ y`, by `apply_transpose` or by torch's derivative of `apply`."""
        if self.apply_transpose is not None:
            return self.apply_transpose(values, y)
        return gradient_of(partial(self._recorded, values), 0)(torch.zeros_like(y), y)

    def _recorded(self, values: Any, x: Tensor) -> Tensor:
        """`A(values) x`, recorded for the derivative in x."""
        result = self.apply(values, x)
        _check_result("apply", result, self.n_local)
        if not result.requires_grad:
            raise InputError(
                "torch recorded no operation of this function operator's apply (does it use NumPy, "
                "or detach x?), so its transpose cannot be derived: give "
                "FunctionOperator(apply_transpose=...)"
            )
        return result


def _rows(function: Apply, values: Tensor, x: Tensor) -> Tensor:
    """Apply a function of vectors to each row of a batch."""
    return torch.stack([function(values, row) for row in x])


def _check_result(name: str, result: Any, n_local: int) -> None:
    """Raise an InputError unless a user's function returned this rank's part of a vector."""
    if is_real_tensor(result) and tuple(result.shape) == (n_local,):
        return
    what = type(result).__name__
    if isinstance(result, Tensor):
        what = f"a tensor of {result.dtype} and shape {tuple(result.shape)}"
    raise InputError(
        f"{name} of a function operator must return a tensor of real floating-point numbers of "
        f"shape ({n_local},), not {what}"
    )


class _Context:
    """The callbacks of a PETSc shell matrix; PETSc manual page: MATPYTHON.

    PETSc replaces an exception in a callback by its own error, so the operator keeps the exception
    for the solver.
    """

    def __init__(self, operator: FunctionOperator) -> None:
        # The operator owns the matrix, and the matrix owns this object: a strong reference to the
        # operator would be a cycle through PETSc, which is never freed.
        self._operator = weakref.ref(operator)

    @property
    def operator(self) -> FunctionOperator:
        operator = self._operator()
        assert operator is not None, "the matrix is used after its operator was freed"
        return operator

    def _put(self, compute: Callable[[], Tensor], name: str, y: PETSc.Vec) -> None:
        try:
            with torch.no_grad():
                result = compute()
            _check_result(name, result, self.operator.n_local)
            y.setArray(to_host(result))
        except BaseException as error:
            self.operator.failure = error
            raise

    def mult(self, mat: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        argument = torch.from_numpy(x.getArray(readonly=True).copy())
        self._put(lambda: self.operator.apply(self.operator.values, argument), "apply", y)

    def multTranspose(self, mat: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:  # noqa: N802 - PETSc's name
        argument = torch.from_numpy(x.getArray(readonly=True).copy())
        self._put(
            lambda: self.operator.transposed(self.operator.values, argument), "apply_transpose", y
        )

    def getDiagonal(self, mat: PETSc.Mat, d: PETSc.Vec) -> None:  # noqa: N802 - PETSc's name
        diagonal = self.operator.diagonal
        assert diagonal is not None, "checked when the solver was made"
        self._put(lambda: diagonal(self.operator.values), "diagonal", d)
