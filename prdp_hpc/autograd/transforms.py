"""Code inside the transforms of `torch.func` and of forward-mode derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

_torch: Any = torch
are_transforms_active: Callable[[], bool] = _torch._C._are_functorch_transforms_active
is_wrapped: Callable[[Tensor], bool] = _torch._C._functorch.is_functorch_wrapped_tensor
"""Whether a tensor is a wrapper of a transform of `torch.func`, without memory."""
_forward_ad: Any = torch.autograd.forward_ad


def is_transforming() -> bool:
    """Whether a transform of `torch.func` or a level of forward-mode derivatives is active."""
    is_dual: bool = _forward_ad._current_level >= 0
    return is_dual or are_transforms_active()


def numbers_of_all(tensor: Tensor) -> Tensor:
    """The numbers of a tensor for a check; under `torch.func.vmap` those of all slices."""
    unwrapped: Tensor = torch.func.debug_unwrap(tensor.detach(), recurse=True)
    return unwrapped


def outside_transforms(function: Callable[P, T]) -> Callable[P, T]:
    """The function without the transforms that are active where it is called.

    For parts that are made at their first use and kept: inside a transform their tensors would be
    wrappers without memory, which are dead after it.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not are_transforms_active():
            return function(*args, **kwargs)
        with _torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack():
            return function(*args, **kwargs)

    return call
