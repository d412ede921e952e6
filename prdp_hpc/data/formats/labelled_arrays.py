"""Arrays with named axes, read by xarray: netCDF and Zarr.

variables      any; each is one channel, or several along an axis of channels
axes           by name: sample, time, channel, x, y, z, or the names in `dims`
coordinates    of the axes of time and space; they are optional
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.formats.coordinates import spacing, spacings
from prdp_hpc.data.formats.hdf5_files import plain
from prdp_hpc.data.formats.source import About, Slices, Source, check_type
from prdp_hpc.data.formats.trajectories import FormatTrajectories
from prdp_hpc.data.layout import DataError
from prdp_hpc.errors import InputError

AXES = ("sample", "time", "channel", "z", "y", "x")
COEFFICIENTS = ("dt", "diffusivity", "viscosity", "nu")
"""Attributes in which all files must agree."""


class NetCDF(FormatTrajectories):
    """Files of netCDF 4.

    Numbers are unpacked by `scale_factor` and `add_offset`. Attributes with a single number, e.g.
    `dt`, are compared with the PDE's.
    """

    suffixes = (".nc", ".nc4", ".netcdf")
    engine: ClassVar[str] = "h5netcdf"

    @classmethod
    def source(cls, file: Path, **keys: Any) -> Source:
        """Open a file."""
        return LabelledSource(file, cls.engine, **keys)


class Zarr(FormatTrajectories):
    """Zarr stores, which are folders."""

    suffixes = (".zarr",)
    are_folders = True
    engine: ClassVar[str] = "zarr"

    @classmethod
    def source(cls, file: Path, **keys: Any) -> Source:
        """Open a store."""
        return LabelledSource(file, cls.engine, **keys)


class LabelledSource(Source):
    """One data set of xarray, of which nothing is read before it is needed."""

    def __init__(
        self,
        path: Path,
        engine: str,
        variables: Sequence[str] | None = None,
        dims: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> None:
        self.path = path
        self._data = opened_arrays(path, engine, group)
        self._dims = {axis: (dims or {}).get(axis, axis) for axis in AXES}
        self._variables = self._checked_variables(variables)
        sizes = self._sizes()
        self._space = [axis for axis in "xyz" if axis in sizes]
        # Ours increase; some programs store e.g. the latitude from north to south.
        falling = [self._dims[axis] for axis in self._space if _falls(self._coordinates(axis))]
        self._data = self._data.isel(dict.fromkeys(falling, slice(None, None, -1)))
        self._components = {
            name if count == 1 else f"{name}_{i}": (name, i)
            for name in self._variables
            for count in [int(self._data[name].sizes.get(self._dims["channel"], 1))]
            for i in range(count)
        }
        self.about = About(
            trajectories=sizes.get("sample", 1),
            states=sizes["time"],
            points=tuple(sizes[axis] for axis in self._space),
            channels=tuple(self._components),
            spacing=self._spacing(),
            numbers=self._numbers(sizes["time"]),
            details=self._attributes(),
        )

    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read a part of some states."""
        return np.stack(
            [self._component(trajectory, states, name, part) for name in channels], axis=1
        )

    def close(self) -> None:
        """Close the file; reading opens it again."""
        self._data.close()

    def _component(
        self, trajectory: int, states: slice, channel: str, part: Slices
    ) -> NDArray[Any]:
        name, index = self._components[channel]
        variable = self._data[name]
        chosen: dict[str, Any] = {"sample": trajectory, "time": states, "channel": index}
        chosen |= dict(zip(self._space, part, strict=True))
        there = {self._dims[axis]: one for axis, one in chosen.items()}
        own = {axis: one for axis, one in there.items() if axis in variable.dims}
        order = [self._dims[axis] for axis in ("time", *self._space)]
        return np.asarray(variable.isel(own).transpose(*order).to_numpy())

    def _checked_variables(self, given: Sequence[str] | None) -> list[str]:
        time, data = self._dims["time"], self._data
        names = list(given or [str(n) for n, v in data.data_vars.items() if time in v.dims])
        for name in names:
            if name not in data.data_vars:
                raise DataError(
                    f"{self.path}: has no variable {name}: data.format.variables can contain "
                    f"{', '.join(map(str, data.data_vars)) or 'nothing'}"
                )
            self._check_variable(name)
        if not names:
            found = "; ".join(f"{n} {v.dims}" for n, v in data.data_vars.items()) or "no variables"
            raise DataError(
                f"{self.path}: no variable has the axis {time}: name the axis by "
                f"data.format.dims={{time: NAME}}; the file contains {found}"
            )
        return names

    def _check_variable(self, name: str) -> None:
        variable = self._data[name]
        check_type(variable.dtype, f"{self.path}: variable {name}")
        known = set(self._dims.values())
        needed = {self._dims["time"], self._dims["x"]}
        other = [str(axis) for axis in variable.dims if axis not in known]
        if other or not needed <= set(variable.dims):
            raise DataError(
                f"{self.path}: variable {name} has the axes {', '.join(map(str, variable.dims))}: "
                "it needs time and x, and can have sample, channel, y and z: name them by "
                "data.format.dims, e.g. {time: t, x: lon, y: lat}"
            )

    def _sizes(self) -> dict[str, int]:
        named = {dim: axis for axis, dim in self._dims.items() if axis != "channel"}
        kept = [
            {named[dim]: int(n) for dim, n in self._data[name].sizes.items() if dim in named}
            for name in self._variables
        ]
        if any(one != kept[0] for one in kept):
            raise DataError(
                f"{self.path}: the variables {', '.join(self._variables)} must have the same axes: "
                "name some of them by data.format.variables"
            )
        return kept[0]

    def _coordinates(self, axis: str) -> NDArray[Any] | None:
        name = self._dims[axis]
        if name not in self._data.coords:  # it would be 0, 1, 2, …
            return None
        found = self._data.coords[name]
        is_numeric = found.ndim == 1 and found.dtype.kind in "fiu"
        return np.asarray(found.to_numpy()) if is_numeric else None

    def _spacing(self) -> tuple[float, ...] | None:
        names = [f"{self.path}: {self._dims[axis]}" for axis in self._space]
        return spacings([self._coordinates(axis) for axis in self._space], names)

    def _attributes(self) -> dict[str, Any]:
        return {str(name): plain(value) for name, value in self._data.attrs.items()}

    def _numbers(self, states: int) -> dict[str, float]:
        found = {
            name: float(value)
            for name, value in self._attributes().items()
            if name in COEFFICIENTS and isinstance(value, int | float)
        }
        times = self._coordinates("time")
        if times is not None and states > 1:
            found["dt"] = spacing(times, f"{self.path}: {self._dims['time']}")
        return found


def _falls(coordinates: NDArray[Any] | None) -> bool:
    return coordinates is not None and len(coordinates) > 1 and coordinates[-1] < coordinates[0]


def opened_arrays(path: Path, engine: str, group: str | None) -> Any:
    """The data set of xarray; times remain numbers."""
    try:
        xarray: Any = importlib.import_module("xarray")
        importlib.import_module(engine)
    except ImportError as error:
        raise InputError(
            f"{path}: the package {error.name} is needed to read it: pip install "
            "'prdp-hpc[formats]'"
        ) from None
    try:
        return xarray.open_dataset(
            path, engine=engine, group=group, decode_times=False, cache=False, chunks=None
        )
    except Exception as error:  # the engines raise errors of many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read by {engine}: {reason}") from error
