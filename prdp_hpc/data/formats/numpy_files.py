"""NumPy arrays, mapped into memory: `.npy`, and `.npz` without compression."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from prdp_hpc.data.formats.files import NAMES, files_of_groups
from prdp_hpc.data.formats.source import About, Slices, Source, check_type
from prdp_hpc.data.formats.trajectories import FormatTrajectories
from prdp_hpc.data.layout import DataError

OURS = {dim: ("sample", "time", "channel", *reversed("xyz"[:dim])) for dim in (1, 2, 3)}
"""The default order of the axes."""


class NumPyArrays(FormatTrajectories):
    """Arrays of NumPy: `.npy`, or `.npz` with the arrays train, validation and test, or with one.

    `layout` names the axes of the arrays, of sample, time, channel, x, y and z; the default is
    that of our files. Without sample or channel there is one. Single numbers in an `.npz`, e.g.
    `dt`, are compared with the PDE's. Objects, which NumPy stores as pickles, are never loaded.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc.data.formats.numpy_files import NumPyArrays
    >>> numpy.save("a.npy", numpy.zeros((16, 8, 20, 3)))  # x, y, trajectories, times
    >>> data = NumPyArrays.open("a.npy", (8, 16), layout=["x", "y", "sample", "time"])
    >>> data.read("validation").shape
    (2, 3, 1, 8, 16)
    """

    suffixes = (".npy", ".npz")

    @classmethod
    def sources_of_groups(
        cls, path: str | Path, shape: Sequence[int] | None, keys: dict[str, Any]
    ) -> dict[str, Sequence[Source]]:
        """Open the arrays of each group."""
        found: dict[str, list[Source]] = {}
        for group, files in files_of_groups(path, cls.suffixes).items():
            for file in files:
                layout = keys.get("layout") or _default(shape)
                for own, source in _sources_of(file, layout).items():
                    if not keys.get("layout"):
                        source.assumed = (
                            f"data.format.layout: the axes are read as {', '.join(source.layout)}"
                        )
                    found.setdefault(own or group, []).append(source)
        return dict(found)


def _sources_of(file: Path, layout: Sequence[str] | None) -> dict[str, ArraySource]:
    """The arrays of a file by group; "" for the group of the file."""
    if file.suffix != ".npz":
        return {"": ArraySource(file, mapped(file), layout)}
    members = mapped_members(file)
    numbers = {n: float(a.ravel()[0]) for n, a in members.items() if a.size == 1 and _is_real(a)}
    arrays = {name: array for name, array in members.items() if array.ndim > 1}
    grouped = {
        group: ArraySource(file, arrays[name], layout, name, numbers)
        for group, names in NAMES.items()
        for name in names
        if name in arrays
    }
    if grouped:
        return dict(grouped)
    if len(arrays) != 1:
        raise DataError(
            f"{file}: must contain the arrays train, validation and test, or one array of "
            f"trajectories, but contains {', '.join(members) or 'nothing'}"
        )
    ((name, array),) = arrays.items()
    return {"": ArraySource(file, array, layout, name, numbers)}


class ArraySource(Source):
    """One array of trajectories, of which nothing is read before it is needed.

    Parameters
    ----------
    path : the file, for messages.
    array : the array, mapped into memory.
    layout : names of its axes; None: those of our files, the channel axis may be missing.
    member : name of the array in the file.
    numbers : `dt` and coefficients.
    details : see `About`.
    spacing, boundary : those of all axes.

    Attributes
    ----------
    layout : names of the axes.
    """

    def __init__(
        self,
        path: Path,
        array: NDArray[Any],
        layout: Sequence[str] | None = None,
        member: str = "",
        numbers: Mapping[str, float] | None = None,
        details: Mapping[str, Any] | None = None,
        spacing: float | None = None,
        boundary: str | None = None,
    ) -> None:
        self.path, self._array, self._member = path, array, member
        where = f"{path}: array {member}" if member else str(path)
        check_type(array.dtype, where)
        self.layout = _checked_layout(array, layout, where)
        sizes = dict(zip(self.layout, array.shape, strict=True))
        space = [axis for axis in self.layout if axis in ("x", "y", "z")]
        # `FormatTrajectories` receives the axes of space in the order x, y, z.
        self._space = sorted(space)
        channels = sizes.get("channel", 1)
        self.about = About(
            trajectories=sizes.get("sample", 1),
            states=sizes["time"],
            points=tuple(sizes[axis] for axis in self._space),
            channels=("u",) if channels == 1 else tuple(f"channel_{i}" for i in range(channels)),
            numbers=numbers or {},
            details=details or {},
            spacing=None if spacing is None else (spacing,) * len(space),
            boundary=None if boundary is None else (boundary,) * len(space),
        )

    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read a part of some states."""
        chosen = [self.about.channels.index(name) for name in channels]
        index: dict[str, Any] = dict(zip(self._space, part, strict=True))
        index |= {"sample": slice(trajectory, trajectory + 1), "time": states}
        view = self._array[tuple(index.get(axis, slice(None)) for axis in self.layout)]
        order = ["sample", "time", "channel", *self._space]
        missing = [axis for axis in order if axis not in self.layout]
        view = view.reshape(view.shape + (1,) * len(missing))
        names = [*self.layout, *missing]
        view = view.transpose([names.index(axis) for axis in order])[0]
        return np.asarray(view[:, chosen] if len(chosen) < view.shape[1] else view)

    def name(self, trajectory: int) -> str:
        """The name of a trajectory in messages."""
        return (
            f"array {self._member}, trajectory {trajectory}"
            if self._member
            else super().name(trajectory)
        )


def mapped(path: Path) -> NDArray[Any]:
    """The array of an `.npy` file, mapped into memory."""
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path}: {_reason(error)}") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an array of NumPy: {error}") from None
    return found


def mapped_members(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file, mapped into memory; single numbers are read."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    found[member.filename[:-4]] = _mapped_member(path, archive, member)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as arrays of NumPy: {error}") from None
    return found


def _mapped_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        try:
            version = npy.read_magic(stream)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = header(stream)
        except ValueError as error:
            raise DataError(f"{path}: array {member.filename[:-4]}: {_reason(error)}") from None
        if dtype.hasobject:
            raise DataError(f"{path}: array {member.filename[:-4]}: {_PICKLES}")
        offset = stream.tell()
        if shape == () or int(np.prod(shape)) <= 1:
            return np.frombuffer(stream.read(), dtype).reshape(shape)
    if member.compress_type != zipfile.ZIP_STORED:
        raise DataError(
            f"{path}: the array {member.filename[:-4]} is compressed, so that a part of it cannot "
            "be read: write the file with numpy.savez instead of savez_compressed, or as HDF5"
        )
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), "<u2")
    start = member.header_offset + 30 + int(name) + int(extra) + offset
    order: Literal["C", "F"] = "F" if fortran else "C"
    return np.memmap(str(path), dtype, "r", start, tuple(shape), order)


_PICKLES = "contains Python objects, i.e. a pickle, which is never loaded because it can run code"


def _reason(error: ValueError) -> str:
    pickled = "allow_pickle" in str(error) or "Python objects" in str(error)
    return _PICKLES if pickled else f"is not an array of NumPy: {error}"


def _default(shape: Sequence[int] | None) -> Sequence[str] | None:
    """Our order of the axes for a grid."""
    return None if shape is None else OURS[len(shape)]


def _checked_layout(
    array: NDArray[Any], layout: Sequence[str] | None, where: str
) -> tuple[str, ...]:
    if layout is None:
        # Without a grid the channel axis is there: an array without it would be ambiguous.
        layout = OURS.get(array.ndim - 3, ())
    names = tuple(layout)
    if names in OURS.values() and array.ndim == len(names) - 1:
        names = tuple(name for name in names if name != "channel")
    space = sorted(set(names) & set("xyz"))
    fits = len(names) == array.ndim and len(set(names)) == len(names) and "time" in names
    if not fits or not space or space != list("xyz"[: len(space)]) or 0 in array.shape:
        given = f", not {', '.join(names)}" if names else ""
        raise DataError(
            f"{where} has shape {array.shape}: data.format.layout must name its {array.ndim} axes, "
            f"e.g. sample, time, channel, y, x, each once, with time and x{given}"
        )
    return names


def _is_real(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "fiu"
