"""Usability: each command writes the documented files and prints their paths."""

import json
import sys

import pytest
import tiny
import yaml
from PIL import Image

from prdp_hpc import cli

RUN_FILES = {
    "starts.json",
    "components.json",
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "sample_fields.npz",
    "figures/error_and_level.png",
    "figures/fields.png",
}
PNG = b"\x89PNG"


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_run(config, tmp_path, capsys, figures):
    cli.main(["run", config])
    folder = tmp_path / "runs" / "tiny"
    found = files(folder)
    checkpoints = {name for name in found if name.startswith("checkpoints/")}
    events = {name for name in found if name.startswith("tensorboard/events")}
    # Short epochs may have no checkpoint, so the one before the last depends on the speed of the
    # disk.
    assert {"checkpoints/best.pt", "checkpoints/epoch_0003.pt"} <= checkpoints
    assert len(checkpoints) <= 3
    assert len(events) == 1
    assert found - checkpoints - events == RUN_FILES
    for name in ("error_and_level", "fields"):
        assert Image.open(folder / "figures" / f"{name}.png").size[0] > 500

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["loss"] is None
    assert all(row["error"] == row["error_2"] for row in rows)
    summary = json.loads((folder / "summary.json").read_text())
    named = ("name", "task", "schedule", "seed", "epochs", "ranks", "grid_ranks")
    assert {key: summary[key] for key in named} == {
        "name": "tiny", "task": "emulator", "schedule": "prdp", "seed": 1,
        "epochs": 3, "ranks": 1, "grid_ranks": 1,
    }  # fmt: skip
    for key in (
        "error",
        "error_1",
        "error_2",
        "level",
        "forward_iterations",
        "adjoint_iterations",
        "total_seconds",
    ):
        assert summary[key] == rows[-1][key]
    assert (
        summary["inner_iterations"] == summary["forward_iterations"] + summary["adjoint_iterations"]
    )
    full = 4 * 2 * 10 * 3  # level × directions × samples × epochs
    assert summary["savings"]["inner_iterations"] == pytest.approx(
        1 - summary["inner_iterations"] / full
    )
    last = rows[-1]
    assert sum(last[key] for key in tiny.SOLVER_PARTS) == pytest.approx(last["solver_seconds"])
    others = sum(last[key] for key in tiny.OTHER_PARTS)
    assert last["solver_seconds"] + others <= last["total_seconds"]

    captured = capsys.readouterr()
    assert str(folder) in captured.out
    assert "epoch 3/3" in captured.err
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["refinement"]["step_threshold"] == 0.98


def test_a_resolved_config_repeats_its_run(config, tmp_path):
    cli.main(["run", config, "training.epochs=2"])
    cli.main(["run", str(tmp_path / "runs" / "tiny" / "config.yaml"), "name=again"])
    assert tiny.rows(tmp_path / "runs" / "again") == tiny.rows(tmp_path / "runs" / "tiny")


def test_resume_and_overwrite_with_overrides_on_both_sides(config, tmp_path):
    cli.main(["run", config, "training.epochs=1"])
    cli.main(["run", config, "seed=1", "--resume", "training.epochs=2"])
    assert len(tiny.rows(tmp_path / "runs" / "tiny")) == 3
    cli.main(["run", "--overwrite", config, "training.epochs=1", "seed=2"])
    assert len(tiny.rows(tmp_path / "runs" / "tiny")) == 2
    assert tiny.summary(tmp_path / "runs" / "tiny")["seed"] == 2


def test_generate(config, tmp_path, capsys):
    cli.main(["generate", config])
    (made,) = (tmp_path / "runs" / "data").iterdir()
    assert str(made) in capsys.readouterr().out
    content = made.read_bytes()
    cli.main(["run", config, "training.epochs=1"])
    assert [path.name for path in (tmp_path / "runs" / "data").iterdir()] == [made.name]
    assert made.read_bytes() == content

    elsewhere = tmp_path / "new" / "mine.h5"
    cli.main(["generate", config, "--out", str(elsewhere)])
    cli.main(["run", config, "training.epochs=1", f"data.file={elsewhere}", "name=mine"])
    assert tiny.rows(tmp_path / "runs" / "mine") == tiny.rows(tmp_path / "runs" / "tiny")


def test_plot(config, tmp_path, capsys, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    cli.main(["compare", config, "training.epochs=2", "comparison.seeds=1"])
    comparison = tmp_path / "runs" / "tiny-compare"
    for figure in comparison.rglob("*.png"):
        figure.unlink()
    request.getfixturevalue("figures")
    cli.main(["plot", str(comparison / "prdp")])
    assert (comparison / "prdp" / "figures" / "error_and_level.png").read_bytes().startswith(PNG)
    cli.main(["plot", str(comparison)])
    assert (comparison / "figures" / "comparison.png").read_bytes().startswith(PNG)
    (comparison / "full" / "summary.json").unlink()  # as in the folder of a running run
    cli.main(["plot", str(comparison / "prdp"), str(comparison / "full"), "--out", "both.png"])
    assert (tmp_path / "both.png").read_bytes().startswith(PNG)
    cli.main(["plot", str(comparison / "prdp"), str(comparison / "full")])
    assert (tmp_path / "runs.png").read_bytes().startswith(PNG)
    assert "both.png" in capsys.readouterr().out


def test_inverse(tmp_path):
    cli.main(["run", tiny.write(tmp_path / "inverse.yaml", tiny.inverse(tmp_path))])
    assert files(tmp_path / "tiny_inverse") >= RUN_FILES - {
        "sample_fields.npz",
        "figures/fields.png",
    }
    assert len(tiny.summary(tmp_path / "tiny_inverse")["parameters"]) == 1


def test_doctor_finds_all(capsys):
    cli.main(["doctor"])
    out = capsys.readouterr().out
    for name in (
        "Python",
        "cores",
        "MPI",
        "PETSc",
        "torch",
        "HDF5",
        "SLURM",
        "nothing is missing",
    ):
        assert name in out


def test_doctor_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert "missing: HDF5: h5py cannot be imported" in captured.err
    assert "pip install h5py" in captured.err
    assert "torch" in captured.out
