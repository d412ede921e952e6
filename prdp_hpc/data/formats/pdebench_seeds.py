"""PDEBench, one group per seed: diffusion–reaction, shallow water, diffusion–sorption.

0000/data        (T, x[, y], channels)
0000/grid/x, y   cell centres
0000/grid/t      (T,)
0000             attribute config: YAML
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from prdp_hpc.data.formats.coordinates import check_times, spacing, spacings
from prdp_hpc.data.formats.hdf5_files import dataset, plain, reading
from prdp_hpc.data.formats.pdebench_arrays import numbers_as_stored
from prdp_hpc.data.formats.source import About, Slices, Source, check_type
from prdp_hpc.data.layout import BadTrajectoryError, DataError


def is_seeds(file: h5py.File) -> bool:
    """Whether a file has this layout."""
    first = next((name for name in file if name.isdigit()), None)
    return first is not None and "data" in file[first]


class SeedSource(Source):
    """One file with a group per seed, in the order of the seeds.

    The channels are u, v for two of them; otherwise h for shallow water, u for others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path) as file:
            self._checked: set[int] = set()
            self._seeds = sorted((name for name in file if name.isdigit()), key=int)
            first = file[self._seeds[0]]
            shape = self._shape(first)
            config = config_of(first)
            dim = len(shape) - 2
            axes = [f"{path}: {first.name[1:]}/grid/{axis}" for axis in "xyz"[:dim]]
            found = [numbers_as_stored(first, f"grid/{axis}") for axis in "xyz"[:dim]]
            times = numbers_as_stored(first, "grid/t")
            if times is not None and len(times) != shape[0]:
                raise DataError(
                    f"{path}: {first.name[1:]}/grid/t has {len(times)} entries, but data has "
                    f"{shape[0]} states"
                )
            self.about = About(
                trajectories=len(self._seeds),
                states=shape[0],
                points=tuple(shape[1:-1]),
                channels=_channels(shape[-1], path),
                spacing=spacings(found, axes),
                numbers={} if times is None else {"dt": spacing(times, f"{path}: grid/t")},
                details=_parameters(config),
                boundary=("open" if _is_shallow_water(path) else "wall",) * dim,
            )

    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read a part of some states, as stored."""
        chosen = [self.about.channels.index(name) for name in channels]
        with reading(self.path) as file:
            group = file[self._seeds[trajectory]]
            expected = (self.about.states, *self.about.points, len(self.about.channels))
            if self._shape(group) != expected:
                raise BadTrajectoryError(
                    f"{self.path}: data set {group.name[1:]}/data has shape "
                    f"{group['data'].shape}, the first seed has {expected}"
                )
            self._check_times(group, trajectory)
            # All channels of a point are beside each other in the file.
            found: NDArray[Any] = group["data"][(states, *part)]
        return np.moveaxis(found[..., chosen], -1, 1)

    def _check_times(self, group: h5py.Group, trajectory: int) -> None:
        times = None if trajectory in self._checked else numbers_as_stored(group, "grid/t")
        if times is not None and "dt" in self.about.numbers:
            name = f"{self.path}: data set {group.name[1:]}/grid/t"
            check_times(times, self.about.numbers["dt"], name)
        self._checked.add(trajectory)

    def name(self, trajectory: int) -> str:
        """The data set of a trajectory."""
        return f"data set {self._seeds[trajectory]}/data"

    def _shape(self, group: h5py.Group) -> tuple[int, ...]:
        expected = "(states, x[, y[, z]], channels)"
        found = dataset(group, "data", expected)
        check_type(found.dtype, f"{self.path}: data set {found.name[1:]}")
        if not 3 <= found.ndim <= 5 or 0 in found.shape:
            raise DataError(
                f"{self.path}: data set {found.name[1:]} has shape {found.shape}, expected "
                f"{expected}"
            )
        return tuple(found.shape)


def config_of(group: h5py.Group) -> dict[str, Any]:
    """The YAML text in the attribute `config`; empty if it is missing or no mapping."""
    text = plain(group.attrs.get("config", ""))
    try:
        found = yaml.safe_load(text) if isinstance(text, str) else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def as_number(value: Any) -> float | None:
    """A number of a YAML file, where `1E-3` is text."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    section = config.get("sim")
    if not isinstance(section, dict):
        return {}
    found = {str(key): as_number(value) for key, value in section.items()}
    return {key: value for key, value in found.items() if value is not None and key != "seed"}


def _is_shallow_water(path: Path) -> bool:
    """By the name of the file, or of that to which a link leads."""
    return "rdb" in path.name or "rdb" in path.resolve().name


def _channels(count: int, path: Path) -> tuple[str, ...]:
    if count == 1:
        return ("h",) if _is_shallow_water(path) else ("u",)
    return ("u", "v") if count == 2 else tuple(f"channel_{i}" for i in range(count))
