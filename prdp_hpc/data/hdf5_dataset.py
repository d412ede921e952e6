"""The checks of a data set of trajectories in an HDF5 file."""

from __future__ import annotations

from pathlib import Path

import h5py

from prdp_hpc.data.layout import DataError
from prdp_hpc.data.number_types import is_number_type


def checked_dataset(
    file: h5py.File, path: Path, name: str, shape: tuple[int, ...], least_states: int
) -> h5py.Dataset:
    """A data set of trajectories on a grid of this shape.

    Raises
    ------
    DataError
        If it is missing, or has another shape, another type or fewer states.
    """
    expected = f"(samples, steps + 1, [channels,] {', '.join(map(str, shape))})"
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        found: list[str] = []
        file.visit(found.append)
        content = ", ".join(found) or "nothing"
        raise DataError(
            f"{path}: data set {name} is missing, expected {expected}; the file contains: {content}"
        )
    if dataset.shape is None:
        raise DataError(f"{path}: data set {name} is empty, expected {expected}")
    if not is_number_type(dataset.dtype):
        raise DataError(
            f"{path}: data set {name} must have floating-point numbers of at most 64 bits "
            f"or integers, not {dataset.dtype}"
        )
    extra = dataset.ndim - len(shape)
    if extra not in (2, 3) or dataset.shape[extra:] != shape:
        raise DataError(
            f"{path}: data set {name} has shape {dataset.shape}, the grid needs {expected}"
        )
    if dataset.shape[0] < 1 or dataset.shape[1] < least_states:
        need = f"at least 1 sample and {least_states} states, {expected}"
        raise DataError(f"{path}: data set {name} of shape {dataset.shape} needs {need}")
    return dataset
