"""Preconditioners that are functions of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.torch_petsc import to_host

Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ShellPreconditioner:
    """A preconditioner `M⁻¹ ≈ A⁻¹` that is given by functions.

    It is passed to a solver in place of a name: `Solver("gmres", ShellPreconditioner(apply))`. An
    exception in one of the functions is raised unchanged by `solve` or `backward`.

    Parameters
    ----------
    apply : callable
        `apply(r) -> z` with `z ≈ A⁻¹ r`; r and z are this rank's parts, float64 tensors of shape
        `(n_local,)`. Collective if it communicates. It must be linear in r, unless the Krylov
        method is a flexible one ("fgmres"). It is called without recording gradients.
    apply_transpose : callable, optional
        `apply_transpose(r) -> M⁻ᵀ r ≈ A⁻ᵀ r`. Adjoint solves of a matrix that is not symmetric need
        it and raise an `InputError` without it. Adjoint solves of a symmetric operator use `apply`.

    Raises
    ------
    InputError
        If an argument is not callable; in a solve, for a result of another shape.

    Notes
    -----
    PETSc manual page: PCSHELL.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import ShellPreconditioner, Solver, SparseOperator, solve
    >>> diagonal = torch.tensor([2.0, 4.0]).double()
    >>> jacobi = ShellPreconditioner(lambda r: r / diagonal, lambda r: r / diagonal)
    >>> operator = SparseOperator([0, 1], [0, 1], (2, 2))
    >>> solve(operator, diagonal, torch.ones(2).double(), Solver("gmres", jacobi))
    tensor([0.5000, 0.2500], dtype=torch.float64)
    """

    apply: Apply
    apply_transpose: Apply | None = None

    def __post_init__(self) -> None:
        for name in ("apply", "apply_transpose"):
            function = getattr(self, name)
            if not callable(function) and not (name == "apply_transpose" and function is None):
                raise InputError(f"{name} must be a function of the residual, not {function!r}")


class ShellContext:
    """A `ShellPreconditioner` in PETSc's interface for PCs in Python."""

    def __init__(self, functions: ShellPreconditioner) -> None:
        self._functions = functions

    def apply(self, pc: Any, x: Any, y: Any) -> None:
        """`y = M⁻¹ x`."""
        _put("apply", self._functions.apply, x, y)

    def applyTranspose(self, pc: Any, x: Any, y: Any) -> None:  # noqa: N802 - PETSc's name
        """`y = M⁻ᵀ x`."""
        function = self._functions.apply_transpose
        if function is None:
            raise missing_transpose()
        _put("apply_transpose", function, x, y)


def missing_transpose() -> InputError:
    """The error for an adjoint solve that needs a transpose which was not given."""
    return InputError(
        "the adjoint solve of a matrix that is not symmetric needs the transpose of the "
        "preconditioner: pass ShellPreconditioner(apply, apply_transpose), or symmetric=True to an "
        "operator that is"
    )


def _put(name: str, function: Apply, x: Any, y: Any) -> None:
    residual = torch.from_numpy(np.array(x.getArray(readonly=True)))
    with torch.no_grad():
        result = function(residual)
    if not isinstance(result, Tensor) or result.shape != residual.shape:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise InputError(
            f"{name} of a ShellPreconditioner must return a tensor of shape "
            f"{tuple(residual.shape)}, not {shape}"
        )
    y.setArray(to_host(result))
