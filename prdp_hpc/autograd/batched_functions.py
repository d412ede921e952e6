"""Custom autograd functions on the batches that torch makes by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_torch: Any = torch


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """`function.apply(*arguments)`, for functions of one result that have a `vmap` rule.

    `torch.func.vmap` asks for the rule by itself. The older batches of `torch.autograd.grad(...,
    is_grads_batched=True)` and of `torch.autograd.functional` with `vectorize=True` do not: a
    custom function would get a tensor without memory. They are taken apart here, given to the same
    rule, and put together again.
    """
    for level in range(_nesting(), 0, -1):
        rows = [_rows(argument, level) for argument in arguments]
        size = next((len(row) for row in rows if row is not None), 0)
        if size:
            in_dims = tuple(None if row is None else 0 for row in rows)
            given = [a if row is None else row for a, row in zip(arguments, rows, strict=True)]
            info = SimpleNamespace(batch_size=size, randomness="error")
            result, dim = function.vmap(info, in_dims, *given)
            wrapped: Tensor = _torch._add_batch_dim(result, dim, level)
            return wrapped
    if not _is_recorded(arguments):
        # What `Function.apply` would do, without its look at signatures and contexts, which take as
        # long as a small solve.
        with torch.no_grad():
            plain: Tensor = function.forward(*arguments)
        return plain
    recorded: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return recorded


def _is_recorded(arguments: tuple[Any, ...]) -> bool:
    """Whether a derivative of any kind may be asked for."""
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return True
    in_forward_mode = torch.autograd.forward_ad._current_level >= 0
    return in_forward_mode or bool(_torch._C._are_functorch_transforms_active())


def _nesting() -> int:
    """How many of the older batches are being computed, one inside the other."""
    level = int(_torch._C._vmapmode_increment_nesting()) - 1
    _torch._C._vmapmode_decrement_nesting()
    return level


def _rows(argument: Any, level: int) -> Tensor | None:
    """The rows of a tensor that is a batch of this level; None for everything else."""
    if not isinstance(argument, Tensor):
        return None
    # One that is no batch of this level comes back as 0 rows.
    rows: Tensor = _torch._remove_batch_dim(argument, level, 0, 0)
    return rows if len(rows) else None


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor stands for a batch or a level of torch.func, so that it has no memory of its
    own.
    """
    return torch.func.debug_unwrap(tensor) is not tensor or any(
        _rows(tensor, level) is not None for level in range(_nesting(), 0, -1)
    )
