"""Correctness and reliability: streamed training on several ranks is that in memory, and an error
of one rank's reading thread is raised by all ranks.
"""

from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc.config import validate
from prdp_hpc.data import DataError, TrajectoryFile, share
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import build_task

WORLD = MPI.COMM_WORLD
STATES = np.random.default_rng(0).standard_normal((5, 6, 1, 8))
RESNET = {"kind": "resnet", "channels": 3, "blocks": 1}


@pytest.fixture
def file(tmp_path):
    """One file for all ranks: 20 windows for training, 12 for validation."""
    path = Path(WORLD.bcast(str(tmp_path))) / "all.h5"
    if WORLD.rank == 0:
        with h5py.File(path, "w") as stored:
            stored["train/trajectories"], stored["validation/trajectories"] = STATES, STATES[2:]
    WORLD.barrier()
    return path


@contextmanager
def task_on(file, grid_ranks, comm=WORLD, make=tiny.emulator, files=None, **data):
    content = make(
        file.parent,
        data={"file": files or str(file), "stride": 1, **data},
        network=RESNET,
        # Replicas with 1 and 2 samples of a batch divide them into 1 and 2 parts.
        training={"batch_size": 3, "accumulate": 2},
    )
    mesh = ProcessMesh.from_world(grid_ranks, comm)
    task = build_task(validate(content, "here"), mesh)
    task.solver.refine(3)
    yield task
    task.close()
    mesh.close()


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 4])
@pytest.mark.parametrize("grid_ranks", [1, 2])
def test_streamed_training_is_that_in_memory(grid_ranks, file):
    found = []
    for in_memory in (True, False):
        with task_on(file, grid_ranks, in_memory=in_memory) as task:
            losses = [task.train_epoch(epoch) for epoch in (1, 2)]
            parameters = torch.nn.utils.parameters_to_vector(task.network.parameters())
            gradient = task.gradient().tolist()
            found.append((losses, task.validate(), task.test(), parameters.tolist(), gradient))
    assert found[0] == found[1]


@pytest.mark.parallel(nprocs=2)
def test_training_on_joined_files_is_that_on_the_whole_file(file):
    parts = [file.with_name(f"{name}.h5") for name in "ab"]
    if WORLD.rank == 0:
        for part, rows in zip(parts, (slice(0, 2), slice(2, None)), strict=True):
            with h5py.File(part, "w") as stored:
                stored["train/trajectories"] = STATES[rows]
                if part == parts[1]:
                    stored["validation/trajectories"] = STATES[2:]
    WORLD.barrier()
    found = []
    for files in (None, [str(part) for part in parts]):
        with task_on(file, WORLD.size, files=files, in_memory=False) as task:
            loss = task.train_epoch(1)
            parameters = torch.nn.utils.parameters_to_vector(task.network.parameters())
            found.append((loss, task.validate(), parameters.tolist()))
    assert found[0] == found[1]


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 4])
@pytest.mark.parametrize("make", [tiny.emulator, tiny.corrector])
def test_validation_is_that_of_one_rank_and_equal_on_all(make, file):
    with task_on(file, 1, MPI.COMM_SELF, make) as task:
        expected = task.validate()
    for grid_ranks in (1, 2):
        with task_on(file, grid_ranks, make=make, in_memory=False) as task:
            found = task.validate()
            means = {k: np.mean(v) for k, v in task.test()["samples"].items()}
        assert found == pytest.approx(expected, rel=1e-10)
        assert means == pytest.approx(expected, rel=1e-10)
        assert WORLD.allgather(found) == [found] * WORLD.size


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 4])
def test_the_statistics_of_channels_are_those_of_one_rank(file):
    found = []
    for comm, grid_ranks in ((MPI.COMM_SELF, 1), (WORLD, 1), (WORLD, 2)):
        with task_on(file, grid_ranks, comm, tiny.corrector, normalise="standard") as task:
            found.append(task.network.get_extra_state())
            losses = WORLD.allgather(task.train_epoch(1))
            assert len(set(losses)) == 1
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-13, atol=1e-15)


@pytest.mark.parallel(nprocs=2)
@pytest.mark.parametrize("method", ["read_windows", "cached_windows"])
def test_an_error_of_one_ranks_reading_is_raised_by_all(method, file, monkeypatch):
    own = getattr(TrajectoryFile, method)

    def read(data, group, places, length, part):
        if WORLD.rank == 1 and group == "train":
            raise DataError("made up")
        return own(data, group, places, length, part)

    with task_on(file, 1, in_memory=False) as task:
        monkeypatch.setattr(TrajectoryFile, "cached_windows", lambda *_: None)
        monkeypatch.setattr(TrajectoryFile, method, read)
        with pytest.raises(DataError, match="made up"):
            task.train_epoch(1)


@pytest.mark.parallel(nprocs=4)
def test_the_samples_of_a_resumed_run_are_those_of_an_uninterrupted_one(file):
    """Four ranks stop in the middle of an epoch, and two continue."""
    seen = []

    def record(task, comm, first, last):
        own = task._backward

        def backward(batch):
            mine = share(batch, task.mesh.replica, task.mesh.replicas)
            seen.append([int(i) for part in comm.allgather(mine.tolist()) for i in part])
            return own(batch)

        task._backward = backward
        task.train_steps(first, last)
        return task.state_dict()

    with task_on(file, 1, in_memory=False) as task:
        state = record(task, WORLD, 0, 10)
        order = [batch.tolist() for epoch in (1, 2) for batch in task._sampler.batches(epoch)]
    pair = WORLD.Split(WORLD.rank // 2)
    with task_on(file, 1, pair, in_memory=False) as task:
        task.load_state_dict(state)
        record(task, pair, 10, 14)
    assert seen == order
    assert sorted(np.concatenate(seen[:7])) == list(range(20))
