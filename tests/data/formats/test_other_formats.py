"""Correctness: the states of The Well, APEBench, NumPy, netCDF and Zarr are read with x last, and
only the wanted ones.
"""

import sys
import zipfile

import h5py
import layouts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pdebench import SHAPES, counted

from prdp_hpc.config.components import BUILT_IN, Component
from prdp_hpc.data import DataError, TrajectoryDataset
from prdp_hpc.data.formats.apebench import APEBench
from prdp_hpc.data.formats.detect import format_of
from prdp_hpc.data.formats.labelled_arrays import NetCDF, Zarr
from prdp_hpc.data.formats.numpy_files import NumPyArrays
from prdp_hpc.data.formats.the_well import TheWell
from prdp_hpc.errors import InputError

pytestmark = pytest.mark.xdist_group("other_formats")  # One worker makes what all tests use.


def well_fields(states):
    """The channels of `states`: a scalar, then a vector."""
    stored = np.moveaxis(layouts.x_first(states), 2, -1)
    return {"t0_fields": {"tracer": stored[..., 0]}, "t1_fields": {"velocity": stored[..., 1:]}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each layout with its format, the states and the keys."""
    folder = tmp_path_factory.mktemp("formats")
    made = {}
    for dim, shape in SHAPES.items():
        states = layouts.known(channels=1 + dim, shape=shape)
        path = layouts.well(folder / f"{dim}.hdf5", well_fields(states))
        made[f"well {dim}"] = TheWell, path, states, {}
        states = layouts.known(channels=dim, shape=shape)
        path = layouts.apebench(folder, f"{dim}d_known", states)
        made[f"apebench {dim}"] = APEBench, path, states, {}
        np.save(folder / f"{dim}.npy", states)
        made[f"npy {dim}"] = NumPyArrays, folder / f"{dim}.npy", states, {}
        path = layouts.labelled(folder / f"{dim}.nc", states)
        made[f"netcdf {dim}"] = NetCDF, path, states, {}
        path = layouts.labelled(folder / f"{dim}.zarr", states)
        made[f"zarr {dim}"] = Zarr, path, states, {}
    states = layouts.known(channels=2)
    np.savez(folder / "one.npz", states=states.transpose(3, 2, 0, 4, 1), dt=0.25)
    keys = {"layout": ["y", "channel", "sample", "x", "time"]}
    made["npz"] = NumPyArrays, folder / "one.npz", states, keys
    names = {"time": "t", "x": "lon", "y": "lat", "sample": "member"}
    path = layouts.labelled(folder / "names.nc", states, names=names)
    made["netcdf names"] = NetCDF, path, states, {"dims": names}
    return made


LAYOUTS = [
    *[f"{kind} {dim}" for kind in ("well", "apebench", "npy", "netcdf", "zarr") for dim in SHAPES],
    "npz", "netcdf names",
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_states_with_x_last(layout, files):
    kind, path, states, keys = files[layout]
    data = kind.open(path, states.shape[3:], validation=2, **keys)
    assert isinstance(data, TrajectoryDataset)
    assert (data.count("train"), data.count("validation"), data.steps) == (3, 2, 3)
    np.testing.assert_array_equal(data.read("train"), states[:3])
    np.testing.assert_array_equal(data.read("validation"), states[3:])
    assert data.read("train", [0]).dtype == np.float32


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=10)
@given(free=st.data())
def test_parts_equal_those_of_the_whole_and_nothing_else_is_read(layout, files, free):
    kind, path, states, keys = files[layout]
    data = kind.open(path, states.shape[3:], validation=2, **keys)
    part = []
    for n in states.shape[3:]:
        first = free.draw(st.integers(0, n - 1))
        part.append(slice(first, free.draw(st.integers(first + 1, n))))
    first = free.draw(st.integers(0, data.steps))
    last = free.draw(st.integers(first + 1, data.steps + 1))
    chosen = slice(first, last, free.draw(st.integers(1, 3)))
    sample = free.draw(st.integers(0, 2))
    expected = states[sample][(chosen, slice(None), *part)]
    with counted() as bytes_read:
        found = data.read_states("train", sample, chosen, part)
    np.testing.assert_array_equal(found, expected)
    # NumPy's arrays are mapped into memory, and those of Zarr are read by chunk.
    if kind in (TheWell, NetCDF):
        assert sum(bytes_read) == expected.nbytes


def test_arrays_of_numpy_are_mapped_and_not_read(files):
    for layout in ("npy 2", "npz", "apebench 2"):
        kind, path, _, keys = files[layout]
        (source,) = kind.open(path, **keys)._sources["train"]
        assert isinstance(source._array, np.memmap), layout


@pytest.mark.parametrize("layout", ["well 2", "netcdf 2"])
def test_closed_files_can_be_written_and_are_opened_again(layout, files):
    kind, path, states, keys = files[layout]
    data = kind.open(path, states.shape[3:], **keys)
    data.read("train", [0])
    data.close()
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "written"
    np.testing.assert_array_equal(data.read("train", [1]), states[1:2])
    data.close()


def test_every_format_is_named_by_its_section():
    for name, where in BUILT_IN["formats"].items():
        assert hasattr(Component(name, where).load(), "open")


# The Well


def test_axes_that_a_field_of_the_well_does_not_have(tmp_path):
    states = layouts.known(channels=2, shape=(4, 6))
    stored = layouts.x_first(states)
    fields = {
        "t0_fields": {
            "u": stored[:, :, 0], "constant": stored[:, 0, 1], "profile": stored[0, 0, 1, :1],
        },
        "t2_fields": {"stress": np.stack([stored[:, :, 1]] * 4, -1).reshape(5, 4, 6, 4, 2, 2)},
    }  # fmt: skip
    flags = {"constant": (True, False, [True, True]), "profile": (False, False, [False, True])}
    fields["t0_fields"]["profile"] = stored[0, 0, 1, 0]
    path = layouts.well(tmp_path / "a.hdf5", fields, flags=flags)
    data = TheWell.open(path, (4, 6))
    assert data.channels == ("u", "stress_xx", "stress_xy", "stress_yx", "stress_yy")
    chosen = TheWell.open(path, (4, 6), channels=["constant", "profile"])
    part = [slice(1, 3), slice(0, 5)]
    found = chosen.read_states("train", 2, slice(1, 4, 2), part)
    np.testing.assert_array_equal(found[:, 0], [states[2, 0, 1, 1:3, :5]] * 2)
    expected = np.repeat(states[0, 0, 1, 1:3, :1], 5, axis=1)
    np.testing.assert_array_equal(found[:, 1], [expected] * 2)


def test_the_groups_of_the_well_and_its_parameters(tmp_path):
    root = tmp_path / "set" / "data"
    made = {}
    for group in ("train", "valid", "test"):
        for reynolds in (10.0, 100.0):
            states = layouts.known(trajectories=2, channels=3, seed=len(made))
            path = root / group / f"shear_Reynolds_{reynolds:g}.hdf5"
            layouts.well(path, well_fields(states), Reynolds=reynolds, dataset_name="shear_flow")
            made[group, reynolds] = states
    with pytest.raises(DataError, match=r"viscosity = 0.01, but .* has 0.1"):
        TheWell.open(tmp_path / "set", (4, 6))
    data = TheWell.open(tmp_path / "set", (4, 6), parameters={"Reynolds": 100.0})
    assert data.groups == ("train", "validation", "test")
    for group, stored in (("train", "train"), ("validation", "valid"), ("test", "test")):
        np.testing.assert_array_equal(data.read(group), made[stored, 100.0])
    assert data.attributes["viscosity"] == 0.01
    assert data.attributes["dt"] == 0.1
    with pytest.raises(DataError, match=r"no file of the group train has .*; there are Reynolds"):
        TheWell.open(tmp_path / "set", (4, 6), parameters={"Reynolds": 5.0})
    with pytest.raises(DataError, match=r"separate trajectories for validation: leave out"):
        TheWell.open(tmp_path / "set", (4, 6), parameters={"Reynolds": 10.0}, validation=1)
    only = TheWell.open(tmp_path / "set", (4, 6), ["validation"], parameters={"Reynolds": 10})
    assert [file.parent.name for file in only.files] == ["valid"]


def test_boundaries_of_the_well_in_our_order_and_open_where_undeclared(tmp_path):
    states = layouts.known(channels=4, shape=(2, 4, 6))
    boundary = [("around", "x", "PERIODIC"), ("floor", "z", "WALL")]
    path = layouts.well(tmp_path / "a.hdf5", well_fields(states), boundary=boundary)
    assert TheWell.open(path, (2, 4, 6)).boundary == ("wall", "open", "periodic")


def test_files_that_are_not_of_the_well(tmp_path):
    path = layouts.pdebench(tmp_path / "a.hdf5", layouts.known())
    with pytest.raises(DataError, match=r"a.hdf5: is not a file of The Well, .* contains: t-coor"):
        TheWell.open(path, (4, 6))
    states = layouts.known(channels=3)
    flags = {"tracer": (True, False, [True, True])}
    path = layouts.well(tmp_path / "b.hdf5", well_fields(states), flags=flags)
    with pytest.raises(DataError, match=r"t0_fields/tracer has shape .*, expected \(5, 6, 4\)"):
        TheWell.open(path, (4, 6))


# APEBench


def test_the_groups_and_coefficients_of_apebench(tmp_path):
    train, test = layouts.known(shape=(8,)), layouts.known(7, 9, shape=(8,), seed=1)
    info = {"num_points": 8, "diffusion_gamma": 4.0}
    path = layouts.apebench(tmp_path, "1d_diff_diff", train, test, **info)
    for given_path in (path, tmp_path, tmp_path / "1d_diff_diff_train.npy"):
        data = APEBench.open(given_path, (8,), validation=2)
        assert data.groups == ("train", "validation", "test")
        assert (data.count("test"), data.steps) == (7, 3)
        np.testing.assert_array_equal(data.read("test"), test[:, :4])
    assert data.attributes["dt"] == 1.0
    assert data.attributes["diffusivity"] == pytest.approx(4.0 / (2 * 64))
    assert data.spacing == (0.125,)
    info = {"dt": 0.1, "domain_extent": 2.0, "diffusion_coef": 0.01, "convection_coef": -0.5}
    path = layouts.apebench(tmp_path, "1d_phy_burgers", train, **info)
    found = APEBench.open(path, (8,))
    assert found.spacing == (0.25,)
    assert found.attributes["dt"] == pytest.approx(0.05)
    assert found.attributes["viscosity"] == pytest.approx(0.02)
    with pytest.raises(DataError, match="files of one scenario, not of 2"):
        APEBench.open(tmp_path, (8,))


# NumPy


def test_groups_of_an_npz_and_arrays_without_an_axis_of_channels(tmp_path):
    states = layouts.known()
    np.savez(tmp_path / "a.npz", train=states[:3, :, 0], valid=states[3:, :, 0], viscosity=0.5)
    data = NumPyArrays.open(tmp_path / "a.npz", (4, 6))
    np.testing.assert_array_equal(data.read("train"), states[:3])
    np.testing.assert_array_equal(data.read("validation"), states[3:])
    assert data.attributes["viscosity"] == 0.5
    np.save(tmp_path / "f.npy", np.asfortranarray(states.astype(">f2")))
    found = NumPyArrays.open(tmp_path / "f.npy", (4, 6), validation=1).read("train")
    np.testing.assert_array_equal(found, states[:4].astype("f2").astype("f4"))
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("array", "keys", "message"),
    [
        (np.zeros((4, 3, 8)), {"layout": ["sample", "x", "y"]}, "must name its 3 axes"),
        (np.zeros((4, 3)), {}, r"shape \(4, 3\): data.format.layout must name its 2 axes"),
        (np.array([{}, 1]), {}, "a pickle, which is never loaded"),
        (np.zeros((4, 3, 1, 8), "complex64"), {}, "must contain floating-point numbers"),
    ],
)
def test_arrays_that_are_not_trajectories(array, keys, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", train=array)
    for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
        with pytest.raises(DataError, match=message) as caught:
            NumPyArrays.open(path, (8,), **keys)
        assert str(path) in str(caught.value)


def test_compressed_and_damaged_files_of_numpy(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", train=layouts.known())
    with pytest.raises(DataError, match=r"the array train is compressed, .* numpy.savez instead"):
        NumPyArrays.open(tmp_path / "a.npz", (4, 6))
    for name in ("b.npz", "b.npy"):
        (tmp_path / name).write_bytes(b"nothing of NumPy")
        with pytest.raises(DataError, match=name):
            NumPyArrays.open(tmp_path / name, (4, 6))
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("train.npy", b"\x93NUMPY nothing")
    with pytest.raises(DataError, match="array train: is not an array"):
        NumPyArrays.open(tmp_path / "c.npz", (4, 6))


# netCDF and Zarr


@pytest.mark.parametrize(("kind", "suffix"), [(NetCDF, ".nc"), (Zarr, ".zarr")])
def test_variables_attributes_and_coordinates(kind, suffix, tmp_path):
    states = layouts.known(channels=3)
    path = layouts.labelled(tmp_path / f"a{suffix}", states, length=3.0, viscosity=0.5, title="a")
    data = kind.open(path, (4, 6), variables=["u2", "u0"])
    np.testing.assert_array_equal(data.read("validation"), states[4:, :, [2, 0]])
    assert data.attributes["viscosity"] == 0.5
    assert data.attributes["dt"] == 0.1
    assert data.spacing == (0.75, 0.5)
    with pytest.raises(DataError, match=r"no variable p: .* can contain u0, u1, u2"):
        kind.open(path, (4, 6), variables=["p"])
    with pytest.raises(DataError, match=r"no variable has the axis t: name the axis by"):
        kind.open(path, (4, 6), dims={"time": "t"})
    with pytest.raises(DataError, match=r"u0 has the axes .*: it needs time and x"):
        kind.open(path, (4, 6), dims={"y": "lat"})
    missing = tmp_path / f"b{suffix}"
    with pytest.raises(DataError, match=r"b\.\w+: no such"):
        kind.open(missing, (4, 6))
    missing.mkdir() if kind is Zarr else missing.write_text("text")
    with pytest.raises(DataError, match=r"b\.\w+: cannot be read by"):
        kind.open(missing, (4, 6))


def test_packed_numbers_are_unpacked_and_missing_ones_refused(tmp_path):
    import xarray

    packed = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -999}
    states = np.round(2 * layouts.known()) / 2
    states[3, 2, 0, 0, 0] = np.nan
    dims = ("sample", "time", "y", "x")
    data = xarray.Dataset({"u": (dims, states[:, :, 0])})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"u": packed})
    found = NetCDF.open(tmp_path / "a.nc", (4, 6), validation=1)
    np.testing.assert_allclose(found.read("train", range(3)), states[:3], rtol=1e-6)
    with pytest.raises(DataError, match=r"state 2; leave the trajectory out .*exclude=\[3\]"):
        found.read("train")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    path = layouts.labelled(tmp_path / "a.nc", layouts.known())
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match=r"pip install 'prdp-hpc\[formats\]'"):
        NetCDF.open(path, (4, 6))


@pytest.mark.parametrize(("kind", "suffix"), [(NetCDF, ".nc"), (Zarr, ".zarr")])
def test_a_folder_a_pattern_a_list_and_files_of_groups(kind, suffix, tmp_path):
    """In natural order: 2 before 10."""
    states = layouts.known()
    parts = {"a_2": states[:2], "a_10": states[2:3], "a_val": states[3:]}
    for name, part in parts.items():
        layouts.labelled(tmp_path / "own" / f"{name}{suffix}", part)
    folder = tmp_path / "own"
    for path in (folder, folder / f"a_*{suffix}", [folder / f"a_2{suffix}"]):
        assert format_of(path) == {".nc": "netcdf", ".zarr": "zarr"}[suffix]
    every = kind.open(folder, (4, 6), validation=1)
    np.testing.assert_array_equal(every.read("train"), states[:4])
    np.testing.assert_array_equal(every.read("validation"), states[4:])
    some = kind.open(folder / f"a_[0-9]*{suffix}", (4, 6), validation=1)
    np.testing.assert_array_equal(some.read("train"), states[:2])
    listed = kind.open([folder / f"a_{n}{suffix}" for n in (10, 2)], (4, 6), validation=1)
    np.testing.assert_array_equal(listed.read("train"), states[[2, 0]])
    for name in ("2", "10"):
        (folder / f"a_{name}{suffix}").rename(folder / f"b_{name}_train{suffix}")
    (folder / f"a_val{suffix}").rename(folder / f"b_1_val{suffix}")
    groups = kind.open(folder / f"b_*_{{group}}{suffix}", (4, 6))
    np.testing.assert_array_equal(groups.read("train"), states[:3])
    np.testing.assert_array_equal(groups.read("validation"), states[3:])
    with pytest.raises(DataError, match=r"no such data files with train, validation"):
        kind.open(folder / f"c_{{group}}{suffix}", (4, 6))
