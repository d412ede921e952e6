"""Property: the content id of a data set depends on its numbers, and on nothing else."""

import h5py
import numpy as np
import pytest

from prdp_hpc.data import (
    TrajectoryAttributes,
    TrajectoryFile,
    WindowedDataset,
    content,
    content_id,
    write_trajectories,
)

SHAPE = (6, 4)


def arrays(dtype=np.float32):
    generator = np.random.default_rng(0)
    return {
        group: generator.standard_normal((count, 5, 2, *SHAPE)).astype(dtype)
        for group, count in (("train", 9), ("validation", 2))
    }


def written(path, groups=None, dt=0.1):
    numbers = {"dt": dt, "diffusivity": 1.0}
    about = TrajectoryAttributes("heat", SHAPE, "periodic", 1.0, numbers, ("u", "v"), "made up")
    path.parent.mkdir(exist_ok=True)
    write_trajectories(path, arrays() if groups is None else groups, about)
    return content_id(TrajectoryFile(path), SHAPE)


@pytest.fixture(params=["all", "a part"])
def part(request, monkeypatch):
    if request.param == "a part":
        monkeypatch.setattr(content, "ALL", 0)
        monkeypatch.setattr(content, "POINTS", 8)


def test_a_moved_file_and_another_layout_have_the_same_id(part, tmp_path):
    first = written(tmp_path / "a.h5")
    assert written(tmp_path / "elsewhere" / "b.h5") == first
    with h5py.File(tmp_path / "a.h5") as file, h5py.File(tmp_path / "c.h5", "w") as other:
        other.attrs.update(dict(file.attrs))
        for group, array in arrays().items():
            other.create_dataset(
                f"{group}/trajectories", data=array, chunks=(2, 2, 1, 2, 4), compression="gzip"
            )
    copied = TrajectoryFile(tmp_path / "c.h5")
    assert content_id(copied, SHAPE) == first
    windows = WindowedDataset(copied, window=2, stride=2, steps=2, in_memory=False)
    assert content_id(windows, SHAPE) == first


def test_other_data_have_another_id(part, tmp_path):
    groups = arrays()
    ids = [written(tmp_path / "a.h5"), written(tmp_path / "b.h5", dt=0.2)]
    ids.append(written(tmp_path / "c.h5", arrays(np.float64)))
    ids.append(written(tmp_path / "d.h5", groups | {"train": groups["train"][:8]}))
    ids.append(written(tmp_path / "e.h5", groups | {"train": groups["train"][::-1]}))
    for group in groups:
        changed = groups[group].copy()
        changed[-1, -1, 1, -1, -1] += 1e-3
        ids.append(written(tmp_path / f"{group}.h5", groups | {group: changed}))
    assert len(set(ids)) == len(ids)


def test_only_a_part_of_large_data_is_read(monkeypatch, tmp_path):
    class Large:
        steps, read = 999, None
        numbers = 0

        def count(self, group):
            return {"train": 5000, "validation": 100}.get(group, 0)

        def read_states(self, group, sample, states, part):
            shape = (1, 1, *(axis.stop - axis.start for axis in part))
            self.numbers += int(np.prod(shape))
            return np.full(shape, sample, dtype=np.float32)

    data = Large()
    content_id(data, (4096, 4096))
    assert 0 < data.numbers <= 2 * content.STATES * content.POINTS


def test_a_data_set_may_have_its_own_id(tmp_path):
    class Own:
        steps = 1

        def content_id(self):
            return "version 7"

    assert content_id(Own(), SHAPE) == "version 7"
