"""Check that a data set has the grid and the coefficients of a PDE."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prdp_hpc.data.joined import JoinedTrajectories
from prdp_hpc.data.layout import DataError
from prdp_hpc.data.windowed import dataset_name, windowed

OTHER_NAMES = {"viscosity": (("nu", 1.0),), "diffusivity": (("diffusivity_times_dt", "dt"),)}
"""Names of the same coefficients in the files of the paper's authors. Each has the factor of the
value there, or the name of the coefficient that is this factor.
"""


def check_agreement(
    data: Any, numbers: Mapping[str, float], shape: Sequence[int], spacing: Sequence[float]
) -> None:
    """Raise `DataError` if a data set has another grid, or other coefficients, than the PDE.

    Parameters
    ----------
    data : the data set, of which the optional attributes `shape`, `spacing` and `attributes` are
        compared.
    numbers : the coefficients of the PDE.
    shape : points of the grid per axis.
    spacing : their distance per axis.
    """
    name = dataset_name(data)
    _check_attributes(data, name)
    check_shape(data, shape, name)
    check_numbers(data, numbers, name)
    check_spacing(data, spacing, name)


def _check_attributes(data: Any, path: str) -> None:
    """Raise `DataError` for optional attributes of a user's data set that are of another kind."""
    for name, kind, wanted in (
        ("attributes", Mapping, "a mapping from names to numbers"),
        ("groups", Collection, "names of groups, e.g. ('train', 'validation')"),
        ("shape", Collection, "the points of the grid per axis, e.g. (64, 64)"),
        ("spacing", Collection, "the distance of the points per axis, e.g. (0.1, 0.1)"),
    ):
        found = getattr(data, name, None)
        if found is None and (name in ("shape", "spacing") or not hasattr(data, name)):
            continue
        if isinstance(found, str) or not isinstance(found, kind):
            raise DataError(f"{path}: {name} must be {wanted}, not {found!r}")


def check_shape(data: Any, shape: Sequence[int], path: str) -> None:
    """Raise `DataError` if a data set has another number of points than the grid. Data sets without
    the attribute `shape` are not checked.
    """
    found = getattr(data, "shape", None)
    if found is not None and tuple(found) != tuple(shape):
        raise DataError(
            f"{path}: its states have {tuple(found)} points, but the grid has {tuple(shape)}: make "
            "the grid with this shape, or give other data"
        )


def check_numbers(data: Any, numbers: Mapping[str, float], path: str) -> None:
    """Raise `DataError` if a coefficient in the attributes of a data set differs from the PDE's.
    Attributes may be missing. Of joined data sets each is compared.
    """
    inner = windowed(data).data
    for part in inner.parts if isinstance(inner, JoinedTrajectories) else ():
        check_numbers(part, numbers, dataset_name(part))
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
