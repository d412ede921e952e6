"""Writing trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.layout import DATASET, DataError, TrajectoryAttributes
from prdp_hpc.files import atomic_path


def write_trajectories(path: str | Path, groups: Mapping[str, NDArray[Any]], attributes: TrajectoryAttributes) -> None:
    """Write `{group: trajectories}`, each `(samples, steps + 1, channels, *grid shape)`, to an HDF5 file.

    float32 and float64 are kept as they are. Written beside and renamed.

    Raises
    ------
    DataError
        For arrays that are not floating-point or do not end in the grid's shape.
    """
    for group, array in groups.items():
        if array.dtype not in (np.float32, np.float64):
            raise DataError(f"{path}: {group}/{DATASET} must be float32 or float64, not {array.dtype}")
        if array.ndim != len(attributes.shape) + 3 or array.shape[3:] != attributes.shape:
            expected = f"(samples, steps + 1, channels, {', '.join(map(str, attributes.shape))})"
            raise DataError(f"{path}: {group}/{DATASET} must have shape {expected}, not {array.shape}")
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(attributes.as_hdf5())
        for group, array in groups.items():
            file.create_group(group).create_dataset(DATASET, data=array)
