"""Check that a data set was generated with the coefficients of a PDE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prdp_hpc.data.layout import DataError

OTHER_NAMES = {"viscosity": (("nu", 1.0),), "diffusivity": (("diffusivity_times_dt", "dt"),)}
"""Names of the same coefficients in the files of the paper's authors. Each has the factor of the
value there, or the name of the coefficient that is this factor.
"""


def check_numbers(data: Any, numbers: Mapping[str, float], path: str) -> None:
    """Raise `DataError` if a coefficient in the attributes of a data set differs from the PDE's.
    Attributes may be missing.
    """
    given = getattr(data, "attributes", {})
    for name, wanted in numbers.items():
        for other, factor in ((name, 1.0), *OTHER_NAMES.get(name, ())):
            times = numbers.get(factor, 1.0) if isinstance(factor, str) else factor
            _check_number(given.get(other), other, name, wanted, times, path)


def _check_number(
    given: Any, attribute: str, name: str, wanted: float, factor: float, path: str
) -> None:
    try:
        found = float(given)
    except (TypeError, ValueError):
        return
    if abs(found - wanted * factor) > 1e-6 * abs(wanted * factor):
        raise DataError(
            f"{path}: was generated with {attribute} = {found:g}, but physics.{name} is "
            f"{wanted:g}: give physics.{name}={found / factor:g}, or another data.file"
        )
