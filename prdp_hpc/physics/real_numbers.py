"""Checks that an argument is one real number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.transforms import numbers_of_all
from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import is_number


def not_one_number(name: str, value: Any) -> InputError | None:
    """The error for an argument that is not one real number, a float or a tensor, or None."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and has_real_numbers(value):
            return None
        what = f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    elif is_number(value):
        return None
    else:
        what = f"a {type(value).__name__}"
    return InputError(f"{name} must be one real number, not {what}")


def not_constant(name: str, value: Any) -> InputError | None:
    """As `not_one_number`, for an argument with respect to which there is no gradient."""
    if isinstance(value, Tensor) and value.requires_grad:
        return InputError(
            f"there is no gradient with respect to {name}: pass a number, or {name}.detach()"
        )
    return not_one_number(name, value)


def has_real_numbers(tensor: Tensor) -> bool:
    """Whether the entries of a tensor are real numbers, which truth values are not."""
    return not tensor.is_complex() and tensor.dtype != torch.bool


def checked_time(time: Any) -> Any:
    """Return the time of a state, a number, a tensor or None; InputError for anything else."""
    error = None if time is None else not_one_number("time", time)
    if error is not None:
        raise error
    return time


def as_float(value: Any) -> float:
    """Such an argument as a float, without its gradient."""
    if not isinstance(value, Tensor):
        return float(value)
    numbers = numbers_of_all(value)
    if numbers.numel() != 1:
        raise InputError(
            "a number of a PDE cannot differ between the slices of torch.func.vmap: call the PDE "
            "once for each of its values"
        )
    return float(numbers)


def checked_dt(dt: float | Tensor) -> float | Tensor:
    """Return a time step, a float or a tensor; InputError unless it is positive and finite."""
    error = validate_dt(dt)
    if error is not None:
        raise error
    return dt if isinstance(dt, Tensor) else as_float(dt)


def validate_dt(dt: Any) -> InputError | None:
    """The error for a time step that is not positive and finite, or None."""
    error = not_one_number("the time step dt", dt)
    if error is None and not 0 < as_float(dt) < math.inf:
        error = InputError(f"the time step dt must be positive and finite, not {dt!r}")
    return error
