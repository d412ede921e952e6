"""Correctness: generated data are what the config asks for, from its seed alone."""

import numpy as np
import pytest
import tiny

from prdp_hpc.config import validate
from prdp_hpc.data import TrajectoryFile, truncated_fourier
from prdp_hpc.grid import Grid
from prdp_hpc.learning.generate import generate, generated_path


def config_of(tmp_path, **changes):
    return validate(tiny.emulator(tmp_path, **changes), "here")


def made(config, path):
    grid = Grid(config.grid.shape, config.grid.boundary, length=config.grid.length)
    generate(config, grid, path)
    return TrajectoryFile(path, grid.shape), grid


@pytest.mark.parametrize(
    "section",
    [
        {"shape": [8], "length": 2.0},
        {"shape": [5, 4], "boundary": ["periodic", "dirichlet"]},
        {"shape": [4, 3, 3], "boundary": "neumann"},
    ],
)
def test_shapes_initial_states_and_steps(section, tmp_path):
    config = config_of(tmp_path, grid=section)
    data, grid = made(config, tmp_path / "a.h5")
    assert (data.count("train"), data.count("validation"), data.steps) == (10, 3, 2)
    train = data.read("train")
    assert train.dtype == np.float32
    axes = [grid.axis_points(d) / grid.length[d] for d in range(grid.dim)]
    generator = np.random.default_rng(0)
    for group, count in (("train", 10), ("validation", 3)):
        expected = truncated_fourier(generator, count, axes, 2)
        np.testing.assert_allclose(data.read(group)[:, 0, 0], expected, atol=1e-6)
    # diffusion: no step raises a field's largest value
    peaks = np.abs(train).max(axis=tuple(range(2, train.ndim)))
    assert (np.diff(peaks, axis=1) < 1e-6).all()


def test_the_same_each_time_and_another_for_each_seed(tmp_path):
    first, again, other = (
        made(config_of(tmp_path, data={"seed": seed}), tmp_path / f"{name}.h5")[0].read("train")
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"seed": 1}},
        {"data": {"train": 11}},
        {"data": {"modes": 3}},
        {"physics": {"dt": 2.0}},
        {"physics": {"diffusivity": 1.0}},
        {"grid": {"length": 2.0}},
        {"grid": {"boundary": "periodic"}},
    ],
)
def test_the_files_name_follows_what_shapes_it(changes, tmp_path):
    assert generated_path(config_of(tmp_path, **changes)) != generated_path(config_of(tmp_path))


def test_the_files_name_does_not_follow_the_rest(tmp_path):
    others = {"seed": 5, "training": {"epochs": 9}, "network": {"hidden": [3]}, "refinement": {"ema_window": 9}}
    assert generated_path(config_of(tmp_path, **others)) == generated_path(config_of(tmp_path))
