"""Checks that an argument is a number in the range that it must be in."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeGuard

from prdp_hpc.errors import InputError


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is one real number of Python or NumPy; `True` and `False` are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer of Python or NumPy; `True` and `False` are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise `InputError` unless `value` is an integer, also of NumPy, of at least `least`."""
    error = count_error(name, value, least)
    if error is not None:
        raise error


def count_error(name: str, value: Any, least: int = 1) -> InputError | None:
    """The error of `check_count`, or None; for ranks that raise together."""
    if is_integer(value) and int(value) >= least:
        return None
    return InputError(f"{name} must be an integer of at least {least}, not {value!r}".lstrip())


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Raise `InputError` unless `value` is a finite number within the given bounds.

    Parameters
    ----------
    name : name of the argument, at the beginning of the message; empty if the caller adds it.
    value : what was given.
    above, below : bounds that are not allowed themselves.
    least, most : bounds that are allowed.
    """
    outside = (
        not (is_number(value) and math.isfinite(value))
        or (above is not None and value <= above)
        or (least is not None and value < least)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    )
    if outside:
        wanted = _bounds(above=above, least=least, below=below, most=most)
        raise InputError(f"{name} must be a finite number{wanted}, not {value!r}".lstrip())


def _bounds(**bounds: float | None) -> str:
    """The bounds of a number as the end of a noun, e.g. " above 0 and at most 1"."""
    words = {"above": "above", "least": "at least", "below": "below", "most": "at most"}
    given = [f"{words[name]} {bound:g}" for name, bound in bounds.items() if bound is not None]
    if given and given[0].startswith("at "):
        given[0] = f"of {given[0]}"
    return " " + " and ".join(given) if given else ""
