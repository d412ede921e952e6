"""Predictions are roll-outs of the trained network, in files that other readers of XDMF read."""

import json
from xml.etree import ElementTree as ET

import h5py
import meshio
import numpy as np
import pytest
import tiny
import torch

from prdp_hpc import Grid, cli, evaluate, load_network, predict
from prdp_hpc.data import TrajectoryAttributes, write_trajectories
from prdp_hpc.experiments.prediction import at_points
from prdp_hpc.report.field_series import load_sample

pytestmark = pytest.mark.xdist_group("predict")  # One worker makes what all tests use.

BOUNDARIES = ["dirichlet", "neumann", "periodic"]


def trained(folder, name, content, **changes):
    config = content(folder / "runs", name=name, **changes)
    cli.main(["run", tiny.write(folder / f"{name}.yaml", config)])
    return folder / "runs" / name


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """A run on 5 × 6 points with two kinds of sides."""
    grid = {"shape": [5, 6], "boundary": ["dirichlet", "neumann"], "length": [1.0, 2.0]}
    return trained(tmp_path_factory.mktemp("emulator"), "em", tiny.emulator, grid=grid)


@pytest.fixture(scope="module")
def corrector(tmp_path_factory):
    """A run of Navier–Stokes on 5 × 6 points."""
    return trained(
        tmp_path_factory.mktemp("corrector"),
        "co",
        tiny.corrector,
        grid={"shape": [5, 6], "boundary": "periodic"},
        physics={"pde": "navier_stokes", "viscosity": 1e-2, "dt": 0.1},
        solver={"ksp": "gmres", "pc": "constraint"},
        network={"kind": "resnet", "channels": 4, "blocks": 1},
        training={"epochs": 1},
    )


def arrays(path):
    with h5py.File(path) as file:
        return {
            name: file[f"{name}/trajectories"][()]
            for name in ("prediction", "truth", "spread")
            if name in file
        }


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_prediction_is_the_roll_out_of_the_network(checkpoint, emulator, tmp_path):
    found = predict(emulator, 4, out=tmp_path / "p.h5", samples=[0, 2], checkpoint=checkpoint)
    content = arrays(found["file"])
    state = torch.from_numpy(content["truth"][:, 0])
    network = load_network(emulator, checkpoint=checkpoint)
    for step in range(5):
        np.testing.assert_allclose(content["prediction"][:, step], state.detach(), rtol=1e-12)
        state = network(state)
    assert content["prediction"].shape == (2, 5, 1, 5, 6)
    assert found["samples"] == [0, 2]


@pytest.mark.parametrize("run", ["emulator", "corrector"])
def test_errors_are_those_of_evaluate(run, request, tmp_path, capsys):
    folder = request.getfixturevalue(run)
    cli.main(["predict", str(folder), "--out", str(tmp_path / "p.h5")])
    found = json.loads((tmp_path / "p_errors.json").read_text())["errors"]
    expected = evaluate(folder)
    common = set(expected) & set(found)
    assert {"error_1"} < common
    assert {name: found[name] for name in common} == {name: expected[name] for name in common}
    assert f"{found['error_1']:.4e}" in capsys.readouterr().out


def axes_of(grid):
    """The coordinates x, y, z of an XDMF grid."""
    items = grid.find("Geometry").findall("DataItem")
    return [np.array(item.text.split(), dtype=float) for item in items]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(7,), (5, 6), (3, 4, 5)])
def test_xdmf_has_the_values_at_the_coordinates_of_the_grid(boundary, shape, tmp_path):
    lengths = [1.0, 2.0, 3.0][: len(shape)]
    grid = {"shape": list(shape), "boundary": boundary, "length": lengths}
    training = {"epochs": 1, "batch_size": 2}
    small = {"train": 2, "validation": 1}
    run = trained(tmp_path, "tiny", tiny.emulator, grid=grid, training=training, data=small)
    points = Grid(shape, boundary, length=lengths)
    # x + 10 y + 100 z at the points of the grid, whose last axis is x.
    field = sum(10.0**power * x for power, x in enumerate(reversed(points.coordinates()))).numpy()
    about = TrajectoryAttributes("heat", shape, boundary, 1.0, {}, ("u",), "analytic")
    write_trajectories(tmp_path / "a.h5", {"validation": field[None, None, None]}, about)
    found = predict(run, 2, data=tmp_path / "a.h5", out=tmp_path / "p.h5")
    assert found["errors"] == {}  # only the initial state is known
    with meshio.xdmf.TimeSeriesReader(found["xdmf"][0]) as reader:
        # meshio has no structured grids, so the coordinates are read below.
        reader.cells = []
        assert reader.num_steps == 3
        time, values, _ = reader.read_data(0)
        assert time == 0.0
        assert reader.read_data(2)[0] == 2.0  # dt is 1
        predicted = reader.read_data(2)[1]["prediction_u"]
    grids = ET.parse(found["xdmf"][0]).getroot().findall("Domain/Grid/Grid")
    x, y, z = axes_of(grids[0])
    analytic = x + 10 * y[:, None] + 100 * z[:, None, None]
    assert grids[0].find("Topology").get("Dimensions") == " ".join(map(str, analytic.shape))
    np.testing.assert_allclose(values["prediction_u"], analytic, rtol=1e-14)
    np.testing.assert_allclose(values["truth_u"], analytic, rtol=1e-14)
    rolled = arrays(found["file"])["prediction"][0, 2, 0]
    assert np.array_equal(predicted.reshape(shape), rolled)


def test_vectors_are_at_the_points_of_the_grid(corrector, tmp_path):
    found = predict(corrector, 3, out=tmp_path / "p.h5", samples=[1])
    with h5py.File(found["file"]) as file:
        raw = file["prediction/trajectories"][0, 3]
        fields = file["fields/sample_1/step_00003"]
        velocity, pressure = fields["prediction_velocity"][0], fields["prediction_pressure"][0]
    # Component x is half a cell after the point along the last axis, y along the first.
    along_x = (raw[0] + np.roll(raw[0], 1, axis=1)) / 2
    along_y = (raw[1] + np.roll(raw[1], 1, axis=0)) / 2
    np.testing.assert_allclose(velocity[..., 0], along_x, atol=1e-14)
    np.testing.assert_allclose(velocity[..., 1], along_y, atol=1e-14)
    assert not velocity[..., 2].any()
    assert np.array_equal(pressure, raw[2])


def test_staggered_values_are_averaged_to_second_order():
    errors = []
    for n in (16, 32):
        grid = Grid((n, n), "periodic")
        y, x = (2 * np.pi * axis for axis in grid.coordinates())
        half = np.pi / n
        fields = torch.stack([torch.sin(x + half) * torch.cos(y), torch.sin(x) * torch.cos(y)])
        found = at_points(grid, fields[None], {0: 1})
        errors.append(float((found[0, 0] - fields[1]).abs().max()))
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_an_ensemble_has_the_mean_and_the_spread_of_its_runs(emulator, tmp_path, capsys):
    changes = {"grid": {"shape": [5, 6], "boundary": ["dirichlet", "neumann"], "length": [1, 2]}}
    runs = [emulator] + [
        trained(tmp_path, f"seed_{seed}", tiny.emulator, seed=seed, **changes) for seed in (2, 3)
    ]
    single = [arrays(predict(run, 3, out=tmp_path / "one.h5")["file"]) for run in runs]
    lines = ["predict", *map(str, runs), "--steps", "3", "--out", str(tmp_path / "all.h5")]
    cli.main(lines)
    content = arrays(tmp_path / "all.h5")
    states = np.stack([one["prediction"] for one in single])
    np.testing.assert_allclose(content["prediction"], states.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(content["spread"], states.std(axis=0, ddof=1), atol=1e-14)
    written = json.loads((tmp_path / "all_errors.json").read_text())
    truth = content["truth"]
    scale = np.square(truth[:, 1]).sum(axis=(1, 2, 3))
    squares = np.square(content["spread"][:, 2]).sum(axis=(1, 2, 3))
    assert written["spread"]["error_2"] == pytest.approx(float((squares / scale).mean()))
    assert len(written["member_errors"]) == 3
    # The error of the mean is at most the mean error, by Jensen's inequality.
    own = [member["error_2"] for member in written["member_errors"]]
    assert written["errors"]["error_2"] <= np.mean(own)
    assert "spread" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["field_inversion", "amortised_inversion"])
def test_the_fields_of_inversions(task, tmp_path):
    run = trained(tmp_path, "inv", getattr(tiny, task), training={"epochs": 1})
    found = predict(run)
    expected = evaluate(run)
    name = "error_field" if task == "field_inversion" else "error"
    assert found["errors"] == {name: pytest.approx(expected[name], rel=1e-12)}
    content = arrays(found["file"])
    difference = np.square(content["prediction"] - content["truth"]).sum(axis=(1, 2, 3, 4))
    ratio = difference / np.square(content["truth"]).sum(axis=(1, 2, 3, 4))
    power = 0.5 if task == "field_inversion" else 1.0
    assert np.mean(ratio**power) == pytest.approx(expected[name])
    assert (run / "figures" / "fields.png").is_file()
    if task == "amortised_inversion":
        drawn = load_sample(run)
        np.testing.assert_allclose(drawn.prediction[0], content["prediction"][0, 0], rtol=1e-6)
        np.testing.assert_allclose(drawn.truth[0], content["truth"][0, 0], rtol=1e-6)


def test_mistakes(emulator, tmp_path, capsys):
    for words, message in [
        (["--samples", "9"], "samples"),
        (["--group", "absent"], "absent"),
        (["--steps", "0"], "steps"),
    ]:
        with pytest.raises(SystemExit) as stop:
            cli.main(["predict", str(emulator), *words, "--out", str(tmp_path / "p.h5")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "p.h5").exists()


def test_vtk_reads_the_fields(corrector, tmp_path):
    io = pytest.importorskip("vtkmodules.vtkIOXdmf2", exc_type=ImportError)
    from vtkmodules.util.numpy_support import vtk_to_numpy

    found = predict(corrector, 2, out=tmp_path / "p.h5")
    reader = io.vtkXdmfReader()
    reader.SetFileName(found["xdmf"][1])
    reader.UpdateInformation()
    reader.UpdateTimeStep(0.1)
    data = reader.GetOutputDataObject(0)
    assert data.GetDimensions() == (6, 5, 1)
    assert data.GetBounds() == pytest.approx((0.0, 5 / 6, 0.0, 0.8, 0.0, 0.0))
    raw = arrays(found["file"])["prediction"][1, 1]
    values = vtk_to_numpy(data.GetPointData().GetArray("prediction_pressure"))
    assert np.array_equal(values.reshape(5, 6), raw[2])
    velocity = vtk_to_numpy(data.GetPointData().GetArray("prediction_velocity"))
    along_x = (raw[0] + np.roll(raw[0], 1, axis=1)) / 2
    np.testing.assert_allclose(velocity.reshape(5, 6, 3)[..., 0], along_x, atol=1e-14)
