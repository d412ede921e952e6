"""A list of the arrays in a data file: names, shapes, types and chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from prdp_hpc.data.formats.hdf5_files import plain, reading
from prdp_hpc.data.formats.labelled_arrays import opened_arrays
from prdp_hpc.data.formats.numpy_files import mapped, mapped_members

Row = tuple[str, str, str, str]
"""Name, shape, type and storage of an array."""
MOST = 30
"""Number of arrays that are listed."""


def contents(file: Path, name: str) -> tuple[list[Row], dict[str, Any]]:
    """The first arrays of a file in the format `name`, and the attributes of the file."""
    if name in ("netcdf", "zarr"):
        return _labelled(file, name)
    if file.suffix == ".json":
        found = json.loads(file.read_text(encoding="utf-8"))
        arrays = [file.with_name(f"{file.stem}_{group}.npy") for group in ("train", "test")]
        rows = [_array(one.name, mapped(one)) for one in arrays if one.is_file()]
        info = found.get("info") if isinstance(found, dict) else None
        return rows, info if isinstance(info, dict) else {"info": str(info)} if info else {}
    if file.suffix == ".npy":
        return [_array(file.name, mapped(file))], {}
    if file.suffix == ".npz":
        return [_array(word, one) for word, one in mapped_members(file).items()][:MOST], {}
    return _hdf5(file)


def _array(name: str, array: Any) -> Row:
    fastest = "first" if array.flags.f_contiguous and array.ndim > 1 else "last"
    return name, _shape(array.shape), str(array.dtype), f"{fastest} axis is contiguous"


def _hdf5(file: Path) -> tuple[list[Row], dict[str, Any]]:
    rows: list[Row] = []

    def visit(name: str, found: Any) -> bool | None:
        if isinstance(found, h5py.Dataset):
            rows.append((name, _shape(found.shape), str(found.dtype), _storage(found)))
        return True if len(rows) > MOST else None  # ends the search

    with reading(file) as opened:
        opened.visititems(visit)
        attributes = {name: plain(value) for name, value in opened.attrs.items()}
    return rows[:MOST] + [("…", "", "", "")] * (len(rows) > MOST), attributes


def _storage(found: Any) -> str:
    if found.is_virtual:
        return "virtual"
    if found.chunks is None:
        return "contiguous"
    return f"chunks {_shape(found.chunks)}" + (f", {found.compression}" * bool(found.compression))


def _labelled(file: Path, name: str) -> tuple[list[Row], dict[str, Any]]:
    data = opened_arrays(file, "zarr" if name == "zarr" else "h5netcdf", None)
    rows = []
    for word, variable in list(data.variables.items())[:MOST]:
        axes = ", ".join(f"{axis}: {n}" for axis, n in variable.sizes.items())
        chunks = variable.encoding.get("chunks") or variable.encoding.get("chunksizes")
        storage = f"chunks {_shape(chunks)}" if chunks else "contiguous"
        rows.append((str(word), f"({axes})", str(variable.dtype), storage))
    return rows, {str(key): plain(value) for key, value in data.attrs.items()}


def _shape(shape: Any) -> str:
    return "empty" if shape is None else " × ".join(map(str, shape)) or "one number"
