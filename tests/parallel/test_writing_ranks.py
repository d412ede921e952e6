"""Property: trajectories that ranks write in parts are one plain file, written atomically."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from prdp_hpc import Grid
from prdp_hpc.data import (
    DataError,
    TrajectoryAttributes,
    TrajectoryFile,
    TrajectoryWriter,
    share,
)
from prdp_hpc.data.writer import Batch
from prdp_hpc.distributed.process_mesh import ProcessMesh

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


def write(path, grid, mesh_comm, replica, replicas, fail_on=None):
    """Each replica writes its share of the samples, each grid rank its part."""
    shapes = {group: whole(group).shape for group in COUNTS}
    shapes["points"] = (1, 3, 1, *SHAPE)  # with another number of channels
    arrays = {group: whole(group) for group in COUNTS}
    arrays["points"] = whole("train")[:1, :, :1]
    with TrajectoryWriter(
        path, mesh_comm, grid.comm, attributes(), shapes, grid.local_slices, dtype=np.float64
    ) as writer:
        for group, array in arrays.items():
            mine = share(np.arange(len(array)), replica, replicas)
            samples = range(mine[0], mine[-1] + 1) if len(mine) else range(0)
            for step in range(3):
                states = array[samples.start : samples.stop, step]
                writer.write(Batch(group, samples), step, states[(..., *grid.local_slices)])
        if fail_on is not None:
            raise ValueError("stopped")


def check(path, grid):
    with h5py.File(path) as file:
        assert file["train/trajectories"].chunks == (1, 1, 2, *SHAPE)
        assert file["train/trajectories"].dtype == np.float64
        assert np.array_equal(file["points/trajectories"], whole("train")[:1, :, :1])
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


@pytest.mark.parallel(nprocs=[1, 2, 4])
def test_parts_are_one_plain_file(folder):
    for grid_ranks in {1, WORLD.size}:
        mesh = ProcessMesh.from_world(grid_ranks)
        grid = Grid(SHAPE, "periodic", mesh.grid_comm)
        place = (WORLD, mesh.replica, mesh.replicas)
        for _ in range(2):  # the second replaces the first
            write(folder / "a.h5", grid, *place)
            WORLD.barrier()
            check(folder / "a.h5", grid)
        assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == {"a.h5"}
        before = os.stat(folder / "a.h5").st_mtime_ns
        with pytest.raises(ValueError, match="stopped"):
            write(folder / "a.h5", grid, *place, fail_on=0)
        WORLD.barrier()
        assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == {"a.h5"}
        assert os.stat(folder / "a.h5").st_mtime_ns == before
        WORLD.barrier()
        mesh.close()


@pytest.mark.parallel(nprocs=2)
def test_a_folder_that_cannot_be_written_is_an_error_on_all_ranks(folder):
    (folder / "file").touch()
    WORLD.barrier()
    with pytest.raises(DataError, match=r"a\.h5: cannot be written .* choose another output"):
        write(folder / "file" / "a.h5", Grid(SHAPE, "periodic"), WORLD, 0, 1)
