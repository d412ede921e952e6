"""An exported network computes what the network of the run computes, without prdp-hpc."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from safetensors import safe_open

from prdp_hpc import Grid, cli, export, load_network

pytestmark = pytest.mark.xdist_group("export")  # One worker makes what all tests use.

LOADING = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
torch.save(program(torch.load(sys.argv[2])), sys.argv[3])
assert not any(name.startswith("prdp_hpc") for name in sys.modules)
"""


@pytest.fixture(scope="module", params=["unet", pytest.param("mlp", marks=pytest.mark.long)])
def run(request, tmp_path_factory):
    """A run of a network on whole fields, and one of a network on parts with coordinates as further
    inputs and normalised states.
    """
    folder = tmp_path_factory.mktemp(request.param)
    networks = {
        "mlp": {"hidden": [8]},
        "unet": {"channels": 4, "depth": 1},
    }
    changes = {} if request.param == "mlp" else {"network_inputs": ["coordinates"]}
    content = tiny.emulator(
        folder / "runs",
        grid={"shape": [6, 8], "boundary": ["dirichlet", "periodic"]},
        network={"kind": request.param, **networks[request.param]},
        training={"epochs": 1},
        data={
            "train": 2,
            "validation": 1,
            "normalise": "none" if request.param == "mlp" else "standard",
        },
        **changes,
    )
    cli.main(["run", tiny.write(folder / "tiny.yaml", content)])
    return folder / "runs" / "tiny", bool(changes)


@pytest.fixture
def states():
    return torch.randn(5, 1, 6, 8, generator=torch.Generator().manual_seed(0)).double()


def expected(run, states):
    folder, has_inputs = run
    if has_inputs:
        grid = Grid((6, 8), ["dirichlet", "periodic"])
        inputs = torch.stack(grid.coordinates())
        states = torch.cat([states, inputs.expand(len(states), *inputs.shape)], dim=1)
    with torch.no_grad():
        return load_network(folder)(states)


def test_torch(run, states, tmp_path):
    found = export(run[0], "torch")
    assert found["precision"] == "float64"
    assert found["checked"] <= 1e-12
    torch.save(states, tmp_path / "states.pt")
    words = [found["file"], str(tmp_path / "states.pt"), str(tmp_path / "output.pt")]
    subprocess.run([sys.executable, "-I", "-c", LOADING, *words], check=True, timeout=60)
    output = torch.load(tmp_path / "output.pt")
    torch.testing.assert_close(output, expected(run, states), rtol=1e-12, atol=1e-14)


def test_onnx(run, states, capsys):
    if not run[1]:
        pytest.skip("one kind of network is enough")
    cli.main(["export", str(run[0]), "--format", "onnx"])
    assert "float32" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(run[0] / "export" / "network.onnx"))
    (output,) = session.run(None, {"state": states.float().numpy()})
    whole = expected(run, states).numpy()
    assert np.abs(output - whole).max() < 1e-5 * np.abs(whole).max()
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["config"])["name"] == "tiny"


def test_safetensors(run):
    found = export(run[0], "safetensors")
    assert Path(found["file"]).stat().st_mode == (Path(run[0]) / "config.yaml").stat().st_mode
    network = load_network(run[0])
    with safe_open(found["file"], framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.data.zero_()
    network.load_state_dict(weights)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    config = json.loads(metadata["config"])
    assert config["grid"]["shape"] == [6, 8]
    assert json.loads(metadata["output"]) == ["B", 1, 6, 8]
    assert metadata["precision"] == "float64"


def test_a_missing_package_is_named(run, states, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(run[0]), "--format", "onnx"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "pip install 'prdp-hpc[export]'" in error
    assert "onnxscript" in error
