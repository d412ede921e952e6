"""The Well: `<set>/data/{train,valid,test}/*.hdf5`, many files per group.

    root           attributes dataset_name, grid_type, simulation_parameters and their values
    dimensions     attribute spatial_dims; time, x, y…
    boundary_conditions/<name>   attributes associated_dims, bc_type
    t0_fields, t1_fields, t2_fields   scalars (B, T, x, y[, z]), vectors (…, D), tensors (…, D, D)

Each field has the attributes `sample_varying`, `time_varying` and `dim_varying`: an axis for which
they are false does not exist in the array.

Source: Ohana et al., The Well, NeurIPS 2024, and its description of the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.formats.coordinates import check_times, spacing, spacings
from prdp_hpc.data.formats.files import NAMES, files_of, files_of_groups
from prdp_hpc.data.formats.hdf5_files import dataset, plain, reading
from prdp_hpc.data.formats.source import About, Slices, Source, check_type
from prdp_hpc.data.formats.trajectories import FormatTrajectories
from prdp_hpc.data.layout import DataError

RANKS = {"t0_fields": 0, "t1_fields": 1, "t2_fields": 2}
"""Number of component axes of the fields in each group."""


class TheWell(FormatTrajectories):
    """Data of The Well: a folder with `data/{train,valid,test}`, or some of its files.

    Vectors and tensors become one channel per component, e.g. velocity_x. Fields that are constant
    in time are not among the channels by default, but can be selected by `channels`.
    """

    suffixes = (".hdf5", ".h5")

    @classmethod
    def sources_of_groups(
        cls, path: str | Path, shape: Sequence[int] | None, keys: dict[str, Any]
    ) -> dict[str, Sequence[Source]]:
        """Open the files of each folder; with the key `parameters` only those with these values."""
        wanted: Mapping[str, float] = keys.get("parameters") or {}
        found: dict[str, Sequence[Source]] = {}
        for group, files in _files(Path(path), cls.suffixes).items():
            chosen = [file for file in files if _has_parameters(file, wanted)]
            if not chosen:
                there = sorted({_parameters_of(file) for file in files})
                raise DataError(
                    f"{path}: no file of the group {group} has data.format.parameters="
                    f"{dict(wanted)}; there are {'; '.join(there[:8])}"
                )
            found[group] = [cls.source(file) for file in chosen]
        return found

    @classmethod
    def source(cls, file: Path, **keys: Any) -> Source:
        """Open a file."""
        return WellSource(file)


@dataclass(frozen=True)
class Component:
    """One component of a field: its data set, its indices, and the axes that the array has."""

    stored: str
    indices: tuple[int, ...]
    sample_varying: bool
    time_varying: bool
    dim_varying: tuple[bool, ...]

    def read(self, file: h5py.File, trajectory: int, states: slice, part: Slices) -> NDArray[Any]:
        """The component, `(states, *part)`; missing axes are repeated without a copy."""
        index: list[Any] = [trajectory] if self.sample_varying else []
        index += [states] if self.time_varying else []
        index += [one for one, varies in zip(part, self.dim_varying, strict=True) if varies]
        found: NDArray[Any] = file[self.stored][(*index, *self.indices)]
        shape = (
            found.shape[0] if self.time_varying else 1,
            *(
                one.stop - one.start if varies else 1
                for one, varies in zip(part, self.dim_varying, strict=True)
            ),
        )
        count = len(range(states.start, states.stop, states.step))
        whole = (count, *(one.stop - one.start for one in part))
        return np.broadcast_to(found.reshape(shape), whole)


class WellSource(Source):
    """One file of The Well."""

    advice = "select files of one PDE by data.format.parameters"

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path) as file:
            dims = self._dimensions(file)
            self._components = self._all_components(file, dims)
            axes = [f"{path}: dimensions/{axis}" for axis in dims]
            coordinates = [self._coordinates(file, axis) for axis in dims]
            points = tuple(len(one) for one in coordinates)
            time = np.atleast_1d(dataset(file, "dimensions/time", "(T,) times")[()])
            # One row for each trajectory, or for all.
            self._times = time.reshape(-1, time.shape[-1])
            times = self._times[0]
            trajectories = self._trajectories(file)
            expected = (trajectories, len(times), *points)
            for one in self._components.values():
                self._check(file, one, expected)
            varying = [n for n, one in self._components.items() if one.time_varying]
            self.about = About(
                trajectories=trajectories,
                states=len(times),
                points=points,
                channels=tuple(varying),
                others=tuple(name for name in self._components if name not in varying),
                spacing=spacings(coordinates, axes),
                numbers={**_time_step(times, path), **_coefficients(file)},
                details=_details(file),
                boundary=_boundary(file, dims),
            )

    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read a part of some states, as stored."""
        if len(self._times) > 1 and "dt" in self.about.numbers:
            name = f"{self.path}: {self.name(trajectory)}"
            check_times(self._times[trajectory], self.about.numbers["dt"], name)
        with reading(self.path) as file:
            found = [
                self._components[name].read(file, trajectory, states, part) for name in channels
            ]
        return np.stack(found, axis=1)

    def _dimensions(self, file: h5py.File) -> list[str]:
        group = file.get("dimensions")
        if group is None or "spatial_dims" not in group.attrs:
            content = ", ".join(sorted(file)[:10]) or "nothing"
            raise DataError(
                f"{self.path}: is not a file of The Well, because it has no group dimensions with "
                f"the attribute spatial_dims; it contains: {content}"
            )
        grid = plain(file.attrs.get("grid_type", "cartesian"))
        if grid != "cartesian":
            raise DataError(f"{self.path}: has a {grid} grid, but a cartesian one is needed")
        return [str(name) for name in np.ravel(plain(group.attrs["spatial_dims"]))]

    def _coordinates(self, file: h5py.File, axis: str) -> NDArray[Any]:
        found = dataset(file, f"dimensions/{axis}", "the coordinates of an axis")
        if plain(found.attrs.get("time_varying", False)):
            raise DataError(f"{self.path}: the grid moves along {axis}, which is not supported")
        stored = np.asarray(found[()])
        first: NDArray[Any] = stored.reshape(-1, stored.shape[-1])[0]
        if stored.ndim > 1 and not (stored == first).all():
            raise DataError(
                f"{self.path}: the coordinates {axis} differ between trajectories, which is not "
                "supported"
            )
        return first

    def _all_components(self, file: h5py.File, dims: list[str]) -> dict[str, Component]:
        found = {}
        for group, rank in RANKS.items():
            for name in _names(file, group):
                stored = dataset(file, f"{group}/{name}", "a field")
                check_type(stored.dtype, f"{self.path}: data set {group}/{name}")
                flags = [bool(one) for one in np.ravel(stored.attrs.get("dim_varying", True))]
                dim_varying = flags * len(dims) if len(flags) == 1 else flags
                for indices in np.ndindex(*(len(dims),) * rank):
                    words = "".join(dims[i] for i in indices)
                    found[f"{name}_{words}" if rank else name] = Component(
                        f"{group}/{name}",
                        indices,
                        bool(stored.attrs.get("sample_varying", True)),
                        bool(stored.attrs.get("time_varying", True)),
                        tuple(dim_varying),
                    )
        if not found:
            raise DataError(f"{self.path}: has no fields in {', '.join(RANKS)}")
        return found

    def _trajectories(self, file: h5py.File) -> int:
        for one in self._components.values():
            if one.sample_varying:
                return int(file[one.stored].shape[0])
        return int(file.attrs.get("n_trajectories", 1))

    def _check(self, file: h5py.File, one: Component, expected: tuple[int, ...]) -> None:
        varies = (one.sample_varying, one.time_varying, *one.dim_varying)
        shape = file[one.stored].shape
        wanted = [n for n, there in zip(expected, varies, strict=False) if there]
        if len(varies) != len(expected) or list(shape[: len(shape) - len(one.indices)]) != wanted:
            raise DataError(
                f"{self.path}: data set {one.stored} has shape {shape}, expected {tuple(wanted)} "
                f"(by its attributes sample_varying, time_varying and dim_varying) and "
                f"{len(one.indices)} axes of components"
            )


def _files(path: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    for root in (path / "data", path):
        found = {
            group: files_of(root / name, suffixes)
            for group, names in NAMES.items()
            for name in names
            if (root / name).is_dir() and any((root / name).iterdir())
        }
        if found:
            return found
    return files_of_groups(path, suffixes)


def _names(file: h5py.File, group: str) -> list[str]:
    """The names of the fields in a group, in the order of the attribute `field_names`."""
    if group not in file:
        return []
    there = [name for name, one in file[group].items() if isinstance(one, h5py.Dataset)]
    listed = [str(name) for name in np.ravel(plain(file[group].attrs.get("field_names", [])))]
    return [name for name in listed if name in there] + sorted(set(there) - set(listed))


def _parameters(file: h5py.File) -> dict[str, Any]:
    names = np.ravel(plain(file.attrs.get("simulation_parameters", [])))
    return {str(name): plain(file.attrs.get(str(name))) for name in names}


def _has_parameters(path: Path, wanted: Mapping[str, float]) -> bool:
    if not wanted:
        return True
    with reading(path) as file:
        found = _parameters(file)
    return all(
        isinstance(found.get(name), int | float) and abs(found[name] - value) <= 1e-6 * abs(value)
        for name, value in wanted.items()
    )


def _parameters_of(path: Path) -> str:
    with reading(path) as file:
        return ", ".join(f"{name}: {value}" for name, value in _parameters(file).items()) or "none"


def _time_step(times: NDArray[Any], path: Path) -> dict[str, float]:
    return {"dt": spacing(times, f"{path}: dimensions/time")} if len(times) > 1 else {}


def _coefficients(file: h5py.File) -> dict[str, float]:
    """The viscosity of the set `shear_flow`: ν = 1 / Reynolds."""
    reynolds = _parameters(file).get("Reynolds")
    name = plain(file.attrs.get("dataset_name", ""))
    return {"viscosity": 1 / float(reynolds)} if name == "shear_flow" and reynolds else {}


def _details(file: h5py.File) -> dict[str, Any]:
    name = str(plain(file.attrs.get("dataset_name", "")))
    # Ours has the velocities on a staggered grid, these are at the points of the pressure.
    pde = {"pde": "navier_stokes"} if name == "shear_flow" else {}
    return {"dataset_name": name, **_parameters(file), **pde}


def _boundary(file: h5py.File, dims: Sequence[str]) -> tuple[str, ...]:
    """The boundary per axis: periodic, wall or open; open where nothing is declared."""
    found = dict.fromkeys(dims, "open")
    for one in file.get("boundary_conditions", {}).values():
        kind = str(plain(one.attrs.get("bc_type", "open"))).lower()
        for axis in np.ravel(plain(one.attrs.get("associated_dims", []))):
            if str(axis) in found:
                found[str(axis)] = kind
    return tuple(found[axis] for axis in dims)
