"""Usability: a config names a format by a word or with its keys, and the data are compared with
its grid and its PDE.
"""

import layouts
import pytest
import tiny

from prdp_hpc import load_config, train
from prdp_hpc.config import ConfigError, validate
from prdp_hpc.config.components import BUILT_IN
from prdp_hpc.data import DataError
from prdp_hpc.experiments.recorded import ADDED, recorded_settings
from prdp_hpc.training.settings import CheckpointError, check_fit, flat_settings


def config(folder, **changes):
    path = layouts.pdebench_burgers(folder, layouts.known(shape=(8,)), nu=layouts.NU, dt=0.05)
    content = {
        "grid": {"shape": [8], "boundary": "periodic"},
        "physics": {"pde": "burgers", "viscosity": 0.01, "dt": 0.05, "diffusivity": None},
        "solver": {"ksp": "gmres"},
        "training": {"epochs": 1},
        "data": {
            "file": str(path),
            "format": {"kind": "pdebench", "validation": 1},
            "train": None, "validation": None, "modes": None,
        },
    }  # fmt: skip
    made = tiny.emulator(folder / "runs", **content)
    for section, key in [("physics", "diffusivity"), *[("data", k) for k in ("train", "modes")]]:
        made[section].pop(key)
    made["data"].pop("validation")
    for name, value in changes.items():
        made[name] |= value
    return tiny.write(folder / "formats.yaml", made)


def test_a_run_trains_on_a_file_of_another_format(tmp_path):
    summary = train(load_config(config(tmp_path)))
    assert summary["epochs"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"length": 2.0}}, r"are 0.125 apart, .* the grid 0.25: multiply .* by 0.5"),
        ({"physics": {"viscosity": 0.01 * 3.14159}}, "give physics.viscosity=0.01,"),
        ({"physics": {"dt": 0.5}}, "give physics.dt=0.05,"),
    ],
)
def test_another_grid_or_pde_is_refused(changes, message, tmp_path):
    with pytest.raises(DataError, match=message):
        train(load_config(config(tmp_path, **changes)))


def test_a_misspelt_key_is_named(tmp_path):
    changes = {"data": {"format": {"kind": "pdebench", "subsampel": 2}}}
    with pytest.raises(ConfigError, match=r"data.format.subsampel: unknown key; .*'subsample'"):
        load_config(config(tmp_path, **changes))


def test_the_keys_are_validated_without_mpi():
    """Their models are in the package `config`, which loads no MPI."""
    for name, where in BUILT_IN["formats"].items():
        assert name == "hdf5" or where.startswith("prdp_hpc.config.")


def test_a_key_that_was_added_to_the_formats_does_not_end_older_runs(tmp_path):
    found = []
    for keys in ({}, {"segments": 1}, {"segments": 3}):
        section = {"file": "a.npy", "format": {"kind": "numpy", "validation": 2, **keys}}
        config = validate(tiny.emulator(tmp_path, data=section), "here")
        found.append(flat_settings(recorded_settings(config)))
    older = {key: value for key, value in found[0].items() if key != "data.format.segments"}
    assert found[0] == found[1]
    check_fit(older, found[1], ADDED)
    with pytest.raises(CheckpointError, match=r"segments: 1 in the checkpoint, 3 now"):
        check_fit(older, found[2], ADDED)
