"""Whether a data set was made with the numbers of a PDE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prdp_hpc.data.layout import DataError

OTHER_NAMES = {"viscosity": (("nu", 1.0),), "diffusivity": (("diffusivity_times_dt", "dt"),)}
"""What the files of the paper's authors call the same numbers, and the factor, or the number by
which they are multiplied there.
"""


def check_numbers(data: Any, numbers: Mapping[str, float], path: str) -> None:
    """Raise `DataError` where a data set says another number than the PDE; it may say nothing."""
    said = getattr(data, "attributes", {})
    for name, wanted in numbers.items():
        for other, factor in ((name, 1.0), *OTHER_NAMES.get(name, ())):
            times = numbers.get(factor, 1.0) if isinstance(factor, str) else factor
            _check_number(said.get(other), other, name, wanted, times, path)


def _check_number(
    said: Any, attribute: str, name: str, wanted: float, factor: float, path: str
) -> None:
    try:
        found = float(said)
    except (TypeError, ValueError):
        return
    if abs(found - wanted * factor) > 1e-6 * abs(wanted * factor):
        raise DataError(
            f"{path}: was made with {attribute} = {found:g}, but physics.{name} is {wanted:g}: "
            f"give physics.{name}={found / factor:g}, or another data.file"
        )
