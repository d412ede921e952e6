"""Reading fields, sources and measurements from an HDF5 or NumPy file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data import DataError
from prdp_hpc.data.layout import reason_of

NAMES = ("log_permeability", "sources", "observations", "positions", "noise")
"""Arrays that a file may contain:

- `log_permeability`: the true m = ln κ, `(*shape)`, if it is known;
- `sources`: right-hand sides, `(E, *shape)`;
- `observations`: measurements, `(E, n)` at n positions, or whole fields `(E, *shape)`;
- `positions`: coordinates of the n points, `(n, dim)`, from 0 to the length of the domain;
- `noise`: standard deviation of the measurements: one number, `(E, n)` or `(n,)`.
"""


class InversionFile:
    """A file with some of `NAMES`: HDF5 (`.h5`, `.hdf5`) or NumPy's `.npz`; or a single field in
    `.npy`, which is the true m.

    For HDF5 files only the requested part of a field is read.

    Raises
    ------
    DataError
        If the file cannot be read or contains none of these arrays, if an array has a wrong shape,
        or if a number is not finite.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.shapes = self._found()
        if not self.shapes:
            raise DataError(
                f"{self.path}: contains none of {', '.join(NAMES)}; docs/howto/inversion.md "
                "describes these arrays"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def field(self, name: str, part: Sequence[slice], shape: Sequence[int]) -> NDArray[np.float64]:
        """Read a part of one field `(*shape)`."""
        self._check(name, tuple(shape))
        return self._read(name, tuple(part))

    def fields(self, name: str, part: Sequence[slice], shape: Sequence[int]) -> NDArray[np.float64]:
        """Read a part of several fields `(E, *shape)`."""
        self._check(name, (self._count(name), *shape))
        return self._read(name, (slice(None), *part))

    def numbers(self, name: str, shape: Sequence[int | None] | None = None) -> NDArray[np.float64]:
        """Read a whole array and check its shape if one is given (None: any size of that axis)."""
        found = self.shapes[name]
        if shape is not None:
            wanted = tuple(
                n if n is not None or axis >= len(found) else found[axis]
                for axis, n in enumerate(shape)
            )
            self._check(name, wanted)
        return self._read(name, ())

    def _count(self, name: str) -> int:
        return self.shapes[name][0] if self.shapes[name] else 0

    def _check(self, name: str, wanted: tuple[int | None, ...]) -> None:
        if self.shapes[name] != wanted:
            raise DataError(
                f"{self.path}: {name} must have the shape {wanted}, not {self.shapes[name]}"
            )

    def _found(self) -> dict[str, tuple[int, ...]]:
        try:
            if self.path.suffix == ".npy":
                return {"log_permeability": np.load(self.path, mmap_mode="r").shape}
            if self.path.suffix == ".npz":
                with np.load(self.path) as file:
                    return {name: file[name].shape for name in NAMES if name in file}
            with h5py.File(self.path, "r") as file:
                return {
                    name: tuple(file[name].shape)
                    for name in NAMES
                    if isinstance(file.get(name), h5py.Dataset)
                }
        except (OSError, ValueError, KeyError) as error:
            raise self._unreadable(error) from None

    def _read(self, name: str, part: Any) -> NDArray[np.float64]:
        try:
            if self.path.suffix == ".npy":
                found = np.load(self.path, mmap_mode="r")[part]
            elif self.path.suffix == ".npz":
                with np.load(self.path) as file:
                    found = file[name][part]
            else:
                with h5py.File(self.path, "r") as file:
                    found = file[name][part]
            numbers = np.array(found, dtype=np.float64)
        except (OSError, ValueError, TypeError) as error:
            raise self._unreadable(error) from None
        if not np.isfinite(numbers).all():
            raise DataError(f"{self.path}: {name} contains NaN or infinity")
        return numbers

    def _unreadable(self, error: Exception) -> DataError:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        return DataError(
            f"{self.path}: cannot be read ({reason}); give an HDF5 file or NumPy's .npz or .npy"
        )
