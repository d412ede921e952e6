"""Reading trajectories, each rank its own part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.layout import DATASET, GROUPS, TEST, DataError, reason_of


class TrajectoryFile:
    """An HDF5 file of trajectories; see `prdp_hpc.data.layout`.

    Parameters
    ----------
    path : the file.
    shape : points of the grid; default: what the file's attribute `grid_shape` says.
    groups : those that are needed; the file may lack the others. With "train", the group "test" is
        there too where the file has it.

    Attributes
    ----------
    steps : steps of a trajectory after its initial state.
    attributes : what the file says about itself.
    groups : the names of its groups.

    Raises
    ------
    DataError
        When the file cannot be read, has no `grid_shape` where `shape` is not given, or a
        data set is missing or not of the expected shape or type.
    """

    def __init__(
        self,
        path: str | Path,
        shape: Sequence[int] | None = None,
        groups: Sequence[str] = GROUPS,
    ) -> None:
        self.path = Path(path)
        with self._open() as file:
            self.attributes = dict(file.attrs)
            self.shape = tuple(shape) if shape is not None else self._own_shape()
            there = [*groups, TEST] if "train" in groups and TEST in file else list(groups)
            shapes = {group: self._checked(file, group).shape for group in dict.fromkeys(there)}
        if len({found[1:] for found in shapes.values()}) > 1:
            names = " and ".join(f"{group}/{DATASET}" for group in shapes)
            raise DataError(
                f"{self.path}: {names} must agree in all but the number of samples: "
                f"{' and '.join(str(found) for found in shapes.values())}"
            )
        self.groups = tuple(shapes)
        self._samples = {group: int(found[0]) for group, found in shapes.items()}
        self.steps = int(shapes[groups[0]][1]) - 1

    @classmethod
    def open(
        cls, path: str | Path, shape: Sequence[int], groups: Sequence[str] = GROUPS
    ) -> TrajectoryFile:
        """The file of a config's section `data`."""
        return cls(path, shape, groups)

    def count(self, group: str) -> int:
        """Samples of a group; 0 for one that is not needed."""
        return self._samples.get(group, 0)

    def read(
        self,
        group: str,
        samples: Sequence[int] | None = None,
        part: Sequence[slice] | None = None,
    ) -> NDArray[Any]:
        """Trajectories `(samples, steps + 1, channels, *part)`; `samples`: which, default all;
        `part`: one slice per axis, default the whole grid.

        Only the part is read from the file. Raises `DataError` for numbers that are not finite.
        """
        slices = (slice(None),) * len(self.shape) if part is None else tuple(part)
        chosen = slice(None) if samples is None else _as_index(samples)
        with self._open() as file:
            dataset = self._checked(file, group)
            try:
                array: NDArray[Any] = dataset[(chosen, ..., *slices)]
            except OSError as error:
                raise DataError(
                    f"{self.path}: data set {group}/{DATASET} cannot be read, the file is damaged: "
                    f"{reason_of(error)}"
                ) from error
        if array.ndim == len(self.shape) + 2:
            array = array[:, :, None]
        finite = np.isfinite(array)
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise DataError(
                f"{self.path}: {group}/{DATASET} holds NaN or infinity, first in sample "
                f"{where[0]}, step {where[1]}"
            )
        return np.ascontiguousarray(array)

    def _own_shape(self) -> tuple[int, ...]:
        if "grid_shape" not in self.attributes:
            raise DataError(
                f"{self.path}: has no attribute grid_shape: give the shape of the grid, "
                "TrajectoryFile(path, shape)"
            )
        return tuple(int(n) for n in np.atleast_1d(self.attributes["grid_shape"]))

    def _open(self) -> h5py.File:
        try:
            if not self.path.exists():
                raise DataError(
                    f"{self.path}: no such data file; give another data.file, or leave it out to "
                    "have the data generated"
                )
            if self.path.is_dir():
                raise DataError(f"{self.path}: is a folder; data.file must name an HDF5 file")
            return h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read as HDF5: {reason_of(error)}; give another data file"
            ) from error

    def _checked(self, file: h5py.File, group: str) -> Any:
        name = f"{group}/{DATASET}"
        expected = f"(samples, steps + 1, [channels,] {', '.join(map(str, self.shape))})"
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            found: list[str] = []
            file.visit(found.append)
            held = ", ".join(found) or "nothing"
            raise DataError(
                f"{self.path}: data set {name} is missing, expected {expected}; the file holds: "
                f"{held}"
            )
        if dataset.shape is None:
            raise DataError(f"{self.path}: data set {name} is empty, expected {expected}")
        if dataset.dtype not in (np.float32, np.float64):
            raise DataError(
                f"{self.path}: data set {name} must be float32 or float64, not {dataset.dtype}"
            )
        extra = dataset.ndim - len(self.shape)
        if extra not in (2, 3) or dataset.shape[extra:] != self.shape:
            raise DataError(
                f"{self.path}: data set {name} has shape {dataset.shape}, the grid needs {expected}"
            )
        if dataset.shape[0] < 1 or dataset.shape[1] < 2:
            need = f"at least 1 sample and 2 states, {expected}"
            raise DataError(f"{self.path}: data set {name} of shape {dataset.shape} needs {need}")
        return dataset


def _as_index(samples: Sequence[int]) -> Any:
    """A slice where they follow each other, which HDF5 reads in one go; else a sorted list."""
    if isinstance(samples, range) and samples.step == 1:
        return slice(samples.start, samples.stop)
    return list(samples)
