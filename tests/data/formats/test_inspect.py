"""Correctness: one step of the PDE reproduces the states of files with known physics, and wrong
axes, velocities, time steps and coefficients are named.
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
from prdp_hpc.data import TrajectoryAttributes, write_trajectories
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.inspected import inspect_data

pytestmark = pytest.mark.xdist_group("inspect")  # One worker makes what all tests use.

COMM = MPI.COMM_SELF
SMALL = 1e-5


@pytest.fixture(scope="module")
def burgers():
    """States of Burgers' equation in 1-D and 2-D."""
    return {1: solved.burgers((32,)).astype("f4"), 2: solved.burgers().astype("f4")}


@pytest.fixture(scope="module")
def heat():
    return solved.heat().astype("f4")


def config(folder, pde, shape, length=1.0, **physics):
    content = {
        "task": "emulator",
        "name": "a",
        "grid": {"shape": list(shape), "boundary": "periodic", "length": length},
        "physics": {"pde": pde, "dt": solved.DT, **physics},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_coefficient_and_the_config_of_a_file_of_pdebench(burgers, tmp_path):
    path = layouts.pdebench_burgers(tmp_path, burgers[1], nu=layouts.NU, dt=solved.DT)
    found = inspect_data(path, COMM)
    assert (found.format, found.suggestion.notes) == ("pdebench", [])
    assert found.residual.residual < SMALL
    assert found.config.physics.viscosity == pytest.approx(solved.VISCOSITY)
    assert (found.config.physics.dt, found.config.grid.boundary) == (solved.DT, "periodic")
    again = validate(yaml.safe_load(found.suggestion.to_yaml()), "again")
    assert again == found.config
    # The coefficient as it is in the name of the file.
    wrong = config(tmp_path, "burgers", (32,), viscosity=layouts.NU)
    found = inspect_data(path, COMM, wrong)
    assert "give physics.viscosity=0.01" in found.mismatches[0]
    assert found.residual.residual > 0.1
    change, residual = found.residual.better
    assert (change.key, change.word) == ("viscosity", "1/π")
    assert residual < SMALL


def heat_files(folder, states):
    """The heat equation on (1, 2) in each layout that can contain it."""
    numbers = {"diffusivity": solved.DIFFUSIVITY}
    about = TrajectoryAttributes(
        "heat", states.shape[3:], "periodic", (1.0, 2.0), {"dt": solved.DT, **numbers}, ("u",), "θ"
    )
    write_trajectories(folder / "own.h5", {"train": states[:2], "validation": states[2:]}, about)
    keys = {"dt": solved.DT, "lengths": (1.0, 2.0)}
    fields = {"t0_fields": {"u": layouts.x_first(states)[:, :, 0]}}
    np.savez(folder / "arrays.npz", train=states, dt=solved.DT, **numbers)
    return {
        "hdf5": folder / "own.h5",
        "pdebench": layouts.pdebench(folder / "bench.hdf5", states, **keys),
        "the_well": layouts.well(folder / "well.hdf5", fields, **keys),
        "numpy": folder / "arrays.npz",
        "netcdf": layouts.labelled(folder / "heat.nc", states, solved.DT, (1.0, 2.0), **numbers),
        "zarr": layouts.labelled(folder / "heat.zarr", states, solved.DT, (1.0, 2.0), **numbers),
    }


def test_the_heat_equation_in_each_layout(heat, tmp_path, capsys):
    grid = {"shape": (8, 12), "length": [1.0, 2.0]}
    right = config(tmp_path, "heat", **grid, diffusivity=solved.DIFFUSIVITY)
    files = heat_files(tmp_path, heat)
    for name, path in files.items():
        found = inspect_data(path, COMM, right)
        assert found.format == name
        assert found.mismatches == []
        assert found.residual.residual < SMALL, name
        assert found.residual.better is None
    late = config(tmp_path, "heat", **grid, diffusivity=solved.DIFFUSIVITY * 10)
    for name in ("hdf5", "netcdf"):
        found = inspect_data(files[name], COMM, late)
        assert found.residual.better[1] < SMALL, name
        # Both have the same effect.
        equal = {(change.key, change.word) for change in found.residual.equally_good}
        assert equal == {("dt", "1/10"), ("diffusivity", "1/10")}
    main(["inspect", str(files["pdebench"]), "--config", str(late)])
    output = " ".join(capsys.readouterr().out.split())
    # The file has the time step, but no diffusivity.
    assert "(physics.diffusivity=0.02) or dt × 1/10 (physics.dt=0.005): give this" in output


def test_wrong_axes_and_velocities_are_named(burgers, tmp_path, capsys):
    states = burgers[2]
    right = config(tmp_path, "burgers", (12, 12), viscosity=solved.VISCOSITY)
    np.save(tmp_path / "right.npy", states)
    found = inspect_data(tmp_path / "right.npy", COMM, right)
    assert found.residual.residual < SMALL
    for name, array in (("axes", states.swapaxes(3, 4)), ("channels", states[:, :, ::-1])):
        np.save(tmp_path / f"{name}.npy", array)
        change, residual = inspect_data(tmp_path / f"{name}.npy", COMM, right).residual.better
        # Exchanging both axes and velocities is a reflection of the flow, which changes nothing.
        assert (change.axes or change.channels) == (1, 0)
        assert not change.key
        assert residual < SMALL
    layouts.pdebench_flow(
        tmp_path / "flow.h5",
        np.concatenate([states, states[:, :, :1]], axis=2),
        states[:, 0],
        dt=solved.DT * 2,
    )
    keys = ["data.format.axes=[y,x]", "data.format.channels=[velocity_x,velocity_y]"]
    found = inspect_data(tmp_path / "flow.h5", COMM, right, keys)
    assert "give physics.dt=0.1" in found.mismatches[0]
    change, residual = found.residual.better
    assert (change.axes or change.channels) == (1, 0)
    right_keys = keys[1:]
    assert inspect_data(tmp_path / "flow.h5", COMM, right, right_keys).residual.residual < SMALL
    main(["inspect", str(tmp_path / "flow.h5"), *keys, "--config", str(right)])
    output = capsys.readouterr().out
    assert "axes=[x, y]" in output or "channels=[velocity_y, velocity_x]" in output


def test_a_file_without_a_key_for_its_channels_needs_another_order(burgers, tmp_path, capsys):
    right = config(tmp_path, "burgers", (12, 12), viscosity=solved.VISCOSITY)
    swapped = burgers[2][:, :, ::-1]
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["train/trajectories"] = file["validation/trajectories"] = swapped
    main(["inspect", str(tmp_path / "own.h5"), "--config", str(right)])
    output = " ".join(capsys.readouterr().out.split())
    assert "a file with the channels 1, 0" in output
    assert "data.format" not in output


def test_two_mistakes_together(burgers, tmp_path):
    np.save(tmp_path / "a.npy", burgers[2][:, :, ::-1])
    wrong = config(tmp_path, "burgers", (12, 12), viscosity=solved.VISCOSITY, dt=solved.DT / 2)
    change, residual = inspect_data(tmp_path / "a.npy", COMM, wrong).residual.better
    assert (change.axes or change.channels) == (1, 0)
    assert (change.key, change.word) == ("dt", "2")
    assert residual < SMALL


SIDES = (1.0, 1.5)
ALONE = {(SIDES, "", "")}
SCALED = {*ALONE, ((), "diffusivity", "4"), ((), "dt", "4")}
PAIRS = {(SIDES, "dt", "1/5"), (SIDES, "diffusivity", "1/5")}


@pytest.mark.parametrize(
    ("length", "dt", "named"),
    [(1.0, 1, ALONE), ([1.5, 1.0], 1, ALONE), ([2.0, 3.0], 1, SCALED), (1.0, 5, PAIRS)],
)
def test_a_wrong_length_of_the_domain_is_named(length, dt, named, tmp_path, capsys):
    """Data without coordinates; for diffusion a length has the effect of a coefficient."""
    np.save(tmp_path / "a.npy", solved.heat((8, 12), SIDES))
    about = {"diffusivity": solved.DIFFUSIVITY, "dt": solved.DT * dt}
    wrong = config(tmp_path, "heat", (8, 12), length, **about)
    found = inspect_data(tmp_path / "a.npy", COMM, wrong).residual
    assert not found.confirmed
    assert found.better[1] < SMALL
    assert {(one.lengths, one.key, one.word) for one in found.equally_good} == named
    main(["inspect", str(tmp_path / "a.npy"), "--config", str(wrong)])
    output = " ".join(capsys.readouterr().out.split())
    assert "another length of the domain" in output
    assert "grid.length=[1, 1.5]" in output


def test_the_right_length_and_those_in_the_file_are_not_questioned(heat, tmp_path):
    right = config(tmp_path, "heat", (8, 12), [1.0, 2.0], diffusivity=solved.DIFFUSIVITY * 4)
    found = inspect_data(
        layouts.pdebench(tmp_path / "a.hdf5", heat, solved.DT, (1.0, 2.0)), COMM, right
    )
    assert found.residual.better[1] < SMALL
    assert not any(change.lengths for change, _ in found.residual.changes)


def test_an_order_of_axes_that_cannot_be_found_is_reported(tmp_path, capsys):
    states = solved.heat((8, 8), 1.0)
    np.save(tmp_path / "a.npy", states)
    wrong = config(tmp_path, "heat", (8, 8), diffusivity=solved.DIFFUSIVITY * 1.2)
    main(["inspect", str(tmp_path / "a.npy"), "--config", str(wrong)])
    assert "a wrong order would not be found" in " ".join(capsys.readouterr().out.split())


def test_bad_trajectories_and_states_that_do_not_change(heat, tmp_path, capsys):
    states = heat.copy()
    states[1, 2] = np.nan
    states[2] = states[2, :1]
    path = layouts.pdebench(tmp_path / "a.hdf5", states, solved.DT, (1.0, 2.0))
    right = config(tmp_path, "heat", (8, 12), [1.0, 2.0], diffusivity=solved.DIFFUSIVITY)
    main(["inspect", str(path), "data.format.validation=0", "--config", str(right)])
    output = capsys.readouterr().out
    assert "data.format.exclude=[1]" in output
    assert "no change" in output
    assert "grid, time step and coefficients fit" in output


def test_what_is_printed_for_a_file_without_a_known_pde(tmp_path, capsys):
    path = layouts.pdebench_seeds(tmp_path / "2D_diff-react_NA_NA.h5", layouts.known(channels=2))
    main(["inspect", str(path), "--samples", "0"])
    output = capsys.readouterr().out
    for part in (
        "format pdebench", "0000/data", "4 × 6 × 4 × 2", "chunks", "lzf", "Du: 0.001",
        "4 in train, 1 in validation, of 4 states", "4 × 6 points (y, x)", "boundary wall",
        "# physics: no PDE is known for this file", "boundary: neumann", "length: 2.0",
        "give --config CONFIG",
    ):  # fmt: skip
        assert part in output, part


@pytest.mark.parametrize(
    ("name", "message"),
    [("text.h5", "cannot be read as HDF5"), ("other.h5", "no known layout"), ("no.h5", "no such")],
)
def test_files_that_cannot_be_inspected(name, message, tmp_path):
    (tmp_path / "text.h5").write_text("text")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = 1.0
    with pytest.raises(InputError, match=message):
        inspect_data(tmp_path / name, COMM)


def test_channels_that_are_not_those_of_the_pde(tmp_path):
    path = layouts.pdebench(tmp_path / "1D_CFD.hdf5", layouts.known(channels=3, shape=(8,)))
    wrong = config(tmp_path, "burgers", (8,), viscosity=0.01)
    with pytest.raises(InputError, match=r"density.*: choose those of the PDE by data.format.chan"):
        inspect_data(path, COMM, wrong)


def test_the_channels_of_the_pde_are_chosen(tmp_path, capsys):
    """Shear flow of The Well has a tracer besides velocity and pressure."""
    states = layouts.known(channels=4, shape=(8, 8))
    stored = np.moveaxis(layouts.x_first(states), 2, -1)
    fields = {
        "t0_fields": {"tracer": stored[..., 0], "pressure": stored[..., 1]},
        "t1_fields": {"velocity": stored[..., 2:]},
    }
    boundary = [("around", "xy", "PERIODIC")]
    path = tmp_path / "flow" / "data" / "train" / "a.hdf5"
    layouts.well(path, fields, boundary=boundary, dataset_name="shear_flow", Reynolds=50.0)
    found = inspect_data(tmp_path / "flow", COMM, samples=1)
    assert found.data.channels == ("velocity_x", "velocity_y", "pressure")
    assert found.config.physics.viscosity == 0.02
    assert found.residual.channels == found.data.channels
    assert found.residual.residual > 0.5  # they are random numbers


def test_an_own_format(tmp_path):
    """A user-defined reader with only what the interface demands."""
    (tmp_path / "mine.py").write_text(
        "import numpy\n"
        "class Arrays:\n"
        "    steps = 2\n"
        "    def __init__(self, path): self.states = numpy.load(path)\n"
        "    def count(self, group): return len(self.states)\n"
        "    def read(self, group, samples, part):\n"
        "        return self.states[(list(samples), slice(None), slice(None), *part)]\n"
    )
    np.save(tmp_path / "a.npy", solved.heat((8,), 1.0, steps=2))
    right = config(tmp_path, "heat", (8,), diffusivity=solved.DIFFUSIVITY)
    name = f"{tmp_path / 'mine.py'}:Arrays"
    found = inspect_data(tmp_path / "a.npy", COMM, right, form=name)
    assert found.residual.residual < SMALL
    with pytest.raises(InputError, match=r"no attribute shape .*: give --config"):
        inspect_data(tmp_path / "a.npy", COMM, form=name)
