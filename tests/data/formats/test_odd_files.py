"""Correctness: files that are incomplete, linked, or divided in time; the config that is suggested
for each of them can be run.
"""

import h5py
import layouts
import numpy as np
import pytest
import solved
import yaml
from mpi4py import MPI

from prdp_hpc.cli import main
from prdp_hpc.config import validate
from prdp_hpc.config.slots import made
from prdp_hpc.data import DataError
from prdp_hpc.data.formats.labelled_arrays import NetCDF, Zarr
from prdp_hpc.data.formats.numpy_files import NumPyArrays
from prdp_hpc.data.formats.pdebench import PDEBench
from prdp_hpc.experiments.inspected import inspect_data
from prdp_hpc.experiments.physics_residual import Change, PhysicsResidual

COMM = MPI.COMM_SELF


def nan(folder):
    states = layouts.known(shape=(8,))
    states[2, 1] = np.nan
    return layouts.pdebench(folder / "a.hdf5", states)


def one(folder):
    return layouts.labelled(folder / "a.nc", layouts.known(1, 11, shape=(8,)))


def unequal(folder):
    path = layouts.pdebench_seeds(folder / "a.h5", layouts.known(channels=2))
    with h5py.File(path, "a") as file:
        shorter = file["0001/data"][:2]
        del file["0001/data"]
        file["0001/data"] = shorter
    return path


@pytest.mark.parametrize("make", [nan, one, unequal])
def test_all_trajectories_of_the_suggested_config_can_be_read(make, tmp_path):
    found = inspect_data(make(tmp_path), COMM, samples=0)
    config = validate(yaml.safe_load(found.suggestion.to_yaml()), "suggested")
    assert config == found.config
    kind, keys = made("formats", config.data.format)
    data = kind.open(config.data.file, config.grid.shape, **keys)
    assert data.steps >= 2  # as an emulator needs
    for group in ("train", "validation"):
        assert np.isfinite(data.read(group)).all()


def test_what_prevents_a_run_is_noted(tmp_path):
    few = layouts.labelled(tmp_path / "a.nc", layouts.known(1, 5, shape=(8,)))
    notes = " ".join(inspect_data(few, COMM).suggestion.notes)
    assert "a run needs the groups train and validation, but" in notes
    assert "has no trajectories for the group train; there are 0 for train, 1" in notes
    coefficient, solution = layouts.known(4, 2, shape=(4, 6))[:, :, 0].swapaxes(0, 1)
    path = layouts.pdebench_darcy(tmp_path / "2D_DarcyFlow.hdf5", coefficient, solution)
    notes = " ".join(inspect_data(path, COMM).suggestion.notes)
    assert "have 2 states, but an emulator needs 3" in notes


def test_numbers_that_no_run_can_read_are_noted_once_per_trajectory(tmp_path):
    np.save(tmp_path / "a.npy", np.full((5, 4, 1, 8), 2**40))
    found = inspect_data(tmp_path / "a.npy", COMM)
    assert len(found.bad) == 4  # three for training, one for validation
    assert any("store it as float64" in note for note in found.suggestion.notes)


@pytest.mark.parametrize("segments", [2, 3, 4])
def test_segments_are_consecutive_parts_of_each_trajectory(segments, tmp_path):
    states = layouts.known(2, 13)
    np.save(tmp_path / "a.npy", states)
    data = NumPyArrays.open(tmp_path / "a.npy", (4, 6), segments=segments, validation=1)
    length = 13 // segments
    cut = states[:, : segments * length].reshape(-1, length, *states.shape[2:])
    assert data.steps == length - 1
    found = np.concatenate([data.read("train"), data.read("validation")])
    np.testing.assert_array_equal(found, cut)
    states[1, length] = np.nan  # the first state of the second segment
    np.save(tmp_path / "bad.npy", states)
    data = NumPyArrays.open(tmp_path / "bad.npy", (4, 6), segments=segments, validation=1)
    bad = data.count("train") == segments + 1
    group, sample = ("validation", 0) if bad else ("train", segments + 1)
    with pytest.raises(DataError, match=rf"segment 1 contains NaN.*=\[{segments + 1}\]"):
        data.read(group, [sample])


def test_a_linked_file_has_the_equation_of_its_own_name(tmp_path):
    named = layouts.pdebench_burgers(tmp_path, layouts.known(shape=(8,)), nu=0.02)
    (tmp_path / "staged.hdf5").symlink_to(named)
    for path in (named, tmp_path / "staged.hdf5"):
        about = PDEBench.open(path, (8,)).attributes
        assert about["pde"] == "burgers"
        assert about["viscosity"] == pytest.approx(0.02 / np.pi)
    waves = layouts.pdebench_seeds(tmp_path / "2D_rdb_NA_NA.h5", layouts.known())
    (tmp_path / "staged.h5").symlink_to(waves)
    assert PDEBench.open(tmp_path / "staged.h5").channels == ("h",)


@pytest.mark.parametrize(("kind", "suffix"), [(NetCDF, ".nc"), (Zarr, ".zarr")])
def test_axes_without_coordinates_have_no_spacing(kind, suffix, tmp_path):
    import xarray

    bare = xarray.Dataset({"u": (("sample", "time", "x"), layouts.known(shape=(8,))[:, :, 0])})
    path = tmp_path / f"bare{suffix}"
    bare.to_zarr(path, zarr_format=2) if suffix == ".zarr" else bare.to_netcdf(
        path, engine="h5netcdf"
    )
    data = kind.open(path, (8,))
    assert data.spacing is None
    assert "dt" not in data.attributes


@pytest.mark.parametrize(("kind", "suffix"), [(NetCDF, ".nc"), (Zarr, ".zarr")])
@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_axes_whose_coordinates_decrease_are_read_in_reverse(kind, suffix, axes, tmp_path):
    import xarray

    states = layouts.known()
    path = layouts.labelled(tmp_path / f"up{suffix}", states)
    engine = {"engine": "h5netcdf"} if suffix == ".nc" else {"engine": "zarr"}
    with xarray.open_dataset(path, **engine) as stored:
        down = stored.load().isel(dict.fromkeys(axes, slice(None, None, -1)))
    other = tmp_path / f"down{suffix}"
    if suffix == ".zarr":
        for name in [*down.data_vars, *down.coords]:
            down[name].encoding.clear()
        down.to_zarr(other, zarr_format=2)
    else:
        down.to_netcdf(other, engine="h5netcdf")
    found, wanted = (kind.open(one, (4, 6), validation=1) for one in (other, path))
    assert found.spacing == wanted.spacing
    part = [slice(1, 3), slice(2, 6)]
    for group in ("train", "validation"):
        np.testing.assert_array_equal(found.read(group), wanted.read(group))
        np.testing.assert_array_equal(
            found.read_states(group, 0, slice(1, 4, 2), part),
            wanted.read_states(group, 0, slice(1, 4, 2), part),
        )


@pytest.mark.parametrize(
    ("attributes", "overrides"),
    [
        ({"length": [1.0, 2.0]}, []),
        ({"boundary": "periodic,periodic"}, ["grid.length=[1.0, 2.0]"]),
        ({}, ["grid.shape=[8, 12]", "grid.length=[1.0, 2.0]", "grid.boundary=periodic"]),
    ],
)
def test_fields_in_2_d_without_an_axis_of_channels_and_a_shape(attributes, overrides, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for group in ("train", "validation"):
            file[f"{group}/trajectories"] = solved.heat()[:, :, 0].astype(">f4")
        file.attrs.update(pde="heat", dt=solved.DT, diffusivity=solved.DIFFUSIVITY, **attributes)
    found = inspect_data(path, COMM, overrides=overrides)
    assert list(found.config.grid.shape) == [8, 12]
    assert found.residual.residual < 1e-5


def test_what_is_given_is_not_noted_as_unknown_and_the_pde_is_compared(tmp_path):
    np.save(tmp_path / "a.npy", solved.heat((16,), (1.0,)))
    unknown = inspect_data(tmp_path / "a.npy", COMM)
    assert unknown.residual is None
    given = {"pde": "heat", "dt": solved.DT, "diffusivity": solved.DIFFUSIVITY}
    overrides = [f"physics.{key}={value}" for key, value in given.items()]
    found = inspect_data(tmp_path / "a.npy", COMM, overrides=overrides)
    assert found.residual.residual < 1e-5
    assert any(note.startswith("physics") for note in unknown.suggestion.notes)
    assert not any(note.startswith("physics") for note in found.suggestion.notes)


def test_a_file_with_a_test_group_only_is_inspected(tmp_path):
    info = {"dt": solved.DT, "domain_extent": 1.0, "diffusion_coef": solved.DIFFUSIVITY}
    states = solved.heat((16,), (1.0,))
    path = layouts.apebench(tmp_path, "1d_phy_diff", states, states, **info)
    (tmp_path / "1d_phy_diff_train.npy").unlink()
    found = inspect_data(path, COMM)
    assert "has no trajectories for the group train" in found.missing
    assert found.residual.residual < 1e-5


def test_how_the_axes_of_an_array_were_read_is_noted(tmp_path):
    np.save(tmp_path / "a.npy", layouts.known(5, 4, 3, (8,)))
    notes = inspect_data(tmp_path / "a.npy", COMM).suggestion.notes
    assert "the axes are read as sample, time, channel, x" in notes[0]
    given = inspect_data(
        tmp_path / "a.npy", COMM, overrides=["data.format.layout=[sample,channel,time,x]"]
    )
    assert not any("layout" in note for note in given.suggestion.notes)
    np.save(tmp_path / "b.npy", layouts.known(5, 1, 3, (8,)))
    with pytest.raises(DataError, match=r"at least 2 states.*read as sample, time, channel, x"):
        inspect_data(tmp_path / "b.npy", COMM)


def coarse(folder, dt, states):
    """Every fifth state of Burgers' equation, so that one step of the PDE is another scheme."""
    path = folder / f"a{dt}.npy"
    np.save(path, states[:, ::5])
    content = {
        "task": "emulator",
        "name": "a",
        "grid": {"shape": [32], "boundary": "periodic"},
        "physics": {"pde": "burgers", "viscosity": solved.VISCOSITY, "dt": dt},
    }
    config = path.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(content))
    return path, config


def test_numbers_that_are_wrong_by_any_factor_and_those_that_another_scheme_hides(tmp_path, capsys):
    states = solved.burgers((32,), steps=10, dt=0.01)
    right = inspect_data(*_arguments(coarse(tmp_path, 0.05, states)))
    assert 0.01 < right.residual.residual < 0.5
    assert right.residual.better is None
    for factor in (2, 4, 0.02):
        found = inspect_data(*_arguments(coarse(tmp_path, 0.05 * factor, states)))
        change, residual = found.residual.better
        assert change.key == "dt"
        assert change.factor == pytest.approx(1 / factor, rel=0.2 if factor < 1 else 0.001)
        assert residual < 2 * right.residual.residual
    assert right.residual.undetermined == right.residual.wrong == ()
    path, config = coarse(tmp_path, 0.05, states)
    main(["inspect", str(path), "--config", str(config)])
    assert "These numbers are confirmed" in capsys.readouterr().out
    # The residual with a tenth of the viscosity is not even twice as large.
    content = yaml.safe_load(config.read_text())
    content["physics"]["viscosity"] /= 10
    config.write_text(yaml.safe_dump(content))
    (wrong,) = inspect_data(path, COMM, config).residual.wrong
    assert wrong.key == "viscosity"
    assert wrong.factors == pytest.approx([10.0] * 3, rel=0.2)
    main(["inspect", str(path), "--config", str(config)])
    assert "fit best with viscosity ×" in " ".join(capsys.readouterr().out.split())


def test_a_number_that_makes_up_for_another_scheme_is_not_named(tmp_path):
    """Exact solutions of the heat equation, which an implicit step does not reproduce."""
    points, k, dt, rate = 48, 2 * np.pi * np.arange(1, 4), 0.05, solved.DIFFUSIVITY
    x, t = (np.arange(points) + 0.5) / points, dt * np.arange(6)
    decay = np.exp(-rate * k**2 * t[:, None])[:, :, None]
    phases = np.arange(12)[:, None, None, None]
    states = (decay * np.cos(k[:, None] * x + phases)).sum(axis=2)[:, :, None]
    np.save(tmp_path / "a.npy", states)
    keys = [f"physics.dt={dt}", "physics.pde=heat"]
    right = inspect_data(tmp_path / "a.npy", COMM, None, [*keys, f"physics.diffusivity={rate}"])
    assert 0.01 < right.residual.residual < 0.5
    assert right.residual.better is None
    wrong = inspect_data(tmp_path / "a.npy", COMM, None, [*keys, f"physics.diffusivity={3 * rate}"])
    assert wrong.residual.better[0].factor == pytest.approx(1 / 3, rel=0.2)


def test_a_change_that_is_still_wrong_is_not_named():
    for smaller, named in ((20.0, False), (0.4, True)):
        change = Change(key="dt", factor=10.0, word="10")
        found = PhysicsResidual(("u",), (), 130.0, ((change, smaller),), 130.0)
        assert (found.better is not None) == named
        assert found.undetermined == ()


def _arguments(files):
    path, config = files
    return path, COMM, config
