"""Reliability: a resumed run continues with data that have been moved, and with no other data."""

import json
import re
import shutil

import pytest
import tiny

from prdp_hpc import train
from prdp_hpc.config import validate
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import build_grid
from prdp_hpc.experiments.recorded import ADDED
from prdp_hpc.experiments.trained import run_config
from prdp_hpc.generation.generate import generate
from prdp_hpc.training.checksummed import load_checksummed, save_checksummed
from prdp_hpc.training.settings import CheckpointError, check_fit


@pytest.fixture
def data(tmp_path):
    """Two files with data of two seeds."""
    mesh = ProcessMesh.from_world(1)
    for seed in (0, 1):
        config = validate(tiny.emulator(tmp_path, data={"seed": seed}), "here")
        generate(config, build_grid(config, mesh), tmp_path / f"{seed}.h5", mesh)
    mesh.close()
    return tmp_path / "0.h5", tmp_path / "1.h5"


def run(tmp_path, file, epochs, name="tiny", resume=True):
    content = tiny.emulator(
        tmp_path, name=name, data={"file": str(file)}, training={"epochs": epochs}
    )
    return train(validate(content, "here"), resume=resume)


def without_settings(folder, *keys):
    """Make the checkpoints of a run as those of a version that had no such settings."""
    for path in (folder / "checkpoints").iterdir():
        content = load_checksummed(path)
        settings = json.loads(content["fingerprint"])
        kept = {key: value for key, value in settings.items() if key not in keys}
        assert len(kept) == len(settings) - len(keys)
        save_checksummed(content | {"fingerprint": json.dumps(kept)}, path)


def test_a_run_continues_with_moved_data_only(data, tmp_path):
    whole = run(tmp_path, data[0], 4, "whole")
    run(tmp_path, data[0], 2)
    staged = tmp_path / "local" / "staged.h5"
    staged.parent.mkdir()
    shutil.move(data[0], staged)
    shutil.copy(data[1], data[0])
    with pytest.raises(CheckpointError, match=r"data\.content: '\w+' in the checkpoint, '\w+' now"):
        run(tmp_path, data[0], 4)
    moved = run(tmp_path, staged, 4)
    assert moved["error"] == whole["error"]
    record = json.loads((tmp_path / "tiny" / "components.json").read_text())
    newest = tmp_path / "tiny" / "checkpoints" / "epoch_0004.pt"
    saved = json.loads(load_checksummed(newest)["fingerprint"])
    assert saved["data.content"] == record["data"]["content"]


def test_an_older_checkpoint_has_the_path_of_its_data(data, tmp_path):
    run(tmp_path, data[0], 2)
    without_settings(tmp_path / "tiny", "data.content")
    staged = tmp_path / "staged.h5"
    shutil.copy(data[0], staged)
    with pytest.raises(CheckpointError, match=r"data\.file: .*0\.h5' in the checkpoint"):
        run(tmp_path, staged, 3)
    assert run(tmp_path, data[0], 3)["epochs"] == 3


def test_an_older_checkpoint_names_the_streams_of_its_generated_data(tmp_path):
    def run_until(epochs, **data):
        content = tiny.emulator(tmp_path, data=data, training={"epochs": epochs})
        return train(validate(content, "here"), resume=True)

    run_until(2, streams="shared")
    without_settings(tmp_path / "tiny", "data.content", "data.streams")
    with pytest.raises(CheckpointError, match=r"data\.streams: 'shared' in .*, 'sample' now"):
        run_until(3)
    assert run_until(3, streams="shared")["epochs"] == 3


@pytest.mark.parametrize("key", sorted(ADDED.keys() - {"data.format.segments"}))
def test_an_older_checkpoint_has_the_value_of_a_setting_that_was_added_later(key):
    check_fit({}, {key: ADDED[key]}, ADDED)
    check_fit({key: "own"}, {key: "own"}, ADDED)
    message = re.escape(f"{key}: {ADDED[key]!r} in the checkpoint, 'own' now")
    with pytest.raises(CheckpointError, match=message):
        check_fit({}, {key: "own"}, ADDED)


def test_a_run_folder_of_version_0_1_has_the_data_of_that_version(tmp_path):
    config = validate(tiny.emulator(tmp_path), "here")
    text = config.to_yaml()
    assert "  streams: sample\n" in text
    (tmp_path / "config.yaml").write_text(text)
    assert run_config(tmp_path).data.streams == "sample"
    (tmp_path / "config.yaml").write_text(text.replace("  streams: sample\n", ""))
    assert run_config(tmp_path).data.streams == "shared"
