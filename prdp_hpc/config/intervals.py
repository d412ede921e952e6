"""Intervals of training: `2` (epochs), "500 steps" or "10 minutes"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Strict

from prdp_hpc.errors import InputError

UNITS = ("epochs", "steps", "minutes")
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(epoch|step|minute)s?\s*")


@dataclass(frozen=True)
class Interval:
    """A number of epochs, of steps of the optimiser, or of minutes.

    `number` is an integer unless `unit` is "minutes".
    """

    number: float
    unit: str

    def __str__(self) -> str:
        return f"{self.number:g} {self.unit if self.number != 1 else self.unit[:-1]}"


def interval(value: int | str, units: tuple[str, ...] = UNITS) -> Interval:
    """The interval of a text such as "500 steps"; a number counts epochs.

    Raises `InputError` for anything else, and for a unit that is not one of `units`.
    """
    match = _TEXT.fullmatch(f"{value} epochs" if type(value) is int else str(value))
    unit = "" if match is None else f"{match[2]}s"
    number = 0.0 if match is None else float(match[1])
    whole = unit == "minutes" or number.is_integer()
    if unit not in units or not whole or not 0 < number < math.inf:
        examples = {"epochs": "2 (epochs)", "steps": '"500 steps"', "minutes": '"10 minutes"'}
        known = " or ".join(examples[name] for name in units)
        raise InputError(f"must be an interval such as {known}, not {value!r}")
    return Interval(number if unit == "minutes" else int(number), unit)


def _in_steps(value: int | str) -> int | str:
    interval(value, ("epochs", "steps"))
    return value


def _in_time(value: int | str) -> int | str:
    interval(value)
    return value


Every = Annotated[Annotated[int, Strict()] | str, AfterValidator(_in_steps)]
"""Type of a key: a number of epochs, or a text with a number of epochs or steps."""
EveryOrTime = Annotated[Annotated[int, Strict()] | str, AfterValidator(_in_time)]
"""Type of a key: as `Every`, or a text with a number of minutes."""
