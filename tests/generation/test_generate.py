"""Correctness: generated data satisfy the config and depend only on its seed."""

import numpy as np
import pytest
import tiny
import torch
from reference_data import reference

from prdp_hpc.config import validate
from prdp_hpc.data import DataError, TrajectoryFile, check_agreement
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import ConfigParts
from prdp_hpc.generation.generate import generate, generated_path, reference_grid
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.physics import NavierStokes
from prdp_hpc.physics.initial_conditions import truncated_fourier
from prdp_hpc.physics.stepper import attributes

BURGERS = {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05}
NAVIER_STOKES = {"pde": "navier_stokes", "viscosity": 1e-3, "dt": 0.1}


def config_of(tmp_path, **changes):
    return validate(tiny.emulator(tmp_path, **changes), "here")


def corrector_of(tmp_path, **changes):
    return validate(tiny.corrector(tmp_path, **changes), "here")


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
    for number, group in enumerate(("train", "validation")):
        for sample, states in enumerate(data.read(group)):
            stream = np.random.SeedSequence(0, spawn_key=(number, sample))
            expected = truncated_fourier(np.random.default_rng(stream), 1, axes, 2)
            np.testing.assert_allclose(states[0], expected, atol=1e-6)
    # diffusion: no step increases the maximum of a field
    peaks = np.abs(train).max(axis=tuple(range(2, train.ndim)))
    assert (np.diff(peaks, axis=1) < 1e-6).all()


@pytest.mark.parametrize("boundary", ["periodic", "dirichlet", ["dirichlet", "periodic"]])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_points_of_a_grid_are_among_those_of_its_reference(boundary, factor):
    grid = Grid([4, 5], boundary, length=[1.0, 2.0])
    fine, kept = reference_grid(grid, factor)
    assert fine.length == grid.length
    for ours, theirs in zip(grid.coordinates(), fine.coordinates(), strict=True):
        np.testing.assert_allclose(theirs[kept], ours, rtol=1e-14)


@pytest.mark.parametrize("shape", [[16], [8, 6]])
def test_burgers(shape, tmp_path):
    grid = {"shape": shape, "boundary": "periodic"}
    data, _ = made(corrector_of(tmp_path, grid=grid, physics=BURGERS), tmp_path / "a.h5")
    same = corrector_of(tmp_path, grid=grid, physics=BURGERS, data={"reference_factor": 1})
    coarse, _ = made(same, tmp_path / "b.h5")
    train = data.read("train").astype(np.float64)
    assert train.shape == (10, 4, len(shape), *shape)
    peaks = np.abs(train).max(axis=tuple(range(2, train.ndim)))
    # the maximum of |u| is 1 on the fine grid; upwind and implicit: no step increases it
    assert (peaks[:, 0] <= 1 + 1e-6).all()
    assert peaks[:, 0].max() > 0.9
    assert (np.diff(peaks, axis=1) < 1e-6).all() or len(shape) > 1
    np.testing.assert_allclose(
        np.abs(coarse.read("train")[:, 0]).reshape(10, -1).max(axis=1), 1.0, rtol=1e-6
    )
    assert {key: data.attributes[key] for key in ("pde", "dt", "viscosity")} == BURGERS
    assert "diffusivity" not in data.attributes
    assert data.attributes["channels"] == ",".join(("velocity_x", "velocity_y")[: len(shape)])


@pytest.mark.parametrize("shape", [[8, 6], [4, 4, 4]])
def test_navier_stokes(shape, tmp_path):
    solver = {"ksp": "gmres", "pc": "constraint"}
    changes = {
        "grid": {"shape": shape, "boundary": "periodic"},
        "physics": NAVIER_STOKES,
        "solver": solver,
    }
    data, grid = made(
        corrector_of(tmp_path, **changes, data={"reference_factor": 1, "train": 30}),
        tmp_path / "a.h5",
    )
    train = data.read("train").astype(np.float64)
    assert train.shape == (30, 4, len(shape) + 1, *shape)
    space = tuple(range(3, train.ndim))
    physics = NavierStokes(grid, 1e-3, 0.1, Solver())
    for step in range(4):
        assert (
            physics.divergence(torch.from_numpy(train[:, step])).abs().max() < 1e-4
        )  # float32 over h
    assert not train[:, 0, -1].any()
    np.testing.assert_allclose(
        train[:, 0].mean(axis=tuple(range(2, train.ndim - 1))), 0.0, atol=1e-6
    )
    np.testing.assert_allclose(
        train[:, 1:, -1].mean(axis=tuple(s - 1 for s in space)), 0.0, atol=1e-6
    )
    # smooth noise of standard deviation 1; the projection takes one of its dim directions
    assert train[:, 0, :-1].std() == pytest.approx(np.sqrt(1 - 1 / len(shape)), rel=0.15)


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
        {"data": {"reference_factor": 3}},
        {"corrector": {"validation_steps": [4]}},
    ],
)
def test_the_files_name_depends_on_keys_that_affect_the_data(changes, tmp_path):
    make = (
        corrector_of
        if {"reference_factor"} & {*changes.get("data", {})} or "corrector" in changes
        else config_of
    )
    assert generated_path(make(tmp_path, **changes)) != generated_path(make(tmp_path))


def test_the_files_name_does_not_depend_on_other_keys(tmp_path):
    others = {
        "seed": 5,
        "training": {"epochs": 9},
        "network": {"hidden": [3]},
        "refinement": {"ema_window": 9},
    }
    assert generated_path(config_of(tmp_path, **others)) == generated_path(config_of(tmp_path))
    periodic = {"grid": {"boundary": "periodic"}, "physics": BURGERS}
    full, reduced = (
        periodic | {"physics": BURGERS | {"gradient": gradient}} for gradient in ("full", "reduced")
    )
    assert generated_path(corrector_of(tmp_path, **full)) == generated_path(
        corrector_of(tmp_path, **reduced)
    )


def fitting_file(name, grid, physics, make=tiny.corrector):
    config = validate(
        make("out", grid=grid, physics=physics, data={"file": str(reference(f"{name}.h5"))}),
        "here",
    )
    mesh = ProcessMesh.from_world(1)
    parts = ConfigParts(config, mesh)
    data, grid = parts.data, parts.grid
    try:
        # As every task does with its data.
        check_agreement(data, attributes(parts.stepper()), grid.shape, grid.spacing)
    finally:
        mesh.close()
    return data


def test_the_authors_files_have_other_names_of_coefficients():
    flow = {"pde": "navier_stokes", "viscosity": 1e-4, "dt": 0.1}
    periodic = {"shape": [48, 48], "boundary": "periodic"}
    assert fitting_file("navier_stokes", periodic, flow).steps >= 2
    with pytest.raises(
        DataError,
        match=(
            r"generated with nu = 0.0001, but physics.viscosity is 0.001: give "
            r"physics.viscosity=0.0001"
        ),
    ):
        fitting_file("navier_stokes", periodic, flow | {"viscosity": 1e-3})
    heat = {"pde": "heat", "diffusivity": 1e-3, "dt": 1.0}
    assert fitting_file("heat_2d", {"shape": [30, 30]}, heat, tiny.emulator).steps == 2
    with pytest.raises(
        DataError, match=r"diffusivity_times_dt = 0.001, .* is 0.01: give physics.diffusivity=0.001"
    ):
        fitting_file("heat_2d", {"shape": [30, 30]}, heat | {"diffusivity": 1e-2}, tiny.emulator)


def test_a_test_group_changes_neither_the_others_nor_the_names_of_files_without_one(tmp_path):
    without, with_test = (config_of(tmp_path, data={"test": count}) for count in (0, 4))
    assert generated_path(without) == generated_path(config_of(tmp_path))
    assert generated_path(with_test) != generated_path(without)
    plain, _ = made(without, tmp_path / "plain.h5")
    tested, _ = made(with_test, tmp_path / "tested.h5")
    for group in ("train", "validation"):
        np.testing.assert_array_equal(plain.read(group), tested.read(group))
    assert (plain.groups, plain.count("test")) == (("train", "validation"), 0)
    assert (tested.groups, tested.count("test")) == (("train", "validation", "test"), 4)
    initial = [state.ravel() for group in tested.groups for state in tested.read(group)[:, 0]]
    assert len(np.unique(np.array(initial), axis=0)) == 10 + 3 + 4


def test_a_sample_does_not_depend_on_the_number_of_samples(tmp_path):
    few, many = (
        made(config_of(tmp_path, data=counts), tmp_path / f"{name}.h5")[0]
        for name, counts in (
            ("few", {"train": 3, "validation": 4}),
            ("many", {"train": 12, "validation": 7, "test": 2}),
        )
    )
    np.testing.assert_array_equal(few.read("train"), many.read("train")[:3])
    np.testing.assert_array_equal(few.read("validation"), many.read("validation")[:4])


def test_a_shared_stream_draws_group_after_group(tmp_path):
    config = config_of(tmp_path, data={"streams": "shared"})
    data, grid = made(config, tmp_path / "a.h5")
    generator = np.random.default_rng(0)
    for group, count in (("train", 10), ("validation", 3)):
        expected = truncated_fourier(generator, count, [grid.axis_points(0)], 2)
        np.testing.assert_allclose(data.read(group)[:, 0, 0], expected, atol=1e-6)
    # The name of version 0.1, whose files are still read.
    assert generated_path(config).name == "heat_8_75190e60efff.h5"
