"""Preconditioners that are functions of the user's."""

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
    """A preconditioner `M⁻¹` given by functions, as `Solver("gmres", ShellPreconditioner(apply))`.

    Parameters
    ----------
    apply : `apply(r) -> z ≈ A⁻¹ r`: this rank's part of a residual and of the correction, float64,
        shape `(n_local,)`; collective if it communicates. Linear in r, unless the method is a
        flexible one ("fgmres"). Called without recording gradients.
    apply_transpose : `apply_transpose(r) -> M⁻ᵀ r ≈ A⁻ᵀ r`, which adjoint solves of a matrix that
        is not symmetric need; without it these raise an `InputError`. Adjoint solves of a symmetric
        operator use `apply`.

    An exception in one of the functions comes out of `solve` or `backward` as it is.

    Notes
    -----
    PETSc manual page: PCSHELL.

    Example
    -------
    ::

        inverse = 1.0 / diagonal
        solver = Solver("gmres", ShellPreconditioner(lambda r: inverse * r, lambda r: inverse * r))
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
        "preconditioner: give ShellPreconditioner(apply, apply_transpose), or symmetric=True to an "
        "operator that is"
    )


def _put(name: str, function: Apply, x: Any, y: Any) -> None:
    residual = torch.from_numpy(np.array(x.getArray(readonly=True)))
    with torch.no_grad():
        result = function(residual)
    if not isinstance(result, Tensor) or result.shape != residual.shape:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise InputError(
            f"{name} of a ShellPreconditioner must give a tensor of shape "
            f"{tuple(residual.shape)}, not {shape}"
        )
    y.setArray(to_host(result))
