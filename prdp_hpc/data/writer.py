"""Writing trajectories that are distributed over the ranks."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.data.layout import DATASET, DataError, TrajectoryAttributes, reason_of
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.files import atomic_path, remove_leftovers
from prdp_hpc.locks import locked

READABLE = ("v110", "v110")
"""Version of HDF5 for which files with virtual data sets are written. Those that HDF5 2 writes by
default cannot be read by HDF5 1.14, which e.g. ParaView and VTK contain.
"""


class TrajectoryWriter:
    """Writes the parts of trajectories on all ranks without gathering them. A context manager,
    collective over `comm`.

    If h5py was built with MPI, all ranks write one file. Otherwise each rank writes its own file in
    the folder `<file>.<token>.parts`, and `path` combines them by virtual data sets: it can be
    moved together with that folder, and is read as one file. A single rank always writes one plain
    file. Each chunk of a data set is one state, so that windows are read without other states. The
    write is atomic: `path` is created or replaced when the context ends without an error.
    Meanwhile a lock keeps other jobs from writing to `path` (`prdp_hpc.locks`).

    Parameters
    ----------
    path : the file.
    comm : the ranks.
    attributes : metadata of the file.
    shapes : for each group the shape of its trajectories on the whole grid, `(samples, steps + 1,
        channels, *grid shape)`.
    part : the points of this rank, one slice per axis of the whole grid; may be empty.
    dtype : float32 (default) or float64.
    samples : the samples of this rank, in all groups. Default: all.
    finish : called on rank 0 with the complete, open file before it gets its final name.

    Raises
    ------
    DataError
        On all ranks, if the file cannot be written.
    LockedError
        On all ranks, if another job is writing it.

    References: HDF5 reference manual, virtual data sets; h5py documentation, Parallel HDF5.
    """

    def __init__(
        self,
        path: str | Path,
        comm: MPI.Comm,
        attributes: TrajectoryAttributes,
        shapes: Mapping[str, Sequence[int]],
        part: Sequence[slice],
        dtype: Any = np.float32,
        samples: slice | None = None,
        finish: Callable[[h5py.File], None] | None = None,
    ) -> None:
        self._samples, self._finish_file = samples, finish
        self._path, self._comm, self._attributes = Path(path), comm, attributes
        self._shapes = {group: tuple(shape) for group, shape in shapes.items()}
        self._part, self._dtype = tuple(part), np.dtype(dtype)
        self._together = comm.size > 1 and bool(h5py.get_config().mpi)
        self._separate = comm.size > 1 and not self._together
        self._lock, self._written = ExitStack(), False
        token = comm.bcast(secrets.token_hex(4))
        self._parts = self._path.with_name(f"{self._path.name}.{token}.parts")
        self._temporary = self._path.with_name(f".{self._path.stem}.{token}{self._path.suffix}")
        self._file: Any = None
        self._all_parts = comm.allgather((self._samples, self._part))

    def __enter__(self) -> TrajectoryWriter:
        with ExitStack() as undo:
            undo.callback(self._clean)
            self._attempt(self._make_folders if self._comm.rank == 0 else lambda: None)
            advice = "wait until it ends, or choose another --out"
            undo.enter_context(locked(self._comm, self._path, advice))
            self._attempt(self._open)
            self._lock = undo.pop_all()
        return self

    def write(
        self, group: str, first: int, trajectories: NDArray[Any], first_step: int = 0
    ) -> None:
        """Write this rank's part of the samples from `first` on, and of their states from
        `first_step` on, `(samples, steps, channels, *part)`; collective.
        """
        if self._separate:
            first -= _own(self._samples, self._shapes[group][0]).start
        selection = (
            slice(first, first + len(trajectories)),
            slice(first_step, first_step + trajectories.shape[1]),
            slice(None),
            *(self._part if not self._separate else [slice(None)] * len(self._part)),
        )

        def write() -> None:
            self._file[f"{group}/{DATASET}"][selection] = trajectories

        self._attempt(write)

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        with self._lock:
            if kind is None:
                self._attempt(self._close)
                self._attempt(self._finish if self._comm.rank == 0 else lambda: None)
                self._written = True
            elif not self._together and self._file is not None:
                # Other ranks may not reach this point, so no collective call is allowed here.
                self._file.close()

    def _make_folders(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._separate:
            self._parts.mkdir()

    def _open(self) -> None:
        if self._together:
            self._file = h5py.File(self._temporary, "w", driver="mpio", comm=self._comm)
        else:
            self._file = h5py.File(
                self._own_file(self._comm.rank) if self._separate else self._temporary, "w"
            )
        for group, shape in self._shapes.items():
            own = _own_shape(shape, self._samples, self._part) if self._separate else shape
            chunks = state_chunks(own, self._dtype)
            self._file.create_group(group).create_dataset(
                DATASET, own, dtype=self._dtype, chunks=chunks
            )
        if not self._separate:
            self._file.attrs.update(self._attributes.as_hdf5())

    def _own_file(self, rank: int) -> Path:
        return self._parts / f"rank_{rank:05d}.h5"

    def _close(self) -> None:
        self._file.close()
        if self._separate:
            with self._own_file(self._comm.rank).open("rb") as written:
                os.fsync(written.fileno())

    def _finish(self) -> None:
        """Rename the file to its final path; remove the parts of the file that it replaces."""
        if self._separate:
            with atomic_path(self._path) as temporary:
                self._join(temporary)
        else:
            if self._finish_file is not None:
                with h5py.File(self._temporary, "r+", libver=READABLE) as file:
                    self._finish_file(file)
            with self._temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(self._temporary, self._path)
        remove_parts(self._path, self._parts if self._separate else None)
        remove_leftovers(self._path)

    def _join(self, temporary: Path) -> None:
        with h5py.File(temporary, "w", libver=READABLE) as file:
            file.attrs.update(self._attributes.as_hdf5())
            for group, shape in self._shapes.items():
                layout = h5py.VirtualLayout(shape, self._dtype)
                for rank, (samples, part) in enumerate(self._all_parts):
                    own = _own_shape(shape, samples, part)
                    if all(own):
                        # A relative name, so that the file and the folder can be moved together.
                        name = f"{self._parts.name}/{self._own_file(rank).name}"
                        where = (_own(samples, shape[0]), slice(None), slice(None), *part)
                        layout[where] = h5py.VirtualSource(
                            name, f"{group}/{DATASET}", own, self._dtype
                        )
                # A missing part must not be read as zeros.
                file.create_group(group).create_virtual_dataset(DATASET, layout, fillvalue=np.nan)
            if self._finish_file is not None:
                self._finish_file(file)

    def _clean(self) -> None:
        """Remove the files of this writer, unless they are complete."""
        if self._written:
            return
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)
            if self._separate:
                self._own_file(self._comm.rank).unlink(missing_ok=True)
                self._parts.rmdir()

    def _attempt(self, action: Callable[[], None]) -> None:
        """Run an action on all ranks, with one error message if it fails."""

        def explained() -> None:
            try:
                action()
            except OSError as error:
                raise DataError(
                    f"{self._path}: cannot be written ({reason_of(error)}); choose another "
                    "output=… or --out"
                ) from error

        call_together(self._comm, explained)


def remove_parts(path: Path, kept: Path | None = None) -> None:
    """Remove the parts of earlier versions of a file, see `TrajectoryWriter`."""
    # Only the parts of this file: those of `heat.fine.h5` are not parts of `heat.h5`.
    own_parts = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{8}}\.parts")
    for old in path.parent.iterdir():
        if own_parts.fullmatch(old.name) and old != kept:
            shutil.rmtree(old, ignore_errors=True)


def _own(samples: slice | None, count: int) -> slice:
    return slice(0, count) if samples is None else samples


def _own_shape(
    shape: tuple[int, ...], samples: slice | None, part: Sequence[slice]
) -> tuple[int, ...]:
    """The shape of one rank's part of the trajectories of a group."""
    own = _own(samples, shape[0])
    points = (axis.stop - axis.start for axis in part)
    return (own.stop - own.start, *shape[1:3], *points)


def state_chunks(shape: Sequence[int], dtype: Any) -> tuple[int, ...] | None:
    """The chunks of a data set `(samples, steps + 1, channels, *points)`: one state each.

    None, for a data set without chunks, if it is empty or a state has at least the 4 GiB that HDF5
    permits for a chunk.
    """
    chunk = (1, 1, *shape[2:])
    if not all(shape) or math.prod(chunk) * np.dtype(dtype).itemsize >= 2**32:
        return None
    return chunk


def write_trajectories(
    path: str | Path, groups: Mapping[str, NDArray[Any]], attributes: TrajectoryAttributes
) -> None:
    """Write `{group: trajectories}`, of shape `(samples, steps + 1, channels, *grid shape)`, to an
    HDF5 file on one rank.

    float32 and float64 arrays are not converted. The write is atomic.

    Raises
    ------
    DataError
        For arrays that are not floating-point, or whose shape does not end with that of the grid.
    """
    for group, array in groups.items():
        if array.dtype not in (np.float32, np.float64):
            raise DataError(
                f"{path}: {group}/{DATASET} must be float32 or float64, not {array.dtype}"
            )
        if array.ndim != len(attributes.shape) + 3 or array.shape[3:] != attributes.shape:
            expected = f"(samples, steps + 1, channels, {', '.join(map(str, attributes.shape))})"
            raise DataError(
                f"{path}: {group}/{DATASET} must have shape {expected}, not {array.shape}"
            )
    whole = [slice(0, n) for n in attributes.shape]
    shapes = {group: array.shape for group, array in groups.items()}
    dtype = np.result_type(*(array.dtype for array in groups.values()))
    with TrajectoryWriter(path, MPI.COMM_SELF, attributes, shapes, whole, dtype) as writer:
        for group, array in groups.items():
            writer.write(group, 0, array)
