"""PDEBench, incompressible flow: `ns_incom_inhom_2d_512-*.h5`.

velocity    (B, T, x, y, 2)
particles   (B, T, x, y, 1)
force       (B, x, y, 2), constant in time
t           (B, T)
attributes  config: YAML; latestIndex: the last state that was written
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.formats.coordinates import check_times, spacing
from prdp_hpc.data.formats.hdf5_files import dataset, reading
from prdp_hpc.data.formats.pdebench_arrays import numbers_as_stored
from prdp_hpc.data.formats.pdebench_seeds import as_number, config_of
from prdp_hpc.data.formats.source import About, Slices, Source, check_type
from prdp_hpc.data.layout import DataError


def is_flow(file: h5py.File) -> bool:
    """Whether a file has this layout."""
    return "velocity" in file and ("particles" in file or "force" in file)


class FlowSource(Source):
    """One file of incompressible flow.

    The channels are velocity_x, velocity_y and particles; force_x and force_y, which are constant
    in time, can be selected. States after `latestIndex`, which were never written, are left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path) as file:
            velocity = dataset(file, "velocity", "(batch, states, x, y, 2)")
            dim = velocity.ndim - 3
            if not 1 <= dim <= 3 or velocity.shape[-1] != dim or 0 in velocity.shape:
                raise DataError(
                    f"{path}: data set velocity has shape {velocity.shape}, expected (batch, "
                    "states, x, y, 2)"
                )
            shape = velocity.shape[:-1]
            self._places = _places(file, dim)
            self._check_others(file, shape)
            states = min(shape[1], int(file.attrs.get("latestIndex", shape[1] - 1)) + 1)
            config = config_of(file)
            self._times = self._all_times(file, shape[0], states)
            self.about = About(
                trajectories=shape[0],
                states=max(states, 0),
                points=tuple(shape[2:]),
                channels=tuple(name for name in self._places if not name.startswith("force")),
                others=tuple(name for name in self._places if name.startswith("force")),
                spacing=_spacing(config, shape[2:]),
                numbers=self._numbers(config),
                boundary=("wall",) * dim,
                details={"pde": "incompressible Navier–Stokes"},
            )

    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read a part of some states, as stored."""
        if self._times is not None:
            name = f"{self.path}: {self.name(trajectory)}"
            check_times(self._times[trajectory], self.about.numbers["dt"], name)
        with reading(self.path) as file:
            arrays = {
                stored: self._array(file, stored, trajectory, states, part)
                for stored in dict.fromkeys(self._places[name][0] for name in channels)
            }
        found = [arrays[stored][..., one] for stored, one in map(self._places.get, channels)]  # type: ignore[misc]
        return np.stack(found, axis=1)

    def _array(
        self, file: h5py.File, stored: str, trajectory: int, states: slice, part: Slices
    ) -> NDArray[Any]:
        if stored != "force":
            whole: NDArray[Any] = file[stored][(trajectory, states, *part)]
            return whole
        constant = file[stored][(trajectory, *part)]
        count = len(range(states.start, states.stop, states.step))
        return np.broadcast_to(constant, (count, *constant.shape))

    def _check_others(self, file: h5py.File, shape: tuple[int, ...]) -> None:
        for stored in dict.fromkeys(place[0] for place in self._places.values()):
            expected = (shape[0], *shape[2:]) if stored == "force" else shape
            found = dataset(file, stored, str(expected))
            check_type(found.dtype, f"{self.path}: data set {stored}")
            if found.shape[:-1] != expected:
                raise DataError(
                    f"{self.path}: data set {stored} has shape {found.shape}, expected "
                    f"{expected} and an axis of components"
                )

    def _all_times(self, file: h5py.File, count: int, states: int) -> NDArray[Any] | None:
        """The times `(trajectories, states)`; None if there are none, or a single state."""
        times = numbers_as_stored(file, "t")
        if times is None or states < 2:
            return None
        rows = np.atleast_2d(times)
        if len(rows) not in (1, count) or rows.shape[-1] < states:
            raise DataError(
                f"{self.path}: data set t has shape {times.shape}, expected ({count}, {states})"
            )
        return np.broadcast_to(rows[:, :states], (count, states))

    def _numbers(self, config: dict[str, Any]) -> dict[str, float]:
        found = {}
        if self._times is not None:
            found["dt"] = spacing(self._times[0], f"{self.path}: t")
        viscosity = as_number(config.get("NU"))
        return found if viscosity is None else {**found, "viscosity": viscosity}


def _places(file: h5py.File, dim: int) -> dict[str, tuple[str, int]]:
    """For each channel its data set, and its place on the last axis."""
    found = {f"velocity_{axis}": ("velocity", i) for i, axis in enumerate("xyz"[:dim])}
    if "particles" in file:
        found["particles"] = ("particles", 0)
    if "force" in file:
        found |= {f"force_{axis}": ("force", i) for i, axis in enumerate("xyz"[:dim])}
    return found


def _spacing(config: dict[str, Any], points: Sequence[int]) -> tuple[float, ...] | None:
    size = config.get("domain_size")
    if not isinstance(size, list) or len(size) != len(points):
        return None
    lengths = [as_number(one) for one in size]
    if any(one is None or one <= 0 for one in lengths):
        return None
    return tuple(float(length or 0) / n for length, n in zip(lengths, points, strict=True))
