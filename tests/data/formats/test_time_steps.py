"""Correctness: trajectories of one file that have another time step, or another grid, are found."""

import h5py
import layouts
import numpy as np
import pytest
import yaml
from mpi4py import MPI

from prdp_hpc.config import validate
from prdp_hpc.config.slots import made
from prdp_hpc.data.formats.pdebench import PDEBench
from prdp_hpc.data.formats.the_well import TheWell
from prdp_hpc.data.layout import BadTrajectoryError, DataError
from prdp_hpc.experiments.inspected import inspect_data

STATES = layouts.known(trajectories=6, channels=3)
DT = 0.25


def flow(path, times):
    layouts.pdebench_flow(path, STATES, STATES[:, 0, :2], DT)
    with h5py.File(path, "r+") as file:
        del file["t"]
        file["t"] = times
    return path, PDEBench, {"kind": "pdebench"}


def seeds(path, times):
    layouts.pdebench_seeds(path, STATES, DT)
    with h5py.File(path, "r+") as file:
        for seed, own in enumerate(times):
            file[f"{seed:04d}/grid/t"][...] = own
    return path, PDEBench, {"kind": "pdebench"}


def well(path, times):
    layouts.well(path, {"t0_fields": {"p": layouts.x_first(STATES)[:, :, 0]}}, DT)
    with h5py.File(path, "r+") as file:
        del file["dimensions/time"]
        file["dimensions/time"] = times
    return path, TheWell, {"kind": "the_well"}


def regular(*bad):
    """Times of all trajectories; those of trajectory 2 are `bad`."""
    times = np.tile(DT * np.arange(4), (6, 1)).astype("float32")
    times[5] += 3.0  # a simulation may start later
    if bad:
        times[2] = bad
    return times


@pytest.mark.parametrize("make", [flow, seeds, well])
@pytest.mark.parametrize("bad", [(0, 0.5, 1, 1.5), (0, 0.25, 0.5, 1), (0, 0, 0, 0)])
def test_a_trajectory_with_other_time_steps_is_bad(make, bad, tmp_path):
    path, kind, _ = make(tmp_path / "good.h5", regular())
    good = kind.open(path, (4, 6), validation=1)
    assert good.attributes["dt"] == DT
    whole = good.read("train")
    path, _, form = make(tmp_path / "bad.h5", regular(*bad))
    data = kind.open(path, (4, 6), validation=1)
    with pytest.raises(BadTrajectoryError, match=r"time.*leave the .* out by .*exclude=\[2\]"):
        data.read("train")
    without = kind.open(path, (4, 6), validation=1, exclude=[2])
    np.testing.assert_array_equal(without.read("train"), whole[[0, 1, 3, 4]])
    content = yaml.safe_load(inspect_data(path, MPI.COMM_SELF, samples=0).suggestion.to_yaml())
    assert content["data"]["format"] == form | {"exclude": [2]}
    config = validate(content, "suggested")
    opened, keys = made("formats", config.data.format)
    opened.open(config.data.file, config.grid.shape, **keys).read("train")


def test_the_reason_why_not_all_files_can_be_used_is_noted(tmp_path):
    fields = {"t0_fields": {"p": layouts.x_first(STATES)[:, :, 0]}}
    for group, names in {"train": ("a", "b"), "valid": ("a",)}.items():
        for number, name in enumerate(names):
            path = tmp_path / "set" / "data" / group / f"{name}.hdf5"
            layouts.well(path, fields, DT, Re=10.0**number, dataset_name="shear_flow")
    for group, dt in {"train": 0.1, "valid": 0.2}.items():
        layouts.well(tmp_path / "times" / "data" / group / "a.hdf5", fields, dt)
    found = inspect_data(tmp_path / "times", MPI.COMM_SELF)
    assert "valid/a.hdf5: has dt = 0.2, but" in " ".join(found.suggestion.notes)


def test_files_with_other_parameters_are_selected_by_their_key(tmp_path):
    fields = {"t0_fields": {"p": layouts.x_first(STATES)[:, :, 0]}}
    for number in (1.0, 2.0):
        path = tmp_path / "data" / "train" / f"a_{number}.hdf5"
        layouts.well(path, fields, DT * number, Re=number)
    with pytest.raises(DataError, match=r"select files of one PDE by data\.format\.parameters"):
        TheWell.open(tmp_path, (4, 6))
    found = inspect_data(tmp_path, MPI.COMM_SELF, overrides=["data.format.parameters={Re: 2.0}"])
    assert found.data.attributes["dt"] == 2 * DT
