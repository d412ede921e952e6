"""Writing trajectories on all ranks to one plain file, which a killed job can continue."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.data.layout import DATASET, DataError, TrajectoryAttributes, reason_of
from prdp_hpc.data.shared_file import SharedFile
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.files import remove_leftovers, write_text
from prdp_hpc.locks import locked

READABLE = ("v110", "v110")
"""Version of HDF5 for which files with virtual data sets are written. Those that HDF5 2 writes by
default cannot be read by HDF5 1.14, which e.g. ParaView and VTK contain.
"""

RECORD_SECONDS = 2.0
"""Seconds between two records of finished samples, which is the work that a kill can lose."""


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a group that are computed together."""

    group: str
    samples: range


class TrajectoryWriter:
    """Writes the parts of trajectories on all ranks, without gathering them, to one plain HDF5
    file. A context manager, collective over `world`.

    HDF5 allocates the whole file `.<name>.unfinished` first. After that the ranks write states at
    the addresses that HDF5 has chosen, so a kill can damage neither HDF5's own data nor finished
    samples. A sample is listed in `.<name>.finished` after its data are on the disk, and only
    listed samples are kept by the next job. If the context ends without an error, the file is
    renamed to `path`, which is created or replaced atomically. A lock keeps other jobs away
    (`prdp_hpc.locks`). Each chunk of a data set is one state, so that windows are read without
    other states.

    Parameters
    ----------
    path : the file.
    world : all ranks.
    grid_comm : the ranks of this replica, which share each state.
    attributes : metadata of the file.
    shapes : for each group the shape of its trajectories on the whole grid, `(samples, steps + 1,
        channels, *grid shape)`.
    part : the points of this rank, one slice per axis of the whole grid; may be empty.
    identity : text that is equal for equal data; files of another identity are not continued. None
        (default): the file is not continued, and is removed after an error.
    dtype : float32 (default) or float64.
    complete : called on rank 0 with the complete, open file before it gets its final name.

    Raises
    ------
    DataError
        On all ranks, if the file cannot be written.
    LockedError
        On all ranks, if another job is writing it.

    References: HDF5 reference manual, H5Pset_alloc_time, H5Dget_chunk_info_by_coord.
    """

    def __init__(
        self,
        path: str | Path,
        world: MPI.Comm,
        grid_comm: MPI.Comm,
        attributes: TrajectoryAttributes,
        shapes: Mapping[str, Sequence[int]],
        part: Sequence[slice],
        identity: str | None = None,
        dtype: Any = np.float32,
        complete: Callable[[h5py.File], None] | None = None,
    ) -> None:
        self._path, self._world, self._grid_comm = Path(path), world, grid_comm
        self._attributes, self._part = attributes, tuple(part)
        self._identity, self._dtype, self._complete = identity, np.dtype(dtype), complete
        self._shapes = {group: tuple(shape) for group, shape in shapes.items()}
        self._header = {"identity": identity, "shapes": {g: list(s) for g, s in shapes.items()}}
        if self._dtype != np.float32:
            self._header["dtype"] = self._dtype.name
        self._working = self._path.with_name(f".{self._path.name}.unfinished")
        self._list = self._path.with_name(f".{self._path.name}.finished")
        self._finished = {group: np.zeros(n[0], dtype=bool) for group, n in self._shapes.items()}
        self._unlisted: list[Batch] = []
        self._listed_at = 0.0
        self._open = ExitStack()

    def __enter__(self) -> TrajectoryWriter:
        with ExitStack() as undo:
            with self._explained():
                advice = "wait until it ends, or choose another --out"
                undo.enter_context(locked(self._world, self._path, advice))
            self._attempt(self._prepare if self._world.rank == 0 else lambda: None)
            self._finished = self._world.bcast(self._finished)
            self._attempt(self._open_files)
            undo.callback(self._close_dataset)
            self._listed_at = time.monotonic()
            self._open = undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        with self._open:
            if kind is None:
                self._attempt(self._sync)
                self._attempt(self._close)
                self._attempt(self._rename if self._world.rank == 0 else lambda: None)
            elif self._identity is None and self._world.rank == 0:
                # Other ranks may not reach this point, so no collective call is allowed here.
                self._working.unlink(missing_ok=True)

    @property
    def finished(self) -> int:
        """Number of samples that are finished."""
        return sum(int(found.sum()) for found in self._finished.values())

    def missing(self, at_once: int) -> list[Batch]:
        """The batches of up to `at_once` samples that have to be computed, equal on all ranks.

        The division into batches does not depend on what is finished.
        """
        batches = [
            Batch(group, range(first, min(first + at_once, shape[0])))
            for group, shape in self._shapes.items()
            for first in range(0, shape[0], at_once)
        ]
        return [b for b in batches if not self._finished[b.group][_slice(b.samples)].all()]

    def write(self, batch: Batch, step: int, states: NDArray[Any]) -> None:
        """Write this rank's part of a state of each sample of a batch, `(samples, C, *part)`;
        collective over `grid_comm`.
        """
        with self._explained():
            addresses = [self._address(batch.group, sample, step) for sample in batch.samples]
            self._files[self._shapes[batch.group][2:]].write(addresses, states)

    def finish(self, batches: Iterable[Batch]) -> None:
        """List samples as finished, which the replicas have written; collective over `world`.

        Within `RECORD_SECONDS` after the last time they are not listed yet.
        """
        for batch in batches:
            self._unlisted.append(batch)
            self._finished[batch.group][_slice(batch.samples)] = True
        if self._world.bcast(time.monotonic() - self._listed_at >= RECORD_SECONDS):
            self.list_finished()

    def list_finished(self) -> None:
        """List all finished samples now; collective over `world`."""
        self._attempt(self._sync)
        self._attempt(self._append if self._world.rank == 0 else lambda: None)
        self._unlisted, self._listed_at = [], time.monotonic()

    def _prepare(self) -> None:
        """Find what an earlier job has finished, or allocate a new file."""
        if self._path.is_dir():
            raise IsADirectoryError(21, "is a folder", str(self._path))
        lines = self._listed() if self._working.exists() else None
        if lines is None:
            self._allocate()
            lines = []
        for group, first, count in lines:
            self._finished[group][first : first + count] = True
        if self._identity is None:
            return
        # Written again, because a kill may have left a part of a line at its end.
        write_text(self._list, "".join(f"{json.dumps(line)}\n" for line in (self._header, *lines)))

    def _listed(self) -> list[Any] | None:
        """The finished samples of an earlier job; None if there is no such job."""
        if self._identity is None:
            return None
        try:
            header, *lines = self._list.read_text(encoding="utf-8").split("\n")[:-1]
            same = json.loads(header) == self._header
            return [json.loads(line) for line in lines] if same else None
        except (FileNotFoundError, ValueError):
            return None

    def _append(self) -> None:
        with self._list.open("a", encoding="utf-8") as file:
            for batch in self._unlisted:
                line = (batch.group, batch.samples.start, len(batch.samples))
                file.write(f"{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())

    def _allocate(self) -> None:
        self._list.unlink(missing_ok=True)
        with h5py.File(self._working, "w") as file:
            file.attrs.update(self._attributes.as_hdf5())
            for group, shape in self._shapes.items():
                _allocate(file.create_group(group), shape, self._dtype)
        with self._working.open("rb") as written:
            os.fsync(written.fileno())

    def _open_files(self) -> None:
        self._hdf5 = h5py.File(self._working, "r")
        self._datasets = {group: self._hdf5[f"{group}/{DATASET}"] for group in self._shapes}
        # Groups may have different channels.
        self._files = {
            state: SharedFile(self._working, self._grid_comm, state, self._part, self._dtype)
            for state in dict.fromkeys(shape[2:] for shape in self._shapes.values())
        }

    def _sync(self) -> None:
        for file in self._files.values():
            file.sync()

    def _address(self, group: str, sample: int, step: int) -> int:
        """The address of a state in the file."""
        dataset = self._datasets[group]
        if dataset.chunks is None:
            state = int(np.prod(dataset.shape[2:])) * dataset.dtype.itemsize
            return int(dataset.id.get_offset() + (sample * dataset.shape[1] + step) * state)
        corner = (sample, step, *(0 for _ in dataset.shape[2:]))
        return int(dataset.id.get_chunk_info_by_coord(corner).byte_offset)

    def _close(self) -> None:
        self._close_dataset()
        for file in self._files.values():
            file.close()

    def _close_dataset(self) -> None:
        self._hdf5.close()

    def _rename(self) -> None:
        if self._complete is not None:
            with h5py.File(self._working, "r+", libver=READABLE) as file:
                self._complete(file)
        with self._working.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(self._working, self._path)
        with suppress(OSError):
            self._list.unlink(missing_ok=True)
        remove_parts(self._path)
        remove_leftovers(self._path)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Run an action on all ranks, with one error message if it fails."""

        def explained() -> None:
            with self._explained():
                action()

        call_together(self._world, explained)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be written ({reason_of(error)}); choose another output=… "
                "or --out"
            ) from error


def _slice(samples: range) -> slice:
    return slice(samples.start, samples.stop)


def _allocate(group: h5py.Group, shape: tuple[int, ...], dtype: Any) -> None:
    """Create a data set whose chunks of one state have addresses, but no content, in the file."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    chunks = state_chunks(shape, dtype)
    if chunks is not None:
        creation.set_chunk(chunks)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    # Equal data are equal files.
    creation.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(group.id, DATASET.encode(), h5py.h5t.py_create(dtype), space, creation)


def remove_parts(path: Path) -> None:
    """Remove the folders in which earlier versions of this package wrote parts of a file."""
    # Only the parts of this file: those of `heat.fine.h5` are not parts of `heat.h5`.
    own_parts = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{8}}\.parts")
    for old in path.parent.iterdir():
        if own_parts.fullmatch(old.name):
            shutil.rmtree(old, ignore_errors=True)


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
    alone = MPI.COMM_SELF
    with TrajectoryWriter(path, alone, alone, attributes, shapes, whole, dtype=dtype) as writer:
        for group, array in groups.items():
            for step in range(array.shape[1]):
                writer.write(Batch(group, range(len(array))), step, array[:, step])
