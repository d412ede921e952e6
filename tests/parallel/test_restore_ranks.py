"""Property: a run is restored on all ranks, and its checkpoint is read once, by one rank."""

from pathlib import Path

import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc.config import validate
from prdp_hpc.distributed import broadcast
from prdp_hpc.experiments.run import train
from prdp_hpc.tasks.random_states import random_state
from prdp_hpc.training.trainer import Trainer

WORLD = MPI.COMM_WORLD


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


def bytes_read():
    """Bytes that this process has read by system calls, from the page cache too."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


@pytest.mark.long_on(4)
@pytest.mark.parallel(nprocs=[2, 4])
def test_a_state_is_equal_on_all_ranks(monkeypatch):
    monkeypatch.setattr(broadcast, "PIECE", 24)
    state = {
        "weights": torch.arange(12.0).reshape(3, 4).T,
        "nested": [(torch.tensor(3), "text"), {"half": torch.ones(5, dtype=torch.bfloat16)}],
        "empty": torch.zeros(0, 3),
        2: None,
    }
    found = broadcast.broadcast(WORLD, state if WORLD.rank == 0 else None)
    assert list(found) == list(state)
    assert torch.equal(found["weights"], state["weights"])
    (number, text), inner = found["nested"]
    assert (int(number), text, inner["half"].dtype) == (3, "text", torch.bfloat16)
    assert torch.equal(inner["half"], torch.ones(5, dtype=torch.bfloat16))
    assert (found["empty"].shape, found[2]) == ((0, 3), None)


@pytest.mark.long_on(4)
@pytest.mark.parallel(nprocs=[2, 4])
def test_a_checkpoint_is_read_once(folder, monkeypatch):
    if not Path("/proc/self/io").exists():
        pytest.skip("this system does not count bytes")
    read = []

    def restore(trainer, own=Trainer.restore):
        before = bytes_read()
        own(trainer)
        read.append(bytes_read() - before)

    def run(epochs, **parallel):
        section = {"epochs": epochs, "precision": "float32"}
        changes = {"network": {"hidden": [700, 700]}, "training": section, "parallel": parallel}
        return train(validate(tiny.emulator(folder, **changes), "here"), resume=True)

    run(1)
    monkeypatch.setattr(Trainer, "restore", restore)
    WORLD.barrier()
    names = ("epoch_0001.pt", "best.pt")
    size = sum((folder / "tiny" / "checkpoints" / name).stat().st_size for name in names)
    WORLD.barrier()
    run(2)
    run(3, grid_ranks=2)
    assert size > 5e6
    if WORLD.rank == 0:
        assert size <= read[0] < 1.2 * size
    else:
        assert read[0] < 0.2 * size


@pytest.mark.parallel(nprocs=2)
def test_the_grid_ranks_of_a_replica_have_one_random_stream_after_other_replicas(
    folder, monkeypatch
):
    found = []

    def restore(trainer, own=Trainer.restore):
        own(trainer)
        found.append(random_state()["torch"])

    monkeypatch.setattr(Trainer, "restore", restore)

    def run(epochs, grid_ranks):
        content = tiny.emulator(folder, training={"epochs": epochs}, seed=3)
        content["parallel"] = {"grid_ranks": grid_ranks}
        train(validate(content, "here"), resume=epochs > 1)
        return WORLD.allgather(found[-1]) if epochs > 1 else None

    run(1, 1)
    first, second = run(2, 2)
    assert torch.equal(first, second)
    first, second = run(3, 1)
    assert not torch.equal(first, second)
