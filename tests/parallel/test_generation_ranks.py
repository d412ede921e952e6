"""Property: generated trajectories are equal on any number of replicas, and on any number of grid
ranks up to the tolerance of the solver; an interrupted generation continues on other ranks.
"""

from pathlib import Path

import numpy as np
import pytest
import tiny
from mpi4py import MPI

from prdp_hpc.config import validate
from prdp_hpc.data import TrajectoryFile, writer
from prdp_hpc.distributed.preemption import Preempted
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import build_grid
from prdp_hpc.generation import generate as generation
from prdp_hpc.grid.structured import Grid

WORLD = MPI.COMM_WORLD
BURGERS = {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05}


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


@pytest.fixture
def config(folder):
    grid = {"shape": [8, 6], "boundary": "periodic"}
    changes = {"grid": grid, "physics": BURGERS, "data": {"train": 16, "validation": 3}}
    return validate(tiny.corrector(folder, **changes), "here")


def on_mesh(config, path, grid_ranks):
    mesh = ProcessMesh.from_world(grid_ranks)
    try:
        generation.generate(config, build_grid(config, mesh), path, mesh)
    finally:
        mesh.close()


def one_rank(config, path):
    """The file of one rank."""
    if WORLD.rank == 0:
        section = config.grid
        generation.generate(config, Grid(section.shape, section.boundary, MPI.COMM_SELF), path)
    WORLD.barrier()
    return path.read_bytes()


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 4])
def test_replicas_and_grid_ranks_give_the_file_of_one_rank(folder, config):
    whole = one_rank(config, folder / "one.h5")
    for grid_ranks in (1, 2, WORLD.size):
        path = folder / f"{grid_ranks}.h5"
        on_mesh(config, path, grid_ranks)
        if grid_ranks == 1:
            assert path.read_bytes() == whole
        for group in ("train", "validation"):
            one, several = (TrajectoryFile(file).read(group) for file in (folder / "one.h5", path))
            np.testing.assert_allclose(several, one, atol=1e-6)
    WORLD.barrier()
    assert {path.suffix for path in folder.iterdir()} == {".h5"}


@pytest.mark.parallel(nprocs=4)
def test_an_interrupted_generation_continues_on_other_ranks(folder, config, monkeypatch):
    whole = one_rank(config, folder / "one.h5")
    monkeypatch.setattr(writer, "RECORD_SECONDS", 0.0)
    after_step = generation.PreemptionWatch.after_step
    path, batches = folder / "a.h5", []

    def compute(batch, *arguments, own=generation._compute):
        batches.append(batch)
        own(batch, *arguments)

    monkeypatch.setattr(generation, "_compute", compute)
    monkeypatch.setattr(generation.PreemptionWatch, "after_step", lambda watch: True)
    # Batches of 4 of the 5: 16 training samples are 4 batches, 3 validation samples are one.
    with pytest.raises(Preempted):
        on_mesh(config, path, 2)
    monkeypatch.setattr(generation.PreemptionWatch, "after_step", after_step)
    assert len(batches) == 1
    on_mesh(config, path, 1)
    assert len(batches) == 2
    done = {batch.samples.start for both in WORLD.allgather(batches) for batch in both if batch}
    assert done == {0, 5, 10, 15}
    one, several = (TrajectoryFile(file).read("train") for file in (folder / "one.h5", path))
    np.testing.assert_allclose(several, one, atol=1e-6)
    np.testing.assert_array_equal(several[10:], one[10:])
    assert len(path.read_bytes()) == len(whole)
