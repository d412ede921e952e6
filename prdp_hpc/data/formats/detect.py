"""The format of a data file, from its name and its content."""

from __future__ import annotations

from pathlib import Path

from prdp_hpc.data.formats.files import DataFiles, files_of_groups, listed
from prdp_hpc.data.formats.hdf5_files import reading
from prdp_hpc.data.formats.pdebench_arrays import is_arrays
from prdp_hpc.data.formats.pdebench_flow import is_flow
from prdp_hpc.data.formats.pdebench_seeds import is_seeds
from prdp_hpc.data.layout import DATASET, GROUPS, DataError

ENDINGS = {".nc": "netcdf", ".nc4": "netcdf", ".netcdf": "netcdf", ".zarr": "zarr"}
ZARR = (".zgroup", ".zmetadata", "zarr.json")


def first_file(path: DataFiles) -> Path:
    """A file of the data that `path` names; a Zarr store is one."""
    given = listed(path)[0]
    if _is_store(given):
        return given
    if given.is_dir():
        stores = sorted(one for one in given.iterdir() if _is_store(one))
        if stores:
            return stores[0]
        there = sorted(file for file in given.rglob("*") if _is_data(file))
        if there:
            return there[0]
    if given.suffix == ".zarr":
        groups = files_of_groups(given, (".zarr",), are_folders=True)
    else:
        groups = files_of_groups(given, (".hdf5", ".h5", ".npy", ".npz", *ENDINGS))
    return next(iter(groups.values()))[0]


def _is_store(folder: Path) -> bool:
    """Whether a folder is a Zarr store."""
    is_named = folder.suffix == ".zarr" or any((folder / name).exists() for name in ZARR)
    return folder.is_dir() and is_named


def format_of(path: DataFiles) -> str:
    """The name of the format, as for `data.format`.

    Raises
    ------
    DataError
        If there is no such file, or if its content is none of the known layouts.
    """
    file = first_file(path)
    if file.is_dir():
        return "zarr"
    if file.suffix in ENDINGS:
        return ENDINGS[file.suffix]
    if file.suffix == ".json" or _is_apebench(file):
        return "apebench"
    if file.suffix in (".npy", ".npz"):
        return "numpy"
    found = _of_hdf5(file)
    if found is None:
        raise DataError(
            f"{file}: its content is no known layout of trajectories: name a format by --format, "
            "or write a reader, see docs/howto/own_components.md"
        )
    return found


def _is_data(file: Path) -> bool:
    return file.suffix in (".hdf5", ".h5", ".npy", ".npz", ".json", *ENDINGS)


def _is_apebench(file: Path) -> bool:
    ends = file.suffix == ".npy" and file.stem.endswith(("_train", "_test"))
    return ends and (file.parent / f"{file.stem.rpartition('_')[0]}.json").is_file()


def _of_hdf5(file: Path) -> str | None:
    with reading(file) as opened:
        if any(f"{group}/{DATASET}" in opened for group in GROUPS):
            return "hdf5"
        if "dimensions" in opened and "spatial_dims" in opened["dimensions"].attrs:
            return "the_well"
        if is_seeds(opened) or is_flow(opened) or is_arrays(opened):
            return "pdebench"
        return "netcdf" if "_NCProperties" in opened.attrs else None
