"""A checkpoint returns the saved state, executes no code, and is written atomically."""

from __future__ import annotations

import collections
import os
import pickle
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.tasks.random_states import random_state, restore_random_state
from prdp_hpc.training import checkpoint
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.checksummed import DamagedError, load_checksummed, save_checksummed
from prdp_hpc.training.settings import CheckpointError, check_fit, fingerprint, flat_settings

SETTINGS: dict[str, Any] = {
    "task": "emulator",
    "training": {"batch_size": 25, "decay": 0.9},
    "hidden": [64, 64],
}
FLAT = st.dictionaries(
    st.text(max_size=3),
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    max_size=4,
)


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    optimiser.step()
    return model, optimiser


def test_model_and_optimiser_are_restored(tmp_path: Path) -> None:
    model, optimiser = trained()
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "coordinator": {"history": [1.0], "level": 3},
    }
    path = Checkpoints(tmp_path).save(7, state)
    assert path == tmp_path / "epoch_0007.pt"
    found = Checkpoints(tmp_path).load(path)
    assert (found["epoch"], found["coordinator"]) == (7, {"history": [1.0], "level": 3})
    other, other_optimiser = trained()
    other.load_state_dict(found["model"])
    other_optimiser.load_state_dict(found["optimiser"])
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    moments = optimiser.state_dict()["state"][0]["exp_avg"]
    assert torch.equal(other_optimiser.state_dict()["state"][0]["exp_avg"], moments)


@given(keep=st.integers(1, 3), epochs=st.integers(1, 6))
def test_only_the_last_ones_are_kept(
    tmp_path_factory: pytest.TempPathFactory, keep: int, epochs: int
) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints"), keep=keep)
    for epoch in range(epochs):
        checkpoints.save(epoch, {})
    kept = [f"epoch_{epoch:04d}.pt" for epoch in range(max(0, epochs - keep), epochs)]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == kept
    assert checkpoints.latest() == checkpoints.folder / kept[-1]


def test_later_epochs_of_an_abandoned_attempt_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for epoch in (4, 5, 6, 5):
        checkpoints.save(epoch, {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["epoch_0004.pt", "epoch_0005.pt"]


def test_the_order_is_the_epochs_not_the_letters(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in (9999, 10000):
        checkpoints.save(epoch, {})
    assert checkpoints.load_latest() == checkpoints.load(tmp_path / "epoch_10000.pt")


def test_a_failed_save_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"done": 10})

    def half(content: object, path: Path) -> None:
        path.write_bytes(b"PK half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(
        CheckpointError,
        match=r"cannot be written \(disk full\); earlier ones are intact: free",
    ):
        checkpoints.save(2, {"done": 20})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0001.pt"]
    found = checkpoints.load_latest()
    assert found is not None
    assert found["done"] == 10


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.float64(1.0), r"state\['a'\]\['b'\]\[1\]: float64"),
        (np.zeros(2), "ndarray"),
        (collections.deque(), "deque"),
        ({1}, "set"),
        (Path("x"), "Path"),
    ],
)
def test_objects_that_could_not_be_read_are_not_saved(
    tmp_path: Path, value: object, where: str
) -> None:
    with pytest.raises(TypeError, match=where):
        Checkpoints(tmp_path).save(0, {"a": {"b": [0, value]}})
    assert list(tmp_path.iterdir()) == []


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))]
)
def test_nothing_in_a_foreign_file_is_executed(tmp_path: Path, save: Any) -> None:
    save({"format": Attack(tmp_path / "executed")}, tmp_path / "epoch_0001.pt")
    with pytest.raises(
        CheckpointError,
        match=r"epoch_0001\.pt: has no checksum .* another program; .* start the run again",
    ):
        Checkpoints(tmp_path).load(tmp_path / "epoch_0001.pt")
    assert not (tmp_path / "executed").exists()
    save_checksummed({"format": Attack(tmp_path / "executed")}, tmp_path / "epoch_0001.pt")
    with pytest.raises(
        CheckpointError,
        match=r"epoch_0001\.pt: cannot be read as a checkpoint .* start the run again",
    ):
        Checkpoints(tmp_path).load(tmp_path / "epoch_0001.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [{"weights": torch.zeros(2)}, torch.zeros(2), {"format": "prdp-hpc checkpoint 1"}]
)
def test_a_file_of_another_program_is_rejected(tmp_path: Path, content: object) -> None:
    save_checksummed(content, tmp_path / "epoch_0001.pt")
    with pytest.raises(
        CheckpointError, match=r"epoch_0001\.pt: is not a checkpoint of this version"
    ):
        Checkpoints(tmp_path).load(tmp_path / "epoch_0001.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"epoch_0001\.pt: no such checkpoint"):
        Checkpoints(tmp_path).load(tmp_path / "epoch_0001.pt")


def damage_cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_flip(content: bytes) -> bytes:
    # Inside the stored tensor, whose bytes are all 1.
    place = content.index(b"\x01" * 64) + 10
    return content[:place] + b"\x00" + content[place + 1 :]


def damage_all(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_all])
def test_the_previous_checkpoint_replaces_a_damaged_one(tmp_path: Path, damage: Any) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 2):
        checkpoints.save(epoch, {"weights": torch.ones(4096, dtype=torch.uint8)})
    newest = tmp_path / "epoch_0002.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.raises(CheckpointError, match=r"epoch_0002\.pt"):
        checkpoints.load(newest)
    with pytest.warns(RuntimeWarning, match=r"epoch_0002\.pt.*trying the previous checkpoint"):
        found = checkpoints.load_latest()
    assert found is not None
    assert found["epoch"] == 1


def test_a_single_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(1, {"weights": torch.arange(100.0), "names": ["a", "b"]})
    content = path.read_bytes()
    assert torch.load(path, weights_only=True)["names"] == [
        "a",
        "b",
    ]  # any version of torch can read it
    for place in range(len(content)):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        )
        with pytest.raises(DamagedError):
            load_checksummed(path)
    path.write_bytes(content)
    assert torch.equal(load_checksummed(path)["weights"], torch.arange(100.0))


def test_steps_of_an_epoch_lie_between_epochs(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=4)
    for epoch, step in ((3, 0), (3, 2), (3, 11), (4, 0), (3, 7)):
        checkpoints.save(epoch, {}, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch_0003.pt",
        "epoch_0003_step_0002.pt",
        "epoch_0003_step_0007.pt",
    ]
    found = checkpoints.load_latest()
    assert found is not None
    assert (found["epoch"], found["step"]) == (3, 7)


def test_saving_in_the_background_stores_the_state_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, weights, may_write = Checkpoints(tmp_path), torch.zeros(3), threading.Event()

    def slow(content: object, path: Path) -> None:
        assert may_write.wait(10)
        save_checksummed(content, path)

    monkeypatch.setattr(checkpoint, "save_checksummed", slow)
    path = checkpoints.save_soon(1, {"weights": weights})
    weights += 1
    assert not path.exists()
    may_write.set()
    checkpoints.finish()
    assert torch.equal(checkpoints.load(path)["weights"], torch.zeros(3))


def test_no_checkpoint_is_none_but_only_damaged_ones_are_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None
    assert checkpoints.load_latest() is None
    checkpoints.save(1, {}).write_bytes(b"")
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(CheckpointError, match="none of the 1 checkpoints can be read"),
    ):
        checkpoints.load_latest()


def test_other_settings_are_rejected_by_name(tmp_path: Path) -> None:
    for epoch in (1, 2):
        Checkpoints(tmp_path, settings=SETTINGS).save(epoch, {})
    now = {**SETTINGS, "training": {"batch_size": 50, "decay": 0.9}, "seed": 3}
    expected = (
        r"epoch_0002\.pt: .*seed: absent in the checkpoint, 3 now; "
        r"training\.batch_size: 25 in the checkpoint, 50 now"
    )
    with pytest.raises(CheckpointError, match=expected) as caught:
        Checkpoints(tmp_path, settings=now).load_latest()
    assert "decay" not in str(caught.value)
    reordered = dict(reversed(SETTINGS.items()))
    found = Checkpoints(tmp_path, settings=reordered).load_latest()
    assert found is not None
    assert found["epoch"] == 2


@given(FLAT, FLAT)
def test_settings_fit_where_they_are_equal(saved: dict[str, Any], now: dict[str, Any]) -> None:
    assert (fingerprint(saved) == fingerprint(now)) == (saved == now)
    if saved == now:
        check_fit(saved, now)
    else:
        with pytest.raises(CheckpointError, match="saved with other settings"):
            check_fit(saved, now)


def test_flat_settings_join_their_keys() -> None:
    flat = {
        "task": "emulator",
        "training.batch_size": 25,
        "training.decay": 0.9,
        "hidden": [64, 64],
    }
    assert flat_settings(SETTINGS) == flat
    assert flat_settings(flat) == flat


def draw() -> list[float]:
    return [
        *torch.rand(3).tolist(),
        *torch.randn(3).tolist(),
        *np.random.standard_normal(3),
        random.random(),
        random.gauss(),
    ]


@given(st.integers(0, 2**31), st.integers(0, 5))
def test_random_numbers_continue_without_interruption(
    tmp_path_factory: pytest.TempPathFactory, seed: int, before: int
) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    for _ in range(before):
        draw()
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    path = checkpoints.save(0, {"random": random_state()})
    expected = draw()
    draw()
    restore_random_state(checkpoints.load(path)["random"])
    assert draw() == expected


def test_keeping_none_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be an integer of at least 1"):
        Checkpoints(tmp_path, keep=0)
