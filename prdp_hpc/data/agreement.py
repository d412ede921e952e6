"""Check that a data set was generated with the coefficients of a PDE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def check_spacing(data: Any, spacing: Sequence[float], path: str) -> None:
    """Raise `DataError` if the points of a data set have another spacing than those of the grid.
    Data sets without the attribute `spacing` are not checked.
    """
    found = getattr(data, "spacing", None)
    if found is None or len(found) != len(spacing):
        return
    for axis, (one, wanted) in enumerate(zip(found, spacing, strict=True)):
        # Coordinates of float32 are exact to about 1e-7 of their largest value.
        if abs(one - wanted) > 1e-3 * wanted:
            raise DataError(
                f"{path}: along axis {axis} its points are {one:.6g} apart, but those of the grid "
                f"{wanted:.6g}: multiply grid.length of this axis by {one / wanted:.6g}, or give "
                "another data.file"
            )


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
            f"{wanted:g}: give physics.{name}={found / factor:.8g}, or another data.file"
        )
