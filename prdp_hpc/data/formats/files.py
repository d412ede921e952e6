"""The files that `data.file` names: one file, a folder, a pattern, one file per group, or a list of
these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prdp_hpc.data.layout import TEST, DataError

DataFiles = str | Path | Sequence[str | Path]
GROUP = "{group}"
"""Part of a path that is replaced by the name of each group."""
NAMES = {"train": ("train",), "validation": ("validation", "valid", "val"), TEST: ("test",)}
"""The names of each group in paths and in files of other programs."""


def listed(path: DataFiles) -> list[Path]:
    """The names in a list, or the only one."""
    return [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]


def named(path: DataFiles) -> Path:
    """The name of some files in messages."""
    every = listed(path)
    more = f" and {len(every) - 1} more" if len(every) > 1 else ""
    return Path(f"{every[0]}{more}")


def files_of(path: str | Path, suffixes: Sequence[str], are_folders: bool = False) -> list[Path]:
    """The files of a path in natural order: the file itself, the files with one of the `suffixes`
    in a folder, or those that match a pattern such as `a_*.h5`.

    `are_folders`: each is a folder instead of a file, as a Zarr store is.

    Raises
    ------
    DataError
        If there are none.
    """
    given = Path(path)
    is_one = Path.is_dir if are_folders else Path.is_file
    if given.is_dir():
        found = [one for one in given.iterdir() if one.suffix in suffixes and is_one(one)]
    else:
        found = list(given.parent.glob(given.name)) if given.parent.is_dir() else []
    if not found and is_one(given):
        return [given]
    if not found:
        there = f"contains no file with the ending {' or '.join(suffixes)}"
        what = there if given.is_dir() else "no such data file"
        raise DataError(f"{given}: {what}; give another data.file")
    return sorted(found, key=lambda one: _natural(one.name))


def files_of_groups(
    path: str | Path, suffixes: Sequence[str], are_folders: bool = False
) -> dict[str, list[Path]]:
    """The files by group: those of each group for a path with `{group}`, otherwise all in the group
    "train", which is divided.
    """
    if GROUP not in str(path):
        return {"train": files_of(path, suffixes, are_folders)}
    found = {}
    for group, names in NAMES.items():
        for name in names:
            try:
                named_so = str(path).replace(GROUP, name)
                found[group] = files_of(named_so, suffixes, are_folders)
                break
            except DataError:
                continue
    if not found:
        raise DataError(
            f"{path}: no such data files with train, validation, valid, val or test in place of "
            f"{GROUP}; give another data.file"
        )
    return found


def _natural(name: str) -> list[Any]:
    """A key that sorts numbers in names by value: `a_2` before `a_10`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
