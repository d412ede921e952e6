"""Correctness: samples are the windows of all trajectories, in any type of numbers that a file may
have.
"""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.data import (
    DataError,
    EpochSampler,
    TrajectoryAttributes,
    TrajectoryFile,
    WindowedDataset,
    Windows,
    write_trajectories,
)
from prdp_hpc.data.windows import runs
from prdp_hpc.data.writer import state_chunks
from prdp_hpc.errors import InputError

pytestmark = pytest.mark.xdist_group("windows")  # One worker makes what all tests use.


class Arrays:
    """A user-defined data set in memory; it counts the states that are read."""

    path = "mine"

    def __init__(self, states):
        self.states, self.steps, self.read_count = states, states.shape[1] - 1, 0

    def count(self, group):
        return len(self.states)

    def read(self, group, samples, part):
        self.read_count += len(samples) * (self.steps + 1)
        return self.states[(list(samples), slice(None), slice(None), *part)]


@st.composite
def windows(draw):
    states = draw(st.integers(1, 30))
    return Windows(
        draw(st.integers(0, 5)), states, draw(st.integers(1, states)), draw(st.integers(1, 35))
    )


@given(windows())
def test_windows_are_all_that_fit_and_count_their_states(found):
    places = [found.place(sample) for sample in range(len(found))]
    expected = [
        (trajectory, start)
        for trajectory in range(found.trajectories)
        for start in range(0, found.states, found.stride)
        if start + found.length <= found.states
    ]
    assert places == expected
    covered = {
        start + i for trajectory, start in places if trajectory == 0 for i in range(found.length)
    }
    if found.trajectories:
        assert (found.used, found.unused) == (len(covered), found.states - len(covered))
    if found.stride == 1:
        assert found.unused == 0


@pytest.mark.parametrize("sizes", [(-1, 3, 3, 1), (2, 3, 4, 1), (2, 3, 0, 1), (2, 3, 3, 0)])
def test_sizes_out_of_range(sizes):
    with pytest.raises(InputError, match="windows need at least 0 trajectories, a stride of"):
        Windows(*sizes)


def test_settings_out_of_range():
    data = Arrays(np.zeros((2, 4, 1, 8)))
    with pytest.raises(InputError, match=r"data\.window must be an integer of at least 1, not 0"):
        WindowedDataset(data, window=0)
    with pytest.raises(DataError, match=r"mine: .* have 3 step\(s\), but data\.steps=4: give a"):
        WindowedDataset(data, steps=4)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same trajectories in an array, in a file, and in a file without a channel axis."""
    whole = np.random.default_rng(0).standard_normal((3, 7, 1, 5))
    paths = [tmp_path_factory.mktemp("windows") / f"{name}.h5" for name in ("with", "without")]
    for path, stored in zip(paths, (whole, whole[:, :, 0]), strict=True):
        with h5py.File(path, "w") as file:
            file["train/trajectories"] = file["validation/trajectories"] = stored
    return whole, [Arrays(whole), *[TrajectoryFile(path, (5,)) for path in paths]]


@given(st.data())
def test_a_batch_of_windows_has_the_states_of_each(both, data):
    """In any order, repeated, side by side and overlapping."""
    whole, datasets = both
    length = data.draw(st.integers(1, 7))
    starts = st.tuples(st.integers(0, 2), st.integers(0, 7 - length))
    places = data.draw(st.lists(starts, min_size=1, max_size=8))
    if data.draw(st.booleans()):
        places.sort()
    expected = np.stack([whole[i, first : first + length, :, 1:4] for i, first in places])
    for found in datasets:
        read = WindowedDataset(found).read_windows("train", places, length, (slice(1, 4),))
        np.testing.assert_array_equal(read, expected)
        cached = WindowedDataset(found).cached_windows("train", places, length, (slice(1, 4),))
        assert cached is None or (cached == expected).all()


def test_overlapping_windows_of_a_trajectory_are_one_run():
    places = [(0, 0), (0, 2), (0, 5), (1, 6), (1, 5), (2, 0), (2, 4)]
    assert list(runs(places, 3)) == [(0, 3), (3, 4), (4, 5), (5, 6), (6, 7)]
    assert list(runs([], 3)) == []


def test_states_that_a_subclass_or_a_wrapper_changes_are_used(both):
    """Also where it inherits, or passes on, a method that reads whole batches."""
    whole, (_, file, _) = both

    class Doubled(TrajectoryFile):
        def read_states(self, group, sample, states, part):
            return 2 * super().read_states(group, sample, states, part)

    class DoubledWindows(TrajectoryFile):
        def read_windows(self, *arguments):
            return 2 * super().read_windows(*arguments)

    class Wrapper:
        def __init__(self, data):
            self.data = data

        def __getattr__(self, name):
            return getattr(self.data, name)

        def read_states(self, group, sample, states, part):
            return 2 * self.data.read_states(group, sample, states, part)

    for found in (Doubled(file.path, (5,)), DoubledWindows(file.path, (5,)), Wrapper(file)):
        read = WindowedDataset(found).read_windows("train", [(1, 0)], 3, (slice(0, 5),))
        np.testing.assert_array_equal(read[0], 2 * whole[1, :3])
        part = (slice(0, 5),)
        assert WindowedDataset(found).cached_windows("train", [(1, 0)], 3, part) is None


@given(st.data())
def test_states_of_a_window_are_those_of_the_trajectory(tmp_path_factory, data):
    """In a file, and in a data set without `read_states`."""
    whole = np.random.default_rng(0).standard_normal((3, 7, 2, 5))
    path = tmp_path_factory.getbasetemp() / "windows.h5"
    if not path.exists():
        with h5py.File(path, "w") as file:
            file["train/trajectories"] = file["validation/trajectories"] = whole
    start, stop = sorted(data.draw(st.tuples(st.integers(0, 7), st.integers(0, 7))))
    step, sample = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2))
    part = (slice(1, 4),)
    for found in (TrajectoryFile(path, (5,)), Arrays(whole)):
        states = WindowedDataset(found).read_states("train", sample, slice(start, stop, step), part)
        np.testing.assert_array_equal(states, whole[sample, start:stop:step, :, 1:4])


def test_the_first_steps_of_trajectories_are_a_data_set(tmp_path):
    whole = np.random.default_rng(0).standard_normal((3, 7, 1, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/trajectories"] = file["validation/trajectories"] = whole
    for found in (TrajectoryFile(tmp_path / "a.h5", (5,)), Arrays(whole)):
        data = WindowedDataset(found, steps=2)
        assert (data.steps, data.count("train"), data.path) == (2, 3, found.path)
        read = data.read("train", range(1, 3), (slice(0, 5),))
        np.testing.assert_array_equal(read, whole[1:, :3])
        assert len(data.windows("train", 3)) == 3


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", "<f4", ">f8", "<f8", "i1", ">u2", ">i4"])
def test_numbers_of_any_type_are_read_exactly(dtype, tmp_path):
    whole = np.random.default_rng(0).integers(0, 100, (3, 4, 1, 5)).astype(dtype)
    whole = whole / 4 if np.dtype(dtype).kind == "f" else whole
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for group in ("train", "validation"):
            file.create_dataset(f"{group}/trajectories", data=whole, dtype=dtype)
    data = TrajectoryFile(tmp_path / "a.h5", (5,))
    for read in (
        data.read("train"),
        np.stack([data.read_states("train", i, slice(0, 4, 1), (slice(0, 5),)) for i in range(3)]),
        data.read_windows("train", [(0, 0), (1, 0), (2, 0)], 4, (slice(0, 5),)),
    ):
        assert read.dtype == (np.float64 if "8" in dtype else np.float32)
        assert read.dtype.isnative
        np.testing.assert_array_equal(read, whole)
    data.close()


@pytest.mark.parametrize("value", [2**24 + 1, -(2**24) - 1, 2**62])
def test_integers_that_float32_would_round_are_rejected(value, tmp_path):
    whole = np.full((2, 3, 1, 5), 2**24)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = whole, whole
        data = TrajectoryFile(tmp_path / "a.h5", (5,))
        np.testing.assert_array_equal(data.read("train"), whole)
        file["train/trajectories"][1, 2, 0, 3] = value
    with pytest.raises(DataError, match=rf"integer {abs(value)} .*store it as float64"):
        TrajectoryFile(tmp_path / "a.h5", (5,)).read("train")


def test_a_checkpoint_of_one_window_per_trajectory_has_no_windows():
    """Runs from before there were windows continue; those with other windows are rejected."""
    one, several = Windows(4, 3, 3, 7), Windows(4, 9, 3, 2)
    before = {"count": 4, "batch_size": 2, "seed": 0}
    EpochSampler(4, 2, 0, one.state_dict()).load_state_dict(before)
    sampler = EpochSampler(16, 2, 0, several.state_dict())
    sampler.load_state_dict(sampler.state_dict())
    for other in (before, EpochSampler(16, 2, 0, Windows(4, 6, 3, 1).state_dict()).state_dict()):
        with pytest.raises(InputError, match="resume with the same data and"):
            sampler.load_state_dict(other)


def test_each_chunk_of_a_written_file_is_a_state(tmp_path):
    """A state of 4 GiB cannot be a chunk of HDF5."""
    states = np.ones((3, 4, 2, 5, 6))
    about = TrajectoryAttributes("made up", (5, 6), "periodic", 1.0, {}, ("u", "v"), "none")
    write_trajectories(tmp_path / "a.h5", {"train": states, "validation": states}, about)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train/trajectories"].chunks == (1, 1, 2, 5, 6)
    assert state_chunks((3, 2, 1, 2**30 - 1), np.float32) == (1, 1, 1, 2**30 - 1)
    assert state_chunks((3, 2, 1, 2**30), np.float32) is None
    assert state_chunks((3, 2, 1, 0), np.float32) is None
