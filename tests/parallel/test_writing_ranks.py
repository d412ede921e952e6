"""Property: trajectories that ranks write in parts are read as those of one rank, and are written
atomically.
"""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from prdp_hpc import Grid
from prdp_hpc.data import DataError, TrajectoryAttributes, TrajectoryFile, TrajectoryWriter

WORLD = MPI.COMM_WORLD
SHAPE = (7, 5)
COUNTS = {"train": 6, "validation": 2}


def attributes():
    return TrajectoryAttributes(
        "heat", SHAPE, "periodic", 1.0, {"dt": 0.1, "diffusivity": 1.0}, ("u", "v"), "made up"
    )


def whole(group):
    shape = (COUNTS[group], 3, 2, *SHAPE)
    return np.random.default_rng(len(group)).standard_normal(shape).astype(np.float32)


def write(path, grid, fail_on=None):
    shapes = {group: whole(group).shape for group in COUNTS}
    with TrajectoryWriter(path, grid.comm, attributes(), shapes, grid.local_slices) as writer:
        for group, count in COUNTS.items():
            for first in range(0, count, 4):
                part = whole(group)[first : first + 4]
                writer.write(group, first, part[(..., *grid.local_slices)])
        if fail_on is not None:
            raise ValueError("stopped")


def check(path, grid):
    one_file = WORLD.size == 1 or h5py.get_config().mpi
    plain = path if one_file else next(path.parent.glob(f"*.parts/rank_{WORLD.rank:05d}.h5"))
    with h5py.File(plain) as file:
        shape = SHAPE if one_file else grid.local_shape
        assert file["train/trajectories"].chunks == (1, 1, 2, *shape)
    data = TrajectoryFile(path, SHAPE)
    for group in COUNTS:
        assert np.array_equal(data.read(group), whole(group))
        assert np.array_equal(
            data.read(group, part=grid.local_slices), whole(group)[(..., *grid.local_slices)]
        )
    assert data.attributes["pde"] == "heat"


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


@pytest.mark.parallel(nprocs=[1, 2, 3, 4])
def test_parts_read_back_as_one(folder):
    grid = Grid(SHAPE, "periodic")
    for _ in range(2):  # the second replaces the first
        write(folder / "a.h5", grid)
        WORLD.barrier()
        check(folder / "a.h5", grid)
    separate = WORLD.size > 1 and not h5py.get_config().mpi
    assert len(list(folder.glob("*.parts"))) == int(separate)
    assert {path.suffix for path in folder.iterdir()} <= {".h5", ".parts"}
    before = {path: os.stat(path).st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match="stopped"):
        write(folder / "a.h5", grid, fail_on=0)
    WORLD.barrier()
    assert {
        path: os.stat(path).st_mtime_ns for path in folder.rglob("*") if path in before
    } == before
    check(folder / "a.h5", grid)
    WORLD.barrier()
    if WORLD.rank == 0:
        shutil.move(folder, folder.with_name("moved"))
    WORLD.barrier()
    check(folder.with_name("moved") / "a.h5", grid)
    WORLD.barrier()
    if separate:
        if WORLD.rank == 0:
            next(folder.with_name("moved").glob("*.parts/rank_00001.h5")).unlink()
        WORLD.barrier()
        with pytest.raises(DataError, match="contains NaN"):
            TrajectoryFile(folder.with_name("moved") / "a.h5", SHAPE).read("train")


@pytest.mark.parallel(nprocs=2)
def test_a_folder_that_cannot_be_written_is_an_error_on_all_ranks(folder):
    (folder / "file").touch()
    WORLD.barrier()
    with pytest.raises(DataError, match=r"a\.h5: cannot be written .* choose another output"):
        write(folder / "file" / "a.h5", Grid(SHAPE, "periodic"))
