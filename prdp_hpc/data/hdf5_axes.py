"""The meaning of the axes of trajectories in an HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from prdp_hpc.data.layout import DATASET, GROUPS, TEST, DataError

MOST_CHANNELS = 7
"""Largest number of entries of an axis that is more likely one of channels than one of points."""


def stored_shape(attributes: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The points of the grid that a file names; None for a file that does not."""
    if "grid_shape" not in attributes:
        return None
    return tuple(int(n) for n in np.atleast_1d(attributes["grid_shape"]))


def own_shape(path: Path, attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """The points of the grid that a file names; `DataError` for a file that does not."""
    found = stored_shape(attributes)
    if found is None:
        raise DataError(
            f"{path}: has no attribute grid_shape: give the shape of the grid, "
            "TrajectoryFile(path, shape)"
        )
    return found


def likely_shape(stored: Sequence[int], dim: int = 0) -> tuple[int, ...]:
    """The points of the grid of trajectories of this shape whose axes are not named: without an
    axis of channels if the first axis after the states has too many entries for channels.

    `dim` is the number of axes of the grid, 0 if it is not known.
    """
    if 0 < dim <= len(stored) - 2:
        return tuple(stored[-dim:])
    has_channels = len(stored) > 5 or (len(stored) > 3 and stored[2] <= MOST_CHANNELS)
    return tuple(stored[3:] if has_channels else stored[2:])


def check_axes(
    path: Path, stored: Sequence[int], shape: Sequence[int], attributes: Mapping[str, Any]
) -> None:
    """Compare the axes of trajectories, of which the last ones are read as those of a grid of this
    shape, with the attributes.

    Raises
    ------
    DataError
        If the file has another grid, or its axes another meaning.
    """
    own = stored_shape(attributes)
    if own is not None and own != tuple(shape):
        raise DataError(
            f"{path}: its grid has the points {own} (attribute grid_shape), but grid.shape is "
            f"{tuple(shape)}: give grid.shape={list(own)}, or other data"
        )
    names, read = named_axes(stored, attributes), axis_names(len(stored), len(shape))
    if names and ("channel" in names) != ("channel" in read):
        raise DataError(
            f"{path}: its axes are {', '.join(names)} (attribute axes), but with grid.shape="
            f"{list(shape)} they are read as {', '.join(read)}: give another grid.shape"
        )


def named_axes(stored: Sequence[int], attributes: Mapping[str, Any]) -> list[str]:
    """The names of all axes in the attribute `axes`; empty if it has none or others."""
    text = attributes.get("axes")
    names = [one.strip() for one in text.split(",")] if isinstance(text, str) else []
    known = len(names) == len(stored) and set(names[2:]) <= {"channel", *"xyz"}
    return ["sample", "state", *names[2:]] if known else []


def axis_names(ndim: int, dim: int) -> list[str]:
    """The names of the axes of trajectories on a grid with `dim` axes."""
    channel = ["channel"] if ndim - dim == 3 else []
    return ["sample", "state", *channel, *"zyx"[-dim:]]


def axes_read(stored: Sequence[int], shape: Sequence[int], attributes: Mapping[str, Any]) -> str:
    """How the axes are read, with the key that reads them in the other way; empty if there is no
    other way, or if the attributes name the axes.
    """
    dim, first = len(shape), stored[2]
    has_channels = len(stored) == dim + 3
    named = "grid_shape" in attributes or "axes" in attributes
    if named or (dim == 3 or first == 1 if has_channels else dim == 1):
        return ""
    names, axes = axis_names(len(stored), dim), "zyx"[-dim - 1 :]
    meaning = f"the points of {axes[0]}" if has_channels else "channels"
    other = list(stored[2:] if has_channels else stored[3:])
    return (
        f"grid.shape: the file does not name its axes, which are read as {', '.join(names)}: give "
        f"grid.shape={other} if the {first} entries of {names[2]} are {meaning}"
    )


def unlikely_axes(
    stored: Sequence[int], shape: Sequence[int], attributes: Mapping[str, Any]
) -> str:
    """What `axes_read` says if the other way is more likely, or that the file names the axes of the
    grid in another order; empty otherwise.
    """
    names, read = named_axes(stored, attributes), axis_names(len(stored), len(shape))
    if names and names != read:
        return (
            f"its axes are {', '.join(names)} (attribute axes), but are read as {', '.join(read)}"
        )
    if likely_shape(stored) == tuple(shape):
        return ""
    return axes_read(stored, shape, attributes)


def guessed_grid(file: Path) -> tuple[tuple[int, ...], str] | None:
    """The likely points of the grid of a file in our layout that does not name them, and how its
    axes are read then; None for other files.
    """
    if not file.is_file() or not h5py.is_hdf5(file):
        return None
    with h5py.File(file, "r") as opened:
        names = [f"{group}/{DATASET}" for group in (*GROUPS, TEST)]
        there = [opened[name] for name in names if isinstance(opened.get(name), h5py.Dataset)]
        if not there or "grid_shape" in opened.attrs or len(there[0].shape or ()) < 3:
            return None
        stored, dim = there[0].shape, _sides(opened.attrs)
        shape = likely_shape(stored, dim)
        return shape, "" if dim else axes_read(stored, shape, opened.attrs)


def _sides(attributes: Mapping[str, Any]) -> int:
    """The number of axes of space for which there are attributes; 0 if it is not known."""
    words = str(attributes.get("boundary", "")).split(",")
    axes = max(np.size(attributes.get("length", 1.0)), len(words))
    return axes if axes > 1 else 0
