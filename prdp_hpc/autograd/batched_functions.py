"""Custom autograd functions in torch's legacy batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.compiled import is_compiling, not_compiled
from prdp_hpc.autograd.transforms import are_transforms_active
from prdp_hpc.errors import InputError

_torch: Any = torch
_increment_nesting = _torch._C._vmapmode_increment_nesting
_decrement_nesting = _torch._C._vmapmode_decrement_nesting
_forward_ad: Any = torch.autograd.forward_ad
_set_grad_enabled = _torch._C._set_grad_enabled
_tracing_state = _torch._C._get_tracing_state
_dispatch_mode = _torch._C._get_dispatch_mode
_PROXY = _torch._C._TorchDispatchModeKey.PROXY


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """`function.apply(*arguments)`, for functions of one result that have a `vmap` rule.

    `torch.func.vmap` calls the rule itself. The legacy batches of `torch.autograd.grad(...,
    is_grads_batched=True)` and of `torch.autograd.functional` with `vectorize=True` do not: a
    custom function would receive a tensor without memory. Here such a batch is unpacked, passed to
    the same rule, and packed again.
    """
    if is_compiling():
        uncompiled: Tensor = _uncompiled(function, *arguments)
        return uncompiled
    refuse_tracing()
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
    if are_transforms_active():
        transformed: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
        return transformed
    # Without the inspection of signatures in `Function.apply`, which takes as long as a small
    # solve, because it fills in default arguments, of which there are none.
    is_enabled = torch.is_grad_enabled()
    if not ((is_enabled and _require_grad(arguments)) or _forward_ad._current_level >= 0):
        return _unrecorded(function, arguments, is_enabled)
    arguments = _torch._functorch.utils.unwrap_dead_wrappers(arguments)
    base = super(torch.autograd.Function, function)
    recorded: Tensor = base.apply(*arguments)  # type: ignore[attr-defined]
    return recorded


_uncompiled = not_compiled(apply)


def refuse_tracing() -> None:
    """Raise an InputError while torch traces operations to repeat them later.

    A trace has only operations of torch, so that it would hold the result of a solve, or of a
    message between ranks, as a constant.
    """
    if _tracing_state() is not None or _dispatch_mode(_PROXY) is not None:
        raise InputError(
            "solves and messages between ranks cannot be traced by torch (torch.jit.trace, "
            "torch.func.linearize, make_fx), because a trace would hold their results as "
            "constants: call the function itself, and use torch.func.jvp in place of linearize"
        )


def _unrecorded(
    function: type[torch.autograd.Function], arguments: tuple[Any, ...], is_enabled: bool
) -> Tensor:
    """The result without a graph. `torch.no_grad()` takes ten times as long as these two calls."""
    if is_enabled:
        _set_grad_enabled(False)
    try:
        plain: Tensor = function.forward(*arguments)
    finally:
        if is_enabled:
            _set_grad_enabled(True)
    return plain


def _require_grad(arguments: tuple[Any, ...]) -> bool:
    # A loop, because a generator takes several times as long.
    for argument in arguments:  # noqa: SIM110
        if isinstance(argument, Tensor) and argument.requires_grad:
            return True
    return False


def _nesting() -> int:
    """The nesting depth of legacy batches."""
    level: int = _increment_nesting() - 1
    _decrement_nesting()
    return level


def _rows(argument: Any, level: int) -> Tensor | None:
    """The rows of a tensor that is a batch of this level, else None."""
    if not isinstance(argument, Tensor):
        return None
    # A tensor that is not a batch of this level is returned as 0 rows.
    rows: Tensor = _torch._remove_batch_dim(argument, level, 0, 0)
    return rows if len(rows) else None


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor is a wrapper of a batch or a level of torch.func, without memory."""
    if torch.func.debug_unwrap(tensor) is not tensor:
        return True
    nesting = _nesting()
    return nesting > 0 and any(_rows(tensor, level) is not None for level in range(nesting, 0, -1))
