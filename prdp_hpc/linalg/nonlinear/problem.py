"""The user's residual, on samples and batches, with its parameters as flat tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.torch_petsc import in_double, is_real_tensor

Residual = Callable[..., Tensor]


class _Slot:
    """The position of a tensor in nested parameters, by its number."""

    def __init__(self, number: int) -> None:
        self.number = number


class Parameters:
    """Nested parameters (tuples, lists, dictionaries), flattened into tensors.

    Real floating-point tensors are differentiable inputs, in double precision on the host; other
    objects are passed unchanged.

    Parameters
    ----------
    given : one tensor, or a tuple or list of the further arguments of the residual.
    per_sample : for each of these, whether its tensors have one entry per sample along their
        first axis; one value for all.

    Attributes
    ----------
    tensors : the tensors, in order.
    per_sample : for each tensor, whether it differs between samples.
    """

    def __init__(self, given: Any, per_sample: bool | Sequence[bool] = False) -> None:
        arguments = tuple(given) if isinstance(given, tuple | list) else (given,)
        flags = [per_sample] * len(arguments) if isinstance(per_sample, bool) else list(per_sample)
        if len(flags) != len(arguments):
            raise InputError(
                f"per_sample has {len(flags)} entries for {len(arguments)} parameters: pass one "
                "per parameter, or one value for all"
            )
        self.tensors: list[Tensor] = []
        self.per_sample: list[bool] = []
        self._tree = []
        for argument, flag in zip(arguments, flags, strict=True):
            self._tree.append(self._taken_apart(argument))
            self.per_sample += [flag] * (len(self.tensors) - len(self.per_sample))

    def _taken_apart(self, node: Any) -> Any:
        if is_real_tensor(node):
            self.tensors.append(in_double(node))
            return _Slot(len(self.tensors) - 1)
        if isinstance(node, dict):
            return {key: self._taken_apart(value) for key, value in node.items()}
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            return type(node)(*(self._taken_apart(value) for value in node))
        if isinstance(node, tuple | list):
            return type(node)(self._taken_apart(value) for value in node)
        return node

    def arguments(self, tensors: Sequence[Tensor]) -> list[Any]:
        """The arguments of the residual, with these tensors in place of the given ones."""
        return [_filled(node, tensors) for node in self._tree]

    def validate_samples(self, count: int | None) -> InputError | None:
        """The error for invalid tensors that differ between `count` samples, or None. `count` is
        None without a batch.
        """
        for tensor, own in zip(self.tensors, self.per_sample, strict=True):
            if own and count is None:
                return InputError("per_sample needs a batch: u0 of shape (B, n_local)")
            if own and (tensor.dim() == 0 or tensor.shape[0] != count):
                return InputError(
                    f"a parameter that differs between samples has shape {tuple(tensor.shape)}: "
                    f"its first axis must have {count} entries, one per sample"
                )
        return None


def _filled(node: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(node, _Slot):
        return tensors[node.number]
    if isinstance(node, dict):
        return {key: _filled(value, tensors) for key, value in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*(_filled(value, tensors) for value in node))
    if isinstance(node, tuple | list):
        return type(node)(_filled(value, tensors) for value in node)
    return node


@dataclass(frozen=True)
class Problem:
    """`F(u, p) = 0` for each sample of a batch.

    Attributes
    ----------
    residual : the user's function.
    parameters : the further arguments, as flat tensors.
    shape : of one sample on this rank, `(n_local,)` or with a grid `(C, *local_shape)`.
    grid : the grid of the fields; None for plain vectors.
    """

    residual: Residual
    parameters: Parameters
    shape: tuple[int, ...]
    grid: Grid | None

    @property
    def n_local(self) -> int:
        """Unknowns of one sample on this rank."""
        return int(torch.Size(self.shape).numel())

    def arguments_of(self, sample: int, tensors: Sequence[Tensor]) -> list[Any]:
        """The parameters of one sample: with a grid those of a batch of one."""
        own = [
            (tensor[sample : sample + 1] if self.grid is not None else tensor[sample])
            if differs
            else tensor
            for tensor, differs in zip(tensors, self.parameters.per_sample, strict=True)
        ]
        return self.parameters.arguments(own)

    def form(self, u: Tensor) -> Tensor:
        """One sample's unknowns `(n_local,)` in the shape of the user's functions."""
        return u if self.grid is None else u.view(1, *self.shape)

    def of_sample(self, sample: int, tensors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """`u (n_local,) ↦ F (n_local,)` of one sample."""
        arguments = self.arguments_of(sample, tensors)
        return lambda u: self._checked(self.residual(self.form(u), *arguments), 1).reshape(-1)

    def of_all(self, u: Tensor, *tensors: Tensor) -> Tensor:
        """The residuals `(B, n_local)` of all samples `u (B, n_local)`."""
        if self.grid is None:
            rows = [self.of_sample(i, tensors)(row) for i, row in enumerate(u)]
            return torch.stack(rows) if rows else u
        fields = u.view(len(u), *self.shape)
        found = self.residual(fields, *self.parameters.arguments(tensors))
        return self._checked(found, len(u)).reshape(u.shape)

    def _checked(self, found: Any, count: int) -> Tensor:
        wanted = self.shape if self.grid is None else (count, *self.shape)
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            what = (
                f"a tensor of shape {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else type(found).__name__
            )
            raise InputError(
                f"the residual must return this rank's part, of the shape {wanted} of the unknowns "
                f"that it receives, not {what}"
            )
        if found.dtype is not torch.float64 or not found.is_cpu:
            raise InputError(
                "the residual must compute in double precision on the host, as the unknowns and "
                f"parameters that it receives: it returned {found.dtype} on {found.device}"
            )
        return found
