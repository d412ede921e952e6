"""Fields, sources and measurements of the user's own, from an HDF5 or NumPy file."""

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
"""What a file may hold:

- `log_permeability`: the true m = ln κ, `(*shape)`, where it is known;
- `sources`: right-hand sides, `(E, *shape)`;
- `observations`: what was measured, `(E, n)` at n positions, or whole fields `(E, *shape)`;
- `positions`: of the n points, `(n, dim)`, in units of the domain's length;
- `noise`: the standard deviation of the data's errors: one number, or `(E, n)`, or `(n,)`.
"""


class InversionFile:
    """A file with some of `NAMES`: HDF5 (`.h5`, `.hdf5`), or NumPy's `.npz`; or one field alone in
    `.npy`, which is the true m.

    Of an HDF5 file only the part of a field that is asked for is read.

    Raises
    ------
    DataError
        For a file that cannot be read or holds none of these, an array of a wrong shape, and
        numbers that are not finite.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.shapes = self._found()
        if not self.shapes:
            raise DataError(
                f"{self.path}: holds none of {', '.join(NAMES)}; see docs/howto/inversion.md for "
                "what they are"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def field(self, name: str, part: Sequence[slice], shape: Sequence[int]) -> NDArray[np.float64]:
        """A part of one field `(*shape)`."""
        self._check(name, tuple(shape))
        return self._read(name, tuple(part))

    def fields(self, name: str, part: Sequence[slice], shape: Sequence[int]) -> NDArray[np.float64]:
        """A part of several fields `(E, *shape)`."""
        self._check(name, (self._count(name), *shape))
        return self._read(name, (slice(None), *part))

    def numbers(self, name: str, shape: Sequence[int | None] | None = None) -> NDArray[np.float64]:
        """A whole array, of a shape if one is given (None: any size along that axis)."""
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
            raise DataError(f"{self.path}: {name} holds NaN or infinity")
        return numbers

    def _unreadable(self, error: Exception) -> DataError:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        return DataError(
            f"{self.path}: cannot be read ({reason}); give an HDF5 file or NumPy's .npz or .npy"
        )
