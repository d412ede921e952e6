"""Correctness: states that are read from a file without HDF5 are those that HDF5 reads, for each
way in which HDF5 can store them.
"""

import errno
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from prdp_hpc.data import DataError, TrajectoryFile, reader
from prdp_hpc.data.plain_states import PlainStates

SHAPE = (3, 7, 2, 6, 5)  # trajectories, states, channels, points
TYPES = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "i1", ">u2", "<i4"]
PARTS = {
    "whole": (slice(0, 6), slice(0, 5)),
    "rows": (slice(2, 5), slice(0, 5)),
    "columns": (slice(0, 6), slice(1, 4)),
    "nothing": (slice(3, 3), slice(0, 5)),
}
PLAIN = {
    "contiguous": {},
    "a chunk per state": {"chunks": (1, 1, 2, 6, 5)},
    "a chunk per trajectory": {"chunks": (1, 7, 2, 6, 5)},
    "chunks of several states": {"chunks": (2, 3, 2, 6, 5)},
    "growing": {"chunks": (2, 4, 2, 6, 5), "maxshape": (None, None, 2, 6, 5)},
}
OTHER = {
    "compressed": {"chunks": (1, 1, 2, 6, 5), "compression": "gzip"},
    "shuffled": {"chunks": (1, 1, 2, 6, 5), "shuffle": True},
    "with checksums": {"chunks": (1, 1, 2, 6, 5), "fletcher32": True},
    "chunks of a part": {"chunks": (1, 1, 1, 6, 5)},
    "external": {"external": "numbers.raw"},
}


def states_of(dtype, shape=SHAPE):
    whole = np.random.default_rng(0).integers(0, 100, shape)
    return (whole / 4 if np.dtype(dtype).kind == "f" else whole).astype(dtype)


def stored(path, whole, userblock=0, **options):
    with h5py.File(path, "w", userblock_size=userblock) as file:
        for group in ("train", "validation"):
            file.create_dataset(f"{group}/trajectories", data=whole, dtype=whole.dtype, **options)
    return path


@pytest.fixture
def reads(monkeypatch):
    """The number of bytes that were read without HDF5."""
    found, own = [], os.preadv

    def preadv(*arguments):
        found.append(own(*arguments))
        return found[-1]

    monkeypatch.setattr(os, "preadv", preadv)
    return found


def check(path, whole, places=((0, 0), (2, 4), (1, 1), (1, 2), (1, 4)), length=3):
    """Compare all parts of some windows, the last ones of which overlap."""
    data = TrajectoryFile(path, whole.shape[-2:])
    for part in PARTS.values():
        found = data.read_windows("train", places, length, part)
        expected = np.stack([whole[t, s : s + length] for t, s in places])[(..., *part)]
        assert found.dtype == (np.float64 if whole.dtype.str[1:] == "f8" else np.float32)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
        cached = data.cached_windows("train", places, length, part)
        if cached is not None:
            np.testing.assert_array_equal(cached, found, strict=True)
    data.close()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", PLAIN)
def test_plain_states_are_read_without_hdf5(layout, dtype, reads, tmp_path):
    whole = states_of(dtype)
    check(stored(tmp_path / "a.h5", whole, **PLAIN[layout]), whole)
    rows = 2 * 3 * 5 * whole.dtype.itemsize  # those of a state in the part "rows"
    assert sum(reads) in (5 * 3 * 3 * rows, 2 * 5 * 3 * 3 * rows)  # once or twice


@pytest.mark.parametrize("layout", OTHER)
def test_other_states_are_read_by_hdf5(layout, reads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dtype in ("<f4", ">f8"):
        whole = states_of(dtype)
        check(stored(tmp_path / "a.h5", whole, **OTHER[layout]), whole)
    assert not reads


def test_files_in_which_addresses_mean_something_else(reads, tmp_path):
    """A block before the file, a virtual data set, numbers of other types, and a small data set
    inside its header.
    """
    whole = states_of("<f4")
    check(stored(tmp_path / "block.h5", whole, userblock=512, chunks=(1, 1, 2, 6, 5)), whole)
    stored(tmp_path / "source.h5", whole)
    layout = h5py.VirtualLayout(SHAPE, "<f4")
    layout[...] = h5py.VirtualSource(tmp_path / "source.h5", "train/trajectories", SHAPE)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        for group in ("train", "validation"):
            file.create_virtual_dataset(f"{group}/trajectories", layout)
    check(tmp_path / "virtual.h5", whole)
    for name, kind in {"odd": h5py.h5t.IEEE_F64LE.copy(), "compact": h5py.h5t.IEEE_F32LE}.items():
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if name == "odd":
            kind.set_ebias(1000)
        else:
            created.set_layout(h5py.h5d.COMPACT)
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for group in ("train", "validation"):
                space = h5py.h5s.create_simple(SHAPE)
                inside = file.create_group(group).id
                h5py.h5d.create(inside, b"trajectories", kind, space, created)
                file[f"{group}/trajectories"][...] = whole
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert PlainStates.of(file["train/trajectories"]) is None
    check(tmp_path / "compact.h5", whole)
    assert not reads


def test_states_that_were_never_written_are_the_fill_value(reads, tmp_path):
    whole = np.full(SHAPE, 0.5, dtype="<f4")
    whole[1, :2] = states_of("<f4")[1, :2]
    for name, options in PLAIN.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for group in ("train", "validation"):
                made = file.create_dataset(
                    f"{group}/trajectories", SHAPE, "<f4", fillvalue=0.5, **options
                )
                made[1, :2] = whole[1, :2]
        check(tmp_path / f"{name}.h5", whole)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        for group in ("train", "validation"):
            file.create_dataset(f"{group}/trajectories", SHAPE, "<f4")
    check(tmp_path / "empty.h5", np.zeros(SHAPE, "<f4"))


def test_a_file_that_is_also_written_is_read_by_hdf5(reads, tmp_path):
    """Its last numbers may be in the memory of this process only."""
    whole = states_of("<f4")
    path = stored(tmp_path / "a.h5", whole, chunks=(1, 1, 2, 6, 5))
    with h5py.File(path, "r+") as file:
        file["train/trajectories"][...] = 2 * whole
        check(path, 2 * whole)
    assert not reads


def test_states_that_are_not_in_the_cache_are_left_to_a_thread(tmp_path, monkeypatch):
    """So are those of a file that another thread is reading, and what cannot be read."""
    whole, part = states_of("<f4"), PARTS["whole"]
    data = TrajectoryFile(stored(tmp_path / "a.h5", whole), (6, 5))
    own = os.preadv
    for error in (BlockingIOError(), OSError(errno.EOPNOTSUPP, "not supported")):

        def preadv(descriptor, buffers, address, flags, error=error):
            if flags == reader.NOT_WAITING:
                raise error
            return own(descriptor, buffers, address, flags)

        with monkeypatch.context() as patched:
            patched.setattr(os, "preadv", preadv)
            assert data.cached_windows("train", [(1, 2)], 3, part) is None
            np.testing.assert_array_equal(
                data.read_windows("train", [(1, 2)], 3, part)[0], whole[1, 2:5]
            )
    with ThreadPoolExecutor(1) as other, data._lock:
        assert other.submit(data.cached_windows, "train", [(1, 2)], 3, part).result() is None
    data.close()
    data.path.unlink()
    assert data.cached_windows("train", [(1, 2)], 3, part) is None


@pytest.mark.parametrize("options", [PLAIN["contiguous"], PLAIN["a chunk per state"]])
def test_a_file_that_ends_early_is_an_error(options, tmp_path):
    whole = states_of("<f4")
    data = TrajectoryFile(stored(tmp_path / "a.h5", whole, **options), (6, 5))
    data.read_windows("train", [(0, 0)], 1, PARTS["whole"])
    os.truncate(data.path, 3000)
    with pytest.raises(DataError, match=r"train/trajectories cannot be read, the file is damaged"):
        data.read_windows("train", list(itertools.product(range(3), range(5))), 3, PARTS["whole"])
    data.close()
