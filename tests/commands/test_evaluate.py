"""Trained networks are loaded from their run folders and evaluated on other data."""

import json

import h5py
import pytest
import tiny
import torch

from prdp_hpc import cli, load_network


@pytest.fixture
def run(tmp_path):
    config = tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))
    cli.main(["run", config])
    return tmp_path / "runs" / "tiny"


def test_evaluation_gives_the_final_errors_of_a_run(run, tmp_path, capsys):
    cli.main(["evaluate", str(run), "--out", str(tmp_path / "errors.json")])
    last = tiny.rows(run)[-1]
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert {key: errors[key] for key in ("error", "error_1", "error_2")} == {
        key: pytest.approx(last[key], rel=1e-12) for key in ("error", "error_1", "error_2")
    }
    assert f"error_1  {last['error_1']:.4e}" in capsys.readouterr().out


def test_other_data_give_other_errors(run, tmp_path, capsys):
    other = tiny.write(tmp_path / "other.yaml", tiny.emulator(tmp_path / "runs", data={"seed": 5}))
    cli.main(["generate", other, "--out", str(tmp_path / "held_out.h5")])
    cli.main(
        [
            "evaluate",
            str(run),
            "--data",
            str(tmp_path / "held_out.h5"),
            "--out",
            str(tmp_path / "errors.json"),
        ]
    )
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert 0 < errors["error_1"] != tiny.rows(run)[-1]["error_1"]


def test_held_out_data_need_no_training_trajectories(run, tmp_path):
    """Evaluation needs no training data: any number of training samples, also none, gives the same
    errors on the validation data.
    """
    other = tiny.write(
        tmp_path / "other.yaml", tiny.emulator(tmp_path / "runs", data={"seed": 5, "train": 7})
    )
    held_out = tmp_path / "held_out.h5"
    cli.main(["generate", other, "--out", str(held_out)])
    cli.main(["evaluate", str(run), "--data", str(held_out), "--out", str(tmp_path / "with.json")])
    with h5py.File(held_out, "r+") as file:
        del file["train"]
    cli.main(
        ["evaluate", str(run), "--data", str(held_out), "--out", str(tmp_path / "without.json")]
    )
    assert (tmp_path / "with.json").read_text() == (tmp_path / "without.json").read_text()


def test_a_run_of_more_ranks_is_evaluated_on_one(run, tmp_path):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("grid_ranks: null", "grid_ranks: 2"))
    cli.main(["evaluate", str(run), "--out", str(tmp_path / "errors.json")])
    assert json.loads((tmp_path / "errors.json").read_text())["error"] == pytest.approx(
        tiny.rows(run)[-1]["error"], rel=1e-12
    )


def test_data_with_other_channels_are_rejected(run, tmp_path, capsys):
    wide = tiny.write(
        tmp_path / "wide.yaml", tiny.emulator(tmp_path / "runs", grid={"shape": [8, 8]})
    )
    cli.main(["generate", wide, "--out", str(tmp_path / "wide.h5")])
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(run), "--data", str(tmp_path / "wide.h5")])
    assert stop.value.code == 2
    assert "channels" in capsys.readouterr().err


def test_the_network_of_a_run(run):
    network = load_network(run)
    fields = torch.randn(3, 1, 8, dtype=torch.float64)
    state = torch.load(run / "checkpoints" / "epoch_0003.pt", weights_only=True)["task"]["network"]
    assert network(fields).shape == fields.shape
    assert all(
        torch.equal(parameter, state[name]) for name, parameter in network.state_dict().items()
    )
    assert not network.training


@pytest.mark.parametrize("broken", ["no folder", "no checkpoint", "inverse"])
def test_folders_without_a_network(broken, tmp_path, capsys):
    folder = tmp_path / "runs" / "tiny"
    if broken == "no checkpoint":
        folder.mkdir(parents=True)
        tiny.write(folder / "config.yaml", tiny.emulator(tmp_path / "runs"))
    elif broken == "inverse":
        cli.main(["run", tiny.write(tmp_path / "inverse.yaml", tiny.inverse(tmp_path / "runs"))])
        folder = tmp_path / "runs" / "tiny_inverse"
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(folder)])
    assert stop.value.code == 2
    assert str(folder) in capsys.readouterr().err
