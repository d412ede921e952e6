"""Open HDF5 files, of which the last ones that were read remain open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.layout import DataError, reason_of

KEPT_OPEN = 8
"""Number of files that remain open; a data set may consist of more files than a process may open.
"""
_lock = threading.RLock()
_files: OrderedDict[tuple[str, int, int], h5py.File] = OrderedDict()


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read from; other threads wait, which HDF5 would make them do anyway.

    Raises
    ------
    DataError
        If the file cannot be opened, or reading in the context fails.
    """
    with _lock:
        try:
            found = path.stat()
            key = (str(path), found.st_ino, found.st_mtime_ns)
            if key not in _files:
                _files[key] = h5py.File(path, "r")
            _files.move_to_end(key)
            while len(_files) > KEPT_OPEN:
                _files.popitem(last=False)[1].close()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read as HDF5: {reason_of(error)}; give another data file"
            ) from error
        try:
            yield _files[key]
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read, the file is damaged: {reason_of(error)}"
            ) from error


def close(path: Path) -> None:
    """Close a file that remained open, so that it can be written; reading opens it again."""
    with _lock:
        for key in [key for key in _files if key[0] == str(path)]:
            _files.pop(key).close()


def dataset(file: h5py.File | h5py.Group, name: str, expected: str) -> Any:
    """A data set of a file.

    Raises
    ------
    DataError
        If it is missing or empty; the message contains what is expected and what there is.
    """
    found = file.get(name)
    if isinstance(found, h5py.Dataset) and found.shape is not None:
        return found
    what = "is missing" if found is None else "is not an array"
    content = ", ".join(sorted(file)[:10]) or "nothing"
    raise DataError(
        f"{file.file.filename}: data set {name} {what}, expected {expected}; the file contains: "
        f"{content}"
    )


def numbers(file: h5py.File | h5py.Group, name: str) -> NDArray[np.float64] | None:
    """All numbers of a small data set, e.g. coordinates; None if it does not exist."""
    found = file.get(name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        return None
    return np.asarray(found[()], dtype=np.float64)


def plain(value: Any) -> Any:
    """An attribute as numbers, text and lists of Python."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
