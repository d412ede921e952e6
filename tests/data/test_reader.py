"""Reliability and correctness: trajectories are read without changes, and invalid files cause clear
messages.
"""

import re

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_data import EXCERPTS, WHOLE, reference

from prdp_hpc.data import (
    DataError,
    TrajectoryAttributes,
    TrajectoryFile,
    check_numbers,
    write_trajectories,
)

SHAPE = (4, 5)


def fields(samples=3, steps=2, channels=2, dtype=np.float64, shape=SHAPE):
    return (
        np.random.default_rng(samples)
        .standard_normal((samples, steps + 1, channels, *shape))
        .astype(dtype)
    )


def attributes(shape=SHAPE, **changes):
    known = {
        "pde": "heat",
        "boundary": "dirichlet",
        "length": 1.0,
        "numbers": {"dt": 0.5, "diffusivity": 2.0},
    }
    return TrajectoryAttributes(
        shape=shape, channels=("u",), scheme="exact", **{**known, **changes}
    )


def store(path, train, validation=None, **options):
    """An HDF5 file from another program, without attributes."""
    with h5py.File(path, "w") as file:
        file.create_dataset("train/trajectories", data=train, **options)
        file.create_dataset(
            "validation/trajectories", data=train if validation is None else validation
        )
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_keeps_every_bit(dtype, tmp_path):
    groups = {"train": fields(7, dtype=dtype), "validation": fields(2, dtype=dtype)}
    path = tmp_path / "new folder" / "a.h5"
    write_trajectories(
        path, groups, attributes(boundary=("periodic", "neumann"), length=(1.0, 2.0))
    )
    data = TrajectoryFile(path, SHAPE)
    assert (data.count("train"), data.count("validation"), data.steps) == (7, 2, 2)
    for group, array in groups.items():
        read = data.read(group)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, array)
    assert (data.attributes["boundary"], data.attributes["dt"]) == ("periodic,neumann", 0.5)
    assert list(data.attributes["grid_shape"]) == list(SHAPE)
    assert list(path.parent.iterdir()) == [path]


@given(st.data())
def test_a_part_is_that_part_of_the_whole(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "parts.h5"
    whole = fields(4)
    if not path.exists():
        store(path, whole)
    bounds = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in SHAPE]
    part = [slice(*pair) for pair in bounds]
    read = TrajectoryFile(path, SHAPE).read("train", part=part)
    np.testing.assert_array_equal(read, whole[(..., *part)])
    assert read.flags.c_contiguous


@pytest.mark.parametrize("part", [None, (slice(1, 3), slice(0, 2))])
def test_one_channel_may_be_left_out(part, tmp_path):
    array = fields(channels=1)
    data = TrajectoryFile(store(tmp_path / "a.h5", array[:, :, 0]), SHAPE)
    np.testing.assert_array_equal(
        data.read("train", part=part), array if part is None else array[..., 1:3, 0:2]
    )


# The content of the file, and a part of the message.
WRONG = {
    "no validation": (
        lambda f: f.create_dataset("train/trajectories", data=fields()),
        "validation/trajectories is missing",
    ),
    "nothing": (lambda f: None, "train/trajectories is missing.*the file contains: nothing"),
    "another name": (
        lambda f: f.create_dataset("training/u", data=fields()),
        "train/trajectories is missing.*training/u",
    ),
    "a data set for the group": (
        lambda f: f.create_dataset("train", data=fields()),
        "train/trajectories is missing",
    ),
    "a group for the data set": (
        lambda f: f.create_group("train/trajectories"),
        "train/trajectories is missing",
    ),
    "a broken link": (
        lambda f: f.__setitem__("train/trajectories", h5py.SoftLink("/no")),
        "train/trajectories is missing",
    ),
    "no data": (
        lambda f: f.__setitem__("train/trajectories", h5py.Empty("f4")),
        "train/trajectories is empty",
    ),
    "a number": (
        lambda f: f.__setitem__("train/trajectories", 1.5),
        r"train/trajectories has shape \(\), the grid needs",
    ),
}
ARRAYS = {
    "rank too low": (
        fields()[:, 0, 0],
        r"has shape \(3, 4, 5\), the grid needs \(samples, steps \+ 1, \[channels,\] 4, 5\)",
    ),
    "rank too high": (fields()[None], "has shape"),
    "another grid": (
        fields(shape=(5, 4)),
        r"has shape \(3, 3, 2, 5, 4\), the grid needs .* 4, 5\)",
    ),
    "booleans": (
        np.ones((3, 3, 2, *SHAPE), dtype=bool),
        "must have floating-point numbers of at most 64 bits or integers, not bool",
    ),
    "complex": (
        fields(dtype=np.complex128),
        "must have floating-point numbers of at most 64 bits or integers, not complex128",
    ),
    "no samples": (fields(samples=0), "at least 1 sample and 2 states"),
    "one state": (fields(steps=0), "at least 1 sample and 2 states"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case, tmp_path):
    make, message = WRONG[case]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with pytest.raises(
        DataError, match=f"^{re.escape(str(tmp_path / 'a.h5'))}: data set {message}"
    ):
        TrajectoryFile(tmp_path / "a.h5", SHAPE)


@pytest.mark.parametrize("case", ARRAYS)
def test_wrong_data_sets(case, tmp_path):
    array, message = ARRAYS[case]
    with pytest.raises(DataError, match=f"a.h5: data set train/trajectories .*{message}"):
        TrajectoryFile(store(tmp_path / "a.h5", array), SHAPE)


def test_groups_that_disagree(tmp_path):
    with pytest.raises(
        DataError,
        match=(
            r"must agree in all but the number of samples: \(3, 3, 2, 4, 5\) and "
            r"\(3, 4, 2, 4, 5\)"
        ),
    ):
        TrajectoryFile(store(tmp_path / "a.h5", fields(), fields(steps=3)), SHAPE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_found_where_they_are(bad, tmp_path):
    array = fields()
    array[2, 1, 0, 3, 4] = bad
    data = TrajectoryFile(store(tmp_path / "a.h5", array), SHAPE)
    with pytest.raises(
        DataError,
        match=r"a.h5: train/trajectories contains NaN or infinity, first in sample 2, step 1",
    ):
        data.read("train")
    data.read("train", part=(slice(0, 3), slice(0, 5)))


def test_coefficients_in_a_file_are_compared(tmp_path):
    made_with = {"dt": 0.5, "diffusivity": 2.0, "nu": 3.0}
    trajectories = {"train": fields(), "validation": fields()}
    write_trajectories(tmp_path / "a.h5", trajectories, attributes(numbers=made_with))
    data = TrajectoryFile(tmp_path / "a.h5")
    check_numbers(data, {"dt": 0.5, "viscosity": 3.0, "unheard_of": 1.0}, "a.h5")
    with pytest.raises(
        DataError,
        match=r"a.h5: was generated with dt = 0.5, but physics.dt is 0.25: give physics.dt=0.5,",
    ):
        check_numbers(data, {"dt": 0.25}, "a.h5")
    with pytest.raises(DataError, match=r"generated with nu = 3, but physics.viscosity is 1"):
        check_numbers(data, {"viscosity": 1.0}, "a.h5")
    plain = TrajectoryFile(store(tmp_path / "b.h5", fields()), SHAPE)
    check_numbers(plain, {"dt": 0.25}, "b.h5")
    with pytest.raises(DataError, match="has no attribute grid_shape"):
        TrajectoryFile(tmp_path / "b.h5")


def test_files_that_are_no_hdf5(tmp_path):
    (tmp_path / "text.h5").write_text("u = 1")
    with pytest.raises(DataError, match=r"text.h5: cannot be read as HDF5"):
        TrajectoryFile(tmp_path / "text.h5", SHAPE)
    with pytest.raises(DataError, match=r"is a folder; data\.file must name an HDF5 file"):
        TrajectoryFile(tmp_path, SHAPE)
    with pytest.raises(
        DataError, match=r"no such data file; give another data\.file, or leave it out"
    ):
        TrajectoryFile(tmp_path / "absent.h5", SHAPE)


def test_truncated_or_damaged_files(tmp_path):
    path = store(tmp_path / "a.h5", fields(50), compression="gzip", fletcher32=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a.h5: cannot be read as HDF5"):
        TrajectoryFile(path, SHAPE)
    with h5py.File(store(path, fields(50), compression="gzip", fletcher32=True)) as file:
        chunk = file["train/trajectories"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(
        DataError, match=r"a.h5: data set train/trajectories cannot be read, the file is damaged"
    ):
        TrajectoryFile(path, SHAPE).read("train")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (fields().astype(np.int32), "must be float32 or float64"),
        (fields()[:, :, 0], r"must have shape .* 4, 5\)"),
        (fields(shape=(5, 4)), "must have shape"),
    ],
)
def test_writing_rejects_arrays_that_could_not_be_read(array, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_trajectories(tmp_path / "a.h5", {"train": array}, attributes())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [("heat_1d", (30,), 1), ("heat_2d", (30, 30), 1), ("navier_stokes", (48, 48), 3)],
)
def test_reference_files(name, shape, channels):
    path = reference(f"{name}.h5")
    with h5py.File(path) as file:
        counts = {group: file[f"{group}/trajectories"].shape[0] for group in file}
        steps = file["train/trajectories"].shape[1] - 1
    data = TrajectoryFile(path, shape)
    assert {group: data.count(group) for group in counts} == counts
    assert data.steps == steps
    assert data.read("validation").shape == (counts["validation"], steps + 1, channels, *shape)


@pytest.mark.skipif(not WHOLE.exists(), reason=f"the whole reference data is not there: {WHOLE}")
@pytest.mark.parametrize("name", ["heat_1d", "heat_2d", "navier_stokes"])
def test_excerpts_are_the_first_samples(name):
    with (
        h5py.File(EXCERPTS / f"{name}.h5") as part,
        h5py.File(WHOLE / f"{name}.h5") as whole,
    ):
        assert dict(part.attrs) == dict(whole.attrs)
        for group in whole:
            ours, theirs = part[f"{group}/trajectories"], whole[f"{group}/trajectories"]
            samples, states = ours.shape[:2]
            np.testing.assert_array_equal(ours, theirs[:samples, :states])


def test_a_test_group_is_read_if_the_file_has_it(tmp_path):
    groups = {"train": fields(4), "validation": fields(2), "test": fields(3)}
    write_trajectories(tmp_path / "a.h5", groups, attributes())
    found = TrajectoryFile(tmp_path / "a.h5", SHAPE)
    assert (found.groups, found.count("test")) == (("train", "validation", "test"), 3)
    np.testing.assert_array_equal(found.read("test"), groups["test"])
    validating = TrajectoryFile(tmp_path / "a.h5", SHAPE, ["validation"])
    assert (validating.groups, validating.count("test")) == (("validation",), 0)


def test_a_test_group_with_other_steps_is_rejected(tmp_path):
    groups = {"train": fields(), "validation": fields(), "test": fields(steps=3)}
    write_trajectories(tmp_path / "a.h5", groups, attributes())
    with pytest.raises(DataError, match="train/trajectories and validation/trajectories and test/"):
        TrajectoryFile(tmp_path / "a.h5", SHAPE)
