"""One or several HDF5 files of trajectories as one data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from prdp_hpc.data.formats.files import DataFiles, files_of, listed, named
from prdp_hpc.data.joined import JoinedTrajectories
from prdp_hpc.data.layout import DATASET, GROUPS, TEST, DataError

if TYPE_CHECKING:
    from prdp_hpc.data.reader import TrajectoryFile

SUFFIXES = (".h5", ".hdf5")


def open_files(
    kind: type[TrajectoryFile], path: DataFiles, shape: Sequence[int], groups: Sequence[str]
) -> TrajectoryFile | JoinedTrajectories:
    """Open the files that `data.file` names, of which each may have some of the groups.

    Raises
    ------
    DataError
        If a file cannot be read, if the files do not fit together, or if none has a group.
    """
    files = [file for one in listed(path) for file in _files(one)]
    if len(files) == 1:
        return kind(files[0], shape, groups)
    own = {file: _own(file, groups) for file in files}
    parts = [kind(file, shape, names) for file, names in own.items() if names]
    if not parts:
        raise DataError(f"{named(files)}: none of these files has trajectories for {groups[0]}")
    found = JoinedTrajectories(parts)
    for group in groups:
        if not found.count(group):
            raise DataError(f"{named(files)}: none of these files has trajectories for {group}")
    return found


def _files(path: Path) -> list[Path]:
    # Those of `os.path` are false where a path cannot be looked at, which is an error when opened.
    is_pattern = any(letter in path.name for letter in "*?[") and not os.path.exists(path)
    return files_of(path, SUFFIXES) if is_pattern or os.path.isdir(path) else [path]


def _own(file: Path, groups: Sequence[str]) -> Sequence[str]:
    """The groups that a file has of those that are needed; all of them if it has no group at all or
    cannot be read, which is an error then.
    """
    wanted = [*groups, TEST] if "train" in groups else list(groups)
    try:
        with h5py.File(file, "r") as opened:
            there = [one for one in (*GROUPS, TEST) if f"{one}/{DATASET}" in opened]
    except OSError:
        return groups
    return [one for one in wanted if one in there] if there else groups
