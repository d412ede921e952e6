"""Checks that an argument is one real number."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import Tensor

from prdp_hpc.errors import InputError


def not_one_number(name: str, value: Any) -> InputError | None:
    """The error for an argument that is not one real number, a float or a tensor, or None."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and not value.is_complex():
            return None
        what = f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    elif isinstance(value, Real):
        return None
    else:
        what = f"a {type(value).__name__}"
    return InputError(f"{name} must be one real number, not {what}")


def as_float(value: Any) -> float:
    """Such an argument as a float, without its gradient."""
    return float(value.detach() if isinstance(value, Tensor) else value)
