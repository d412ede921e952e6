"""PDEBench, one array per variable, e.g. Burgers, Darcy and compressible flow.

    tensor                         (N, T, x[, y[, z]])
    density, pressure, Vx[, Vy..]  the same, instead of tensor
    nu                             (N, x, y), only for Darcy flow
    x-coordinate[, y-.., z-..]     cell centres
    t-coordinate                   T + 1 entries, of which the first T are used

Files of the generators may have a further axis before these, one entry per device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.formats.coordinates import spacing, spacings
from prdp_hpc.data.formats.hdf5_files import dataset, numbers, plain, reading
from prdp_hpc.data.formats.source import About, Slices, Source, check_type
from prdp_hpc.data.layout import DataError

COMPRESSIBLE = ("density", "pressure", "Vx", "Vy", "Vz")
BURGERS = "burgers"


def is_arrays(file: h5py.File) -> bool:
    """Whether a file has this layout."""
    return "tensor" in file or all(name in file for name in COMPRESSIBLE[:3])


class ArraySource(Source):
    """One file with an array per variable.

    The channel of `tensor` is u. Darcy flow has two states with the channel u: the coefficient a
    (`nu`), and the solution.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A link may have another name than the file, e.g. on a node-local disk.
        self._name = f"{path.stem}_{path.resolve().stem}_"
        with reading(path) as file:
            self._darcy = "tensor" in file and "nu" in file
            names = [name for name in COMPRESSIBLE if name in file]
            self._stored = {"u": "tensor"} if "tensor" in file else {name: name for name in names}
            dim = self._dimension(file)
            shape = self._common_shape(file, dim)
            self._lead = shape[: len(shape) - dim - 1]
            states = self._states(file, shape[-dim - 1])
            axes = [f"{path}: {axis}-coordinate" for axis in "xyz"[:dim]]
            found = [numbers_as_stored(file, f"{axis}-coordinate") for axis in "xyz"[:dim]]
            for axis, (given, n) in enumerate(zip(found, shape[-dim:], strict=True)):
                if given is not None and len(given) != n:
                    raise DataError(
                        f"{axes[axis]} has {len(given)} entries, but the arrays have {n} points "
                        f"along axis {axis} of space, expected (trajectories, states, x, y, z)"
                    )
            self.about = About(
                trajectories=math.prod(self._lead),
                states=states,
                points=tuple(shape[-dim:]),
                channels=tuple(self._stored),
                spacing=spacings(found, axes),
                numbers=self._numbers(file, states),
                details=self._details(file),
                boundary=self._boundary(dim),
            )

    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read a part of some states, as stored."""
        place = tuple(int(i) for i in np.unravel_index(trajectory, self._lead))
        with reading(self.path) as file:
            if self._darcy:
                return self._darcy_states(file, place, states, part)
            found = [file[self._stored[name]][(*place, states, *part)] for name in channels]
        return np.stack(found, axis=1)

    def _darcy_states(
        self, file: h5py.File, place: tuple[int, ...], states: slice, part: Slices
    ) -> NDArray[Any]:
        both = {0: ("nu", place), 1: ("tensor", (*place, 0))}
        chosen = [both[state] for state in range(2)[states]]
        return np.stack([file[name][(*where, *part)] for name, where in chosen])[:, None]

    def _dimension(self, file: h5py.File) -> int:
        """Number of axes of space: that of the coordinates, or of the array."""
        there = sum(f"{axis}-coordinate" in file for axis in "xyz")
        if there:
            return there
        first = dataset(file, next(iter(self._stored.values())), "(trajectories, states, x, …)")
        return max(1, min(3, int(first.ndim) - 2))

    def _common_shape(self, file: h5py.File, dim: int) -> tuple[int, ...]:
        expected = f"(trajectories, states, {', '.join('xyz'[:dim])})"
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self._stored.values():
            found = dataset(file, name, expected)
            check_type(found.dtype, f"{self.path}: data set {name}")
            shapes[name] = found.shape
            if found.ndim not in (dim + 2, dim + 3) or 0 in found.shape:
                raise DataError(
                    f"{self.path}: data set {name} has shape {found.shape}, expected {expected}, "
                    "or one more axis of devices before these"
                )
        shape = next(iter(shapes.values()))
        if len(set(shapes.values())) > 1:
            raise DataError(f"{self.path}: the arrays must have one shape, not {shapes}")
        if self._darcy:
            self._check_darcy(file, shape, dim)
        return shape

    def _check_darcy(self, file: h5py.File, shape: tuple[int, ...], dim: int) -> None:
        expected = (*shape[: -dim - 1], *shape[-dim:])
        found = dataset(file, "nu", str(expected))
        if found.shape != expected or shape[-dim - 1] != 1:
            raise DataError(
                f"{self.path}: Darcy flow has tensor (N, 1, x, y) and nu (N, x, y), not "
                f"{shape} and {found.shape}"
            )

    def _states(self, file: h5py.File, stored: int) -> int:
        if self._darcy:
            return 2
        times = numbers(file, "t-coordinate")
        if times is not None and len(times) not in (stored, stored + 1):
            raise DataError(
                f"{self.path}: t-coordinate has {len(times)} entries, but the arrays have {stored} "
                f"states: {stored} or {stored + 1} entries are expected"
            )
        return stored

    def _numbers(self, file: h5py.File, states: int) -> dict[str, float]:
        found = {}
        times = None if self._darcy else numbers_as_stored(file, "t-coordinate")
        if times is not None and states > 1:
            found["dt"] = spacing(times[:states], f"{self.path}: t-coordinate")
        nu = self._parameter(file, "Nu")
        if nu is not None and self._equation() == BURGERS:
            # In the generator: `u_t + (u²/2)_x = (Nu/π) u_xx`.
            found["viscosity"] = nu / math.pi
        return found

    def _details(self, file: h5py.File) -> dict[str, Any]:
        names = ("beta", "Nu", "rho", "eta", "zeta", "M")
        found: dict[str, Any] = {name: plain(value) for name, value in file.attrs.items()}
        for name in names:
            if (value := self._parameter(file, name)) is not None:
                found[name] = value
        if self._equation():
            found["pde"] = self._equation()
        return found

    def _equation(self) -> str:
        """The equation in lower case, from the name of the file."""
        words = re.split(r"[_.-]", self._name.lower())
        known = {"reacdiff": "reaction–diffusion", "cfd": "compressible Navier–Stokes"}
        for word in words:
            if word in ("advection", BURGERS, "darcyflow", *known):
                return known.get(word, word)
        return ""

    def _boundary(self, dim: int) -> tuple[str, ...] | None:
        """The boundary of the generators; that of compressible flow is in the name of the file."""
        words = re.split(r"[_.-]", self._name.lower())
        if "cfd" in words:
            known = {"periodic": "periodic", "trans": "open"}
            found = next((known[word] for word in words if word in known), None)
        elif self._darcy:
            found = "wall"
        else:
            found = "periodic" if self._equation() else None
        return None if found is None else (found,) * dim

    def _parameter(self, file: h5py.File, name: str) -> float | None:
        """A parameter from the attributes, or from the name of the file, e.g. `Nu0.01`."""
        if name in file.attrs:
            return float(np.ravel(file.attrs[name])[0])
        number = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
        found = re.search(rf"(?:^|_){name}{number}(?=[_.]|$)", self._name, re.IGNORECASE)
        return float(found[1]) if found else None


def numbers_as_stored(file: h5py.File, name: str) -> NDArray[Any] | None:
    """All numbers of a data set in their type; None if it does not exist."""
    found = file.get(name)
    return None if not isinstance(found, h5py.Dataset) else np.asarray(found[()])
