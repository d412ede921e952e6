"""Correctness: several files are read like one file with the trajectories of all of them."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import prdp_hpc.data.joined as joined_module
from prdp_hpc import TrajectoryArrays, load_config, train
from prdp_hpc.data import (
    DataError,
    JoinedTrajectories,
    TrajectoryAttributes,
    TrajectoryFile,
    check_agreement,
    content_id,
    windowed,
    write_trajectories,
)
from prdp_hpc.data.opening import open_dataset
from prdp_hpc.experiments.inspected import inspect_data

SHAPE, STATES, CHANNELS = (4, 5), 6, 2
GROUPS = ("train", "validation", "test")
NUMBERS = {"dt": 0.5, "diffusivity": 2.0}


def states(count, seed=0, steps=STATES, channels=CHANNELS, shape=SHAPE, dtype="f4"):
    random = np.random.default_rng(seed)
    return random.standard_normal((count, steps, channels, *shape)).astype(dtype)


def write(path, groups, shape=SHAPE, **changes):
    """A file in our layout with some groups; the writer needs the first two, which are removed."""
    about = {
        "pde": "heat",
        "boundary": "periodic",
        "length": 1.0,
        "numbers": NUMBERS,
        "channels": ("u", "v"),
        **changes,
    }
    some = next(iter(groups.values()))
    whole = {"train": some[:1], "validation": some[:1], **groups}
    write_trajectories(path, whole, TrajectoryAttributes(shape=shape, scheme="exact", **about))
    with h5py.File(path, "a") as file:
        for group in set(whole) - set(groups):
            del file[group]
    return path


def divided(folder, every, cuts):
    """The trajectories of each group in files, cut at these numbers."""
    files = []
    for number in range(len(cuts) + 1):
        groups = {}
        for group, array in every.items():
            first, last = ([0, *cuts, len(array)][number + i] for i in (0, 1))
            piece = array[min(first, len(array)) : min(last, len(array))]
            if len(piece):
                groups[group] = piece
        if groups:
            files.append(write(folder / f"a_{number}.h5", groups))
    return files


def is_equal(data, one, random):
    """Compare everything that is read of two data sets."""
    part = [slice(1, 4), slice(0, 5)]
    assert (data.groups, data.steps, data.shape) == (one.groups, one.steps, one.shape)
    assert content_id(data, SHAPE) == content_id(one, SHAPE)
    for group in one.groups:
        count = one.count(group)
        assert data.count(group) == count
        np.testing.assert_array_equal(
            data.read(group, range(count), part), one.read(group, range(count), part)
        )
        sample, cut = int(random.integers(count)), slice(1, STATES, 2)
        np.testing.assert_array_equal(
            data.read_states(group, sample, cut, part), one.read_states(group, sample, cut, part)
        )
        places = [(int(random.integers(count)), int(random.integers(STATES - 2)))
                  for _ in range(7)]  # fmt: skip
        wanted = one.read_windows(group, places, 3, part)
        np.testing.assert_array_equal(data.read_windows(group, places, 3, part), wanted)
        cached = data.cached_windows(group, places, 3, part)
        assert cached is None or (cached == wanted).all()


@settings(max_examples=15, deadline=None)
@given(
    counts=st.tuples(*[st.integers(1, 6)] * 3),
    cuts=st.lists(st.integers(0, 6), min_size=1, max_size=3).map(sorted),
)
def test_files_that_were_cut_anywhere_are_the_whole_file(tmp_path_factory, counts, cuts):
    folder = tmp_path_factory.mktemp("cut")
    every = {group: states(n, i) for i, (group, n) in enumerate(zip(GROUPS, counts, strict=True))}
    files = divided(folder, every, cuts)
    whole = TrajectoryFile(write(folder / "whole.hdf5", every), SHAPE)
    data = TrajectoryFile.open(files, SHAPE)
    is_equal(data, whole, np.random.default_rng(0))
    for closed in (data, whole):
        closed.close()


def test_a_list_a_pattern_and_a_folder_are_the_same_files(tmp_path, monkeypatch):
    every = {"train": states(12), "validation": states(11, 1)}
    files = divided(tmp_path, every, list(range(1, 12)))
    names = [files, tmp_path / "a_*.h5", tmp_path, [tmp_path / "a_?.h5", *files[10:]]]
    found = {content_id(TrajectoryFile.open(name, SHAPE), SHAPE) for name in names}
    assert len(found) == 1
    assert content_id(TrajectoryFile.open(files[::-1], SHAPE), SHAPE) not in found


def test_few_files_remain_open(tmp_path, monkeypatch):
    """A data set may have more files than a process may open."""
    monkeypatch.setattr(joined_module, "KEPT_OPEN", 2)
    every = {"train": states(9), "validation": states(9, 1)}
    data = TrajectoryFile.open(divided(tmp_path, every, list(range(1, 9))), SHAPE)
    whole = TrajectoryFile(write(tmp_path / "whole.hdf5", every), SHAPE)
    is_equal(data, whole, np.random.default_rng(0))
    links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
             if Path(f"/proc/self/fd/{name}").exists()]  # fmt: skip
    assert 1 <= sum(str(tmp_path / "a_") in link for link in links) <= 2
    data.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers": {**NUMBERS, "dt": 0.25}}, r"b\.h5: has dt = 0.25, but .*a\.h5 has 0.5"),
        ({"numbers": {**NUMBERS, "diffusivity": 1.0}}, "has diffusivity = 1, but .* has 2"),
        ({"boundary": "neumann"}, "has boundary = neumann, but .* has periodic"),
        ({"length": 2.0}, "has length = 2, but .* has 1"),
        ({"pde": "burgers"}, "has pde = burgers, but .* has heat"),
        ({"channels": ("v", "u")}, "has channels = v,u, but .* has u,v"),
    ],
)
def test_files_of_other_physics_are_not_joined(changes, message, tmp_path):
    files = [write(tmp_path / "a.h5", {"train": states(2), "validation": states(2)})]
    files += [write(tmp_path / "b.h5", {"train": states(2)}, **changes)]
    with pytest.raises(DataError, match=message):
        TrajectoryFile.open(files, SHAPE)


def test_files_of_other_programs_are_compared_with_the_pde(tmp_path):
    """Their attributes may be anything; those that the PDE has must be its values in each file."""
    files = [tmp_path / f"{name}.h5" for name in "ab"]
    for number, file in enumerate(files):
        with h5py.File(file, "w") as stored:
            for group in ("train", "validation"):
                stored[f"{group}/trajectories"] = states(2)
            stored.attrs.update(seed=float(number), diffusivity=2.0 + number)
    data = windowed(TrajectoryFile.open(files, SHAPE))
    assert data.attributes == {}
    with pytest.raises(DataError, match=r"b\.h5: was generated with diffusivity = 3, but"):
        check_agreement(data, {"diffusivity": 2.0}, SHAPE, (0.25, 0.2))


def test_other_grids_channels_and_missing_groups_are_named(tmp_path):
    one = write(tmp_path / "a.h5", {"train": states(2)})
    with pytest.raises(DataError, match="none of these files has trajectories for validation"):
        TrajectoryFile.open([one, one], SHAPE)
    other = write(tmp_path / "b.h5", {"validation": states(2, shape=(5, 4))}, shape=(5, 4))
    with pytest.raises(DataError, match=r"b\.h5: data set validation/trajectories has shape"):
        TrajectoryFile.open([one, other], SHAPE)
    other = write(tmp_path / "c.h5", {"validation": states(2, channels=1)}, channels=("u", "v"))
    with pytest.raises(DataError, match=r"numbers of channels differ, 2 in .*a\.h5, 1 in .*c\.h5"):
        TrajectoryFile.open([one, other], SHAPE)
    with pytest.raises(DataError, match=r"nowhere\.h5: no such data file"):
        TrajectoryFile.open([one, tmp_path / "nowhere.h5"], SHAPE)


def test_the_shortest_trajectories_and_the_more_precise_numbers(tmp_path):
    short, precise = states(2, steps=4), states(3, 1, dtype="f8")
    files = [write(tmp_path / "a.h5", {"train": short, "validation": short}),
             write(tmp_path / "b.h5", {"train": precise})]  # fmt: skip
    data = TrajectoryFile.open(files, SHAPE)
    assert data.steps == 3
    whole = [slice(0, n) for n in SHAPE]
    np.testing.assert_array_equal(
        data.read("train", range(5), whole), np.concatenate([short, precise[:, :4]])
    )


class Own:
    """A user-defined format: one trajectory per file."""

    def __init__(self, path, factor):
        self.steps, self._states, self._factor = STATES - 1, np.load(path), factor

    def count(self, group):
        return len(self._states)

    def read(self, group, samples, part):
        return self._factor * self._states[list(samples)][(..., *part)]


def test_files_of_a_user_defined_format_are_opened_one_by_one(tmp_path):
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    for number, file in enumerate(files):
        np.save(file, states(2, number))
    data = windowed(open_dataset(Own, files, SHAPE, GROUPS[:2], {"factor": 2}))
    whole = [slice(0, n) for n in SHAPE]
    assert data.count("train") == 6
    np.testing.assert_array_equal(
        data.read_windows("train", [(5, 1), (0, 0)], 3, whole),
        2 * np.stack([states(2, 2)[1, 1:4], states(2, 0)[0, :3]]),
    )


def test_arrays_and_a_file(tmp_path):
    file = write(tmp_path / "a.h5", {"train": states(2), "validation": states(1)})
    arrays = TrajectoryArrays(states(3, 1), states(2, 2), attributes={"dt": 0.5})
    data = JoinedTrajectories([TrajectoryFile(file), arrays])
    assert [data.count(group) for group in GROUPS] == [5, 3, 0]
    with pytest.raises(DataError, match=r"TrajectoryArrays: has dt = 0.25, but .*a\.h5 has 0.5"):
        JoinedTrajectories(
            [TrajectoryFile(file), TrajectoryArrays(states(3), states(2), attributes={"dt": 0.25})]
        )


def test_a_run_on_files_is_that_on_the_whole_file(tmp_path):
    every = {"train": states(8, channels=1, shape=(8,)), "validation": states(3, 1, channels=1,
             shape=(8,))}  # fmt: skip
    about = {"shape": (8,), "boundary": "dirichlet", "channels": ("u",),
             "numbers": {"dt": 1.0, "diffusivity": 1e-2}}  # fmt: skip
    first = write(tmp_path / "a.h5", {"train": every["train"][:5]}, **about)
    second = write(tmp_path / "b.h5", {**every, "train": every["train"][5:]}, **about)
    whole = write(tmp_path / "whole.h5", every, **about)
    found = []
    for name, file in (("whole", str(whole)), ("joined", [str(first), str(second)])):
        for in_memory in (True, False):
            content = tiny.emulator(
                tmp_path, name=f"{name}_{in_memory}", data={"file": file, "in_memory": in_memory}
            )
            summary = train(load_config(tiny.write(tmp_path / f"{name}.yaml", content)))
            found.append((summary["error"], tiny.rows(tmp_path / f"{name}_{in_memory}")))
    assert all(one == found[0] for one in found)


def test_inspect_describes_all_files_and_suggests_them(tmp_path):
    about = {"shape": (8,), "boundary": "periodic", "channels": ("u",)}
    files = [
        write(tmp_path / "a.h5", {"train": states(5, channels=1, shape=(8,))}, **about),
        write(tmp_path / "b.h5", {"validation": states(2, 1, channels=1, shape=(8,))}, **about),
    ]
    found = inspect_data(files, MPI.COMM_SELF)
    assert (found.missing, found.more) == ("", 1)
    assert [found.data.count(group) for group in ("train", "validation")] == [5, 2]
    assert list(found.config.data.file) == [str(file) for file in files]
    assert [str(file) in found.suggestion.to_yaml() for file in files] == [True, True]
