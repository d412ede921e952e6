"""Correctness: the states of PDEBench's layouts are read with x last, and only the wanted
ones.
"""

import math

import h5py
import layouts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prdp_hpc.data import DataError, TrajectoryDataset, check_numbers
from prdp_hpc.data.formats.pdebench import PDEBench

pytestmark = pytest.mark.xdist_group("pdebench")  # One worker makes what all tests use.

SHAPES = {1: (6,), 2: (4, 6), 3: (2, 4, 6)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each layout with its states."""
    folder = tmp_path_factory.mktemp("pdebench")
    made = {}
    for dim, shape in SHAPES.items():
        states = layouts.known(shape=shape)
        made[f"tensor {dim}"] = layouts.pdebench(folder / f"{dim}.hdf5", states), states
        states = layouts.known(channels=2 + dim, shape=shape)
        path = layouts.pdebench(folder / f"{dim}D_CFD_M0.1.hdf5", states, eta=0.1)
        made[f"flow {dim}"] = path, states
    states = layouts.known()
    made["devices"] = layouts.pdebench(folder / "devices.hdf5", states, devices=True), states
    for dim in (1, 2):
        states = layouts.known(channels=dim, shape=SHAPES[dim])
        made[f"seeds {dim}"] = layouts.pdebench_seeds(folder / f"{dim}_NA.h5", states), states
    states, force = layouts.known(channels=3), layouts.known(channels=2)[:, 0]
    path = layouts.pdebench_flow(folder / "ns_incom_inhom_2d_512-1.h5", states, force)
    made["incompressible"] = path, states
    darcy = layouts.known(states=2)
    path = layouts.pdebench_darcy(folder / "2D_DarcyFlow.hdf5", darcy[:, 0, 0], darcy[:, 1, 0])
    made["darcy"] = path, darcy
    return made


LAYOUTS = [
    *[f"{kind} {dim}" for kind in ("tensor", "flow") for dim in SHAPES],
    "devices", "seeds 1", "seeds 2", "incompressible", "darcy",
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_states_with_x_last(layout, files):
    path, states = files[layout]
    data = PDEBench.open(path, states.shape[3:], validation=2)
    assert isinstance(data, TrajectoryDataset)
    assert (data.count("train"), data.count("validation"), data.steps) == (3, 2, len(states[0]) - 1)
    assert len(data.channels) == states.shape[2]
    np.testing.assert_array_equal(data.read("train"), states[:3])
    np.testing.assert_array_equal(data.read("validation"), states[3:])
    assert data.read("train", [0]).dtype == np.float32


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=20)
@given(free=st.data())
def test_parts_equal_those_of_the_whole_and_nothing_else_is_read(layout, files, free):
    path, states = files[layout]
    data = PDEBench.open(path, states.shape[3:], validation=2)
    draw = free.draw
    part = []
    for n in states.shape[3:]:
        first = draw(st.integers(0, n))
        part.append(slice(first, draw(st.integers(first, n))))
    first = draw(st.integers(0, data.steps))
    chosen = slice(first, draw(st.integers(first + 1, data.steps + 1)), draw(st.integers(1, 3)))
    sample = draw(st.integers(0, 2))
    expected = states[sample][(chosen, slice(None), *part)]
    with counted() as bytes_read:
        found = data.read_states("train", sample, chosen, part)
    np.testing.assert_array_equal(found, expected)
    assert sum(bytes_read) == expected.nbytes


class counted:  # noqa: N801 - a context manager
    """The bytes of each read of a data set; not of the times, which are read once."""

    def __enter__(self):
        self._original, read = h5py.Dataset.__getitem__, []

        def getitem(dataset, selection):
            found = self._original(dataset, selection)
            if not dataset.name.endswith("/grid/t"):
                read.append(found.nbytes)
            return found

        h5py.Dataset.__getitem__ = getitem
        return read

    def __exit__(self, *raised):
        h5py.Dataset.__getitem__ = self._original


def test_numbers_of_the_files(files, tmp_path):
    path = layouts.pdebench_burgers(tmp_path, layouts.known(shape=(8,)), nu=0.02, dt=0.05)
    burgers = PDEBench.open(path, (8,))
    assert burgers.attributes["dt"] == 0.05
    assert burgers.attributes["viscosity"] == pytest.approx(0.02 / math.pi, rel=1e-15)
    assert burgers.attributes["pde"] == "burgers"
    check_numbers(burgers, {"dt": 0.05, "viscosity": 0.02 / math.pi}, "a")
    with pytest.raises(DataError, match=r"physics.viscosity=0.0063661977"):
        check_numbers(burgers, {"viscosity": 0.02}, "a")
    reaction = layouts.pdebench(tmp_path / "ReacDiff_Nu0.5_Rho2.0.hdf5", layouts.known(shape=(8,)))
    found = PDEBench.open(reaction, (8,)).attributes
    assert (found["Nu"], found["rho"]) == (0.5, 2.0)
    assert "viscosity" not in found
    flow = PDEBench.open(files["incompressible"][0], (4, 6))
    assert (flow.attributes["viscosity"], flow.attributes["dt"]) == (0.01, 5e-3)
    seeds = PDEBench.open(files["seeds 2"][0], (4, 6))
    assert (seeds.attributes["Du"], seeds.attributes["dt"]) == (1e-3, 0.05)
    assert seeds.channels == ("u", "v")


def test_spacing_is_that_of_the_coordinates_in_our_order(tmp_path):
    states = layouts.known(shape=(2, 4, 8))
    path = layouts.pdebench(tmp_path / "a.hdf5", states, lengths=(1.0, 2.0, 8.0), start=-1.0)
    assert PDEBench.open(path, (2, 4, 8)).spacing == (0.5, 0.5, 1.0)
    assert PDEBench.open(path, (1, 2, 4), subsample=2).spacing == (1.0, 1.0, 2.0)


def test_keys_choose_channels_axes_points_and_states(files):
    path, states = files["flow 2"]
    data = PDEBench.open(path, (2, 3), channels=["Vy", "Vx"], subsample=2, subsample_time=2)
    np.testing.assert_array_equal(data.read("train"), states[:4, ::2, [3, 2], ::2, ::2])
    assert (data.steps, data.attributes["dt"]) == (1, 0.02)
    other = PDEBench.open(path, (6, 4), axes=["y", "x"])
    np.testing.assert_array_equal(other.read("train"), states[:4].swapaxes(3, 4))
    path, states = files["incompressible"]
    forced = PDEBench.open(path, (4, 6), channels=["velocity_x", "force_y"])
    constant = layouts.known(channels=2)[:4, 0, 1]
    found = forced.read("train")
    np.testing.assert_array_equal(found[:, :, 0], states[:4, :, 0])
    np.testing.assert_array_equal(found[:, :, 1], np.stack([constant] * 4, axis=1))


def test_states_that_were_not_written_are_left_out(tmp_path):
    states = layouts.known(channels=3)
    path = layouts.pdebench_flow(
        tmp_path / "ns.h5", states, layouts.known(channels=2)[:, 0], last=2
    )
    assert PDEBench.open(path, (4, 6)).steps == 2


def test_bad_trajectories_are_named_and_can_be_excluded(tmp_path):
    states = layouts.known(trajectories=6)
    states[2, 3, 0, 1, 1] = np.nan
    path = layouts.pdebench(tmp_path / "a.hdf5", states)
    data = PDEBench.open(path, (4, 6), validation=1)
    np.testing.assert_array_equal(data.read_states("train", 2, slice(0, 3, 1)), states[2, :3])
    with pytest.raises(DataError, match=r"trajectory 2 .* state 3; .*exclude=\[2\]"):
        data.read("train")
    without = PDEBench.open(path, (4, 6), validation=1, exclude=[2])
    np.testing.assert_array_equal(without.read("train"), states[[0, 1, 3, 4]])


def test_several_files_and_one_per_group(tmp_path):
    states = layouts.known(trajectories=30)
    parts = {"b_2_train": states[:9], "b_10_train": states[9:20], "b_1_valid": states[20:]}
    for name, part in parts.items():
        layouts.pdebench(tmp_path / f"{name}.hdf5", part)
    joined = PDEBench.open(tmp_path / "b_*_train.hdf5", (4, 6), validation=0.25, test=1)
    assert joined.groups == ("train", "validation", "test")
    np.testing.assert_array_equal(joined.read("train"), states[:14])
    np.testing.assert_array_equal(joined.read("validation"), states[14:19])
    np.testing.assert_array_equal(joined.read("test"), states[19:20])
    grouped = PDEBench.open(tmp_path / "b_*_{group}.hdf5", (4, 6))
    np.testing.assert_array_equal(grouped.read("train"), states[:20])
    np.testing.assert_array_equal(grouped.read("validation"), states[20:])
    alone = PDEBench.open(tmp_path / "b_*_{group}.hdf5", (4, 6), ["validation"])
    assert [file.name for file in alone.files] == ["b_1_valid.hdf5"]
    assert alone.count("train") == 0
    assert PDEBench.open(tmp_path, (4, 6)).count("train") == 27


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shape": (6, 4)}, r"6 × 4 points along x, y: grid.shape must be \[4, 6\] \(y, x\)"),
        ({"shape": (4, 6), "axes": ["x"]}, "must contain x, y, each once, not x"),
        ({"shape": (4, 6), "channels": ["p"]}, "has no channel p: .* can contain u"),
        ({"shape": (4, 6), "subsample": 5}, "subsample=5 must divide"),
        ({"shape": (4, 6), "subsample_time": 4}, "of which data.format.subsample_time=4 keeps 1"),
        ({"shape": (4, 6), "validation": 9}, "has 5 trajectories, too few for 9 for validation"),
        ({"shape": (4, 6), "validation": 0}, "no trajectories for the group validation"),
        ({"shape": (4, 6), "exclude": [5]}, "contains 5, but .* numbered from 0 to 4"),
    ],
)
def test_keys_that_do_not_fit_the_file(keys, message, files):
    with pytest.raises(DataError, match=message):
        PDEBench.open(files["tensor 2"][0], **keys)


def change(path, name, value):
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tensor", None, "is not a file of PDEBench, .* it contains: t-coordinate"),
        ("tensor", np.zeros((5, 6, 4)), r"tensor has shape \(5, 6, 4\), expected \(trajectories"),
        (
            "tensor",
            np.zeros((5, 4, 6, 4), "complex64"),
            "tensor must contain floating-point numbers",
        ),
        ("x-coordinate", np.arange(5.0), "x-coordinate has 5 entries, but the arrays have 6"),
        ("x-coordinate", np.arange(6.0) ** 2, "must increase by equal steps"),
        ("t-coordinate", np.arange(7.0), "4 or 5 entries are expected"),
        ("t-coordinate", np.array([0, 1, 3, 4, 5.0]), "steps are from 1 to 2"),
    ],
)
def test_foreign_and_damaged_files(name, value, message, tmp_path):
    path = layouts.pdebench(tmp_path / "a.hdf5", layouts.known())
    change(path, name, value)
    with pytest.raises(DataError, match=message) as caught:
        PDEBench.open(path, (4, 6))
    assert str(path) in str(caught.value)


def test_files_that_are_not_there_or_not_hdf5(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        PDEBench.open(tmp_path / "a.hdf5", (4, 6))
    (tmp_path / "b.hdf5").write_text("text")
    with pytest.raises(DataError, match=r"b.hdf5: cannot be read as HDF5"):
        PDEBench.open(tmp_path / "b.hdf5", (4, 6))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"contains no file with the ending .hdf5 or .h5"):
        PDEBench.open(tmp_path / "empty", (4, 6))


def test_files_of_different_pdes_are_refused(tmp_path):
    layouts.pdebench_burgers(tmp_path, layouts.known(shape=(8,)), nu=0.02)
    layouts.pdebench_burgers(tmp_path, layouts.known(shape=(8,)), nu=0.04)
    with pytest.raises(DataError, match="files of one PDE"):
        PDEBench.open(tmp_path, (8,))
