"""Safety: axes of HDF5 trajectories that a file does not name are never read in an unlikely way
without a note, and axes that contradict its attributes are errors.
"""

import itertools

import h5py
import numpy as np
import pytest
import solved
from mpi4py import MPI

from prdp_hpc.cli import main
from prdp_hpc.data import DataError, TrajectoryFile
from prdp_hpc.data.hdf5_axes import MOST_CHANNELS, axes_read, likely_shape
from prdp_hpc.data.joined import JoinedTrajectories
from prdp_hpc.experiments.inspected import inspect_data

COMM = MPI.COMM_SELF
FEW, MANY = 2, MOST_CHANNELS + 1


def store(path, states, **attributes):
    with h5py.File(path, "w") as file:
        file["train/trajectories"] = file["validation/trajectories"] = states
        file.attrs.update(attributes)
    return path


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("channels", [None, 1, FEW, MANY])
@pytest.mark.parametrize("points", [FEW, MANY])
def test_each_unlikely_reading_is_said_with_the_key_of_the_other(dim, channels, points, tmp_path):
    shape = (points,) * dim
    states = np.ones((2, 3, *(() if channels is None else (channels,)), *shape))
    path = store(tmp_path / "a.h5", states)
    data = TrajectoryFile(path, shape)
    assert data.read("train").shape == (2, 3, channels or 1, *shape)
    if likely_shape(states.shape) == shape:
        assert data.assumed == ""
        return
    other = list(states.shape[2 if channels else 3 :])
    assert f"give grid.shape={other} if" in data.assumed
    assert TrajectoryFile(path, other).assumed == ""
    assert JoinedTrajectories([data, data]).assumed == data.assumed
    named = store(tmp_path / "b.h5", states, grid_shape=shape)
    assert TrajectoryFile(named).assumed == ""


def test_the_likely_reading_of_points_along_y_is_not_that_of_channels():
    for first, axes in itertools.product((1, FEW, MANY), (1, 2)):
        stored = (2, 3, first, *(16,) * axes)
        wanted = stored[2:] if first == MANY else stored[3:]
        assert likely_shape(stored) == wanted
        # The other way is named, unless one entry would be an axis of the grid.
        assert bool(axes_read(stored, wanted, {})) == (first > 1)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"grid_shape": [16, 16]}, r"\(16, 16\) \(attribute grid_shape\).*grid\.shape=\[16, 16\]"),
        ({"axes": "sample, step, y, x"}, r"axes are sample, state, y, x .*read as .*channel, x"),
    ],
)
def test_attributes_that_contradict_the_grid_are_errors(attributes, message, tmp_path):
    path = store(tmp_path / "a.h5", np.ones((2, 3, 16, 16)), **attributes)
    with pytest.raises(DataError, match=message):
        TrajectoryFile(path, (16,))


@pytest.mark.parametrize("axes", ["sample, step, channel, x", "a, b, c, d", "n, t, c, x, y", 4])
def test_attributes_that_agree_or_name_other_things_are_none(axes, tmp_path):
    path = store(tmp_path / "a.h5", np.ones((2, 3, 16, 16)), axes=axes)
    assert TrajectoryFile(path, (16,)).assumed == ""


def test_axes_that_are_named_in_another_order_are_said(tmp_path):
    path = store(tmp_path / "a.h5", np.ones((2, 3, 8, 8)), axes="sample, step, x, y")
    assert "x, y (attribute axes), but are read as" in TrajectoryFile(path, (8, 8)).assumed


def test_inspect_takes_the_likely_axes_and_says_so(tmp_path, capsys):
    states = solved.heat()[:, :, 0]
    path = store(tmp_path / "a.h5", states)
    physics = ["physics.pde=heat", f"physics.dt={solved.DT}", "grid.length=[1.0, 2.0]"]
    keys = [*physics, f"physics.diffusivity={solved.DIFFUSIVITY}"]
    main(["inspect", str(path), *keys])
    output = " ".join(capsys.readouterr().out.split())
    assert "Grid: 8 × 12 points" in output
    assert "give grid.shape=[12] if the 8 entries of y are channels" in output
    assert "grid, time step and coefficients fit" in output
    folder = tmp_path / "several"
    folder.mkdir()
    for name in ("a", "b"):
        store(folder / f"{name}.h5", states)
    assert inspect_data(folder, COMM).data.shape == (8, 12)


@pytest.mark.parametrize("group", ["train", "validation", "test"])
def test_inspect_finds_bad_numbers_in_each_group(group, tmp_path):
    states = solved.heat((16,), 1.0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("train", "validation", "test"):
            bad = states.copy()
            bad[-1, -1] = np.nan if name == group else bad[-1, -1]
            file[f"{name}/trajectories"] = bad
    found = inspect_data(tmp_path / "a.h5", COMM)
    assert len(found.bad) == 1
    assert group in found.bad[0]


def test_inspect_names_a_group_with_other_physics(tmp_path, capsys):
    one = solved.heat((16,), 1.0)
    other = solved.heat((16,), 1.0, dt=solved.DT * 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = one, other
        file["test/trajectories"] = one
    keys = [f"physics.dt={solved.DT}", f"physics.diffusivity={solved.DIFFUSIVITY}"]
    main(["inspect", str(tmp_path / "a.h5"), "physics.pde=heat", *keys])
    output = " ".join(capsys.readouterr().out.split())
    assert "grid, time step and coefficients fit" in output
    assert "In the group validation the residual is" in output
    assert "In the group test" not in output
