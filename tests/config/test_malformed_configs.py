"""Reliability: each mistake in a config causes one message with file, key, and what to do."""

import copy

import pytest
import tiny

from prdp_hpc.config import ConfigError, validate

BURGERS = {"pde": "burgers", "viscosity": 1e-2, "dt": 0.1}

# (key to change, its value, parts of the message)
EMULATOR = [
    ("task", None, ["task: must be given", "emulator, inverse"]),
    ("task", "emulater", ["task: 'emulater' is not known", "'emulator', 'inverse'"]),
    ("task", ["emulator"], ["task: must be a name, not ['emulator']"]),
    ("name", "a/b", ["name", "pattern"]),
    ("name", "", ["name"]),
    ("name", 5, ["name: must be a valid string, not 5"]),
    ("seed", -1, ["seed: must be greater than or equal to 0, not -1"]),
    ("seed", 1.5, ["seed: must be a valid integer"]),
    ("sead", 1, ["sead: unknown key; did you mean 'seed'?"]),
    ("grid.shape", [], ["grid.shape", "at least 1"]),
    ("grid.shape", 8, ["grid.shape: must be a list, not 8"]),
    ("grid.shape", [8, 1], ["grid.shape.1: must be greater than or equal to 2, not 1"]),
    ("grid.shape", [4, 4, 4, 4], ["grid.shape", "at most 3"]),
    (
        "grid.boundary",
        "robin",
        ["grid.boundary", "'dirichlet', 'neumann' or 'periodic'", "'robin'"],
    ),
    (
        "grid.boundary",
        ["dirichlet", "neumann"],
        ["grid: boundary has 2 entries for 1 axes", "one per axis"],
    ),
    ("grid.length", [1.0, 2.0], ["grid: length has 2 entries for 1 axes"]),
    ("grid.length", 0, ["grid.length: must be greater than 0, not 0"]),
    ("grid.size", 8, ["grid.size: unknown key; known here: boundary, length, shape"]),
    ("physics.pde", "wave", ["physics.pde: 'wave' is not known here", "'heat', 'allen_cahn'"]),
    (
        "physics.pde",
        "poisson",
        ["physics.pde: 'poisson' is not known here", "'heat', 'allen_cahn'"],
    ),
    ("physics", {"dt": 1.0, "pde": None}, ["physics", "pde", "'heat', 'allen_cahn'"]),
    ("physics", {"pde": "heat", "diffusivity": 1.0}, ["physics.dt: must be given"]),
    ("physics.viscosity", 1.0, ["physics.viscosity: unknown key; did you mean 'diffusivity'?"]),
    ("physics", {"pde": "burgers", "dt": 1.0}, ["physics.viscosity: must be given"]),
    (
        "physics",
        {"pde": "burgers", "dt": 1.0, "viscosity": 0},
        ["physics.viscosity: must be greater than 0, not 0"],
    ),
    (
        "physics",
        BURGERS | {"diffusivity": 1.0},
        ["physics.diffusivity: unknown key; known here: boundaries, dt, gradient"],
    ),
    (
        "physics",
        BURGERS | {"picard_iterations": 0},
        ["physics.picard_iterations: must be greater than or equal to 1"],
    ),
    (
        "physics",
        BURGERS | {"gradient": "half"},
        ["physics.gradient: must be 'full' or 'reduced', not 'half'"],
    ),
    (
        "physics",
        BURGERS,
        ["physics.pde=burgers needs a periodic grid: give grid.boundary=periodic"],
    ),
    ("physics.dt", True, ["physics.dt: must be a number, not True"]),
    ("physics.diffusivity", "fast", ["physics.diffusivity: must be a valid number", "'fast'"]),
    ("physics.diffusivity", float("inf"), ["physics.diffusivity: must be a finite number"]),
    (
        "solver.ksp",
        "CG",
        ["solver.ksp: must be PETSc's name of a method in lower-case", "'CG'"],
    ),
    ("solver.pc", "jacobi; rm", ["solver.pc: must be PETSc's name"]),
    ("solver.petsc_options", "-ksp_view", ["solver.petsc_options: must be a section with keys"]),
    (
        "refinement.schedule",
        "pdrp",
        [
            "refinement.schedule: 'pdrp' is not known here",
            "'prdp', 'gradient', 'constant', 'manual'",
        ],
    ),
    (
        "refinement.schedule",
        "manual",
        ["refinement: schedule manual needs refinement.manual", "{0: 1, 20: 5}"],
    ),
    (
        "refinement.ladder",
        {"start": 1},
        ["refinement.ladder.kind: must be given", "iterations"],
    ),
    (
        "refinement.ladder",
        {"kind": "steps"},
        ["refinement.ladder.kind: 'steps' is not known", "'tolerances'"],
    ),
    (
        "refinement.ladder",
        {"kind": "iterations", "stepp": 2},
        ["refinement.ladder.stepp: unknown key; did you mean 'step'?"],
    ),
    (
        "refinement.ladder",
        {"kind": "tolerances", "step": 2},
        ["refinement.ladder.step: unknown key; did you mean 'stop'?"],
    ),
    (
        "refinement.ladder",
        {"kind": "iterations", "start": 9, "stop": 4},
        ["refinement", "stop (4) must not be below its start"],
    ),
    (
        "refinement.ladder",
        {"kind": "levels", "levels": [3, 2]},
        ["refinement", "iterations must increase"],
    ),
    ("refinement.ladder", {"kind": "levels", "levels": [1, 0.1]}, ["refinement", "not a mixture"]),
    ("refinement.adjoint_ladder", 3, ["refinement.adjoint_ladder"]),
    ("refinement.adjoint_factor", 0, ["refinement.adjoint_factor: must be greater than 0, not 0"]),
    (
        "refinement.adjoint_factor",
        1.5,
        ["refinement.adjoint_factor: must be less than or equal to 1, not 1.5"],
    ),
    (
        "refinement",
        {"adjoint_factor": 0.5, "adjoint_ladder": {"kind": "iterations"}},
        ["refinement: adjoint_ladder and adjoint_factor", "give one of them"],
    ),
    ("comparison.seeds", 0, ["comparison.seeds: must be greater than or equal to 1, not 0"]),
    (
        "comparison.constant_levels",
        [1, 1],
        ["comparison.constant_levels: constant_levels must all be different"],
    ),
    (
        "comparison.constant_levels",
        [0],
        ["comparison.constant_levels.0: a level of iterations must be at least 1, not 0"],
    ),
    (
        "comparison.baselines",
        {"prdp": {"solver": {}}},
        ["comparison.baselines.prdp: a baseline's name", "not 'prdp'"],
    ),
    (
        "comparison.baselines",
        {"Plain": {"solver": {}}},
        ["comparison.baselines.Plain: a baseline's name", "not 'Plain'"],
    ),
    ("comparison.baselines", {"cg": {}}, ["comparison.baselines.cg.solver: must be given"]),
    (
        "comparison.baselines",
        {"cg": {"solver": {"kps": "cg"}}},
        ["cg.solver.kps: unknown key; did you mean 'ksp'?"],
    ),
    (
        "comparison.targets",
        {"cg": {"total_seconds": 0.5}},
        ["comparison: targets are measured against full", "no 'cg'"],
    ),
    (
        "comparison.targets",
        {"full": {"seconds": 0.5}},
        ["comparison.targets.full.seconds: unknown key"],
    ),
    (
        "comparison.targets",
        {"full": {"total_seconds": 80}},
        ["full.total_seconds: must be less than 1, not 80"],
    ),
    (
        "refinement.step_threshold",
        -0.5,
        ["refinement.step_threshold: must be greater than 0, not -0.5"],
    ),
    (
        "refinement.ema_window",
        0,
        ["refinement.ema_window: must be greater than or equal to 1, not 0"],
    ),
    ("refinement.error_window", 2.5, ["refinement.error_window: must be a valid integer"]),
    ("refinement.level", 5.0, ["refinement", "tolerance must lie between 0 and 1, not 5.0"]),
    ("refinement.level", True, ["refinement.level: must be a number, not True"]),
    ("refinement.manual", {"start": 1}, ["refinement.manual.start", "integer"]),
    (
        "network.kind",
        "cnn",
        ["network.kind: 'cnn' is not known here, choose one of 'mlp', 'resnet'"],
    ),
    ("network.hidden", [], ["network.hidden", "at least 1"]),
    ("network.hidden", [64, 0], ["network.hidden.1: must be greater than or equal to 1, not 0"]),
    (
        "network.activation",
        "sigmoid",
        ["network.activation: must be 'relu', 'tanh' or 'gelu', not 'sigmoid'"],
    ),
    (
        "network",
        {"kind": "resnet", "channels": 0},
        ["network.channels: must be greater than or equal to 1, not 0"],
    ),
    (
        "network",
        {"kind": "resnet", "hidden": [8]},
        ["network.hidden: unknown key; known here: activation, blocks, channels"],
    ),
    ("network", {"kind": "mlp", "block": 3}, ["network.block: unknown key"]),
    (
        "training.schedule",
        "linear",
        ["training.schedule: 'linear' is not known here", "'exponential', 'cosine'"],
    ),
    ("training.epoch", 5, ["training.epoch: unknown key; did you mean 'epochs'?"]),
    ("training.epochs", "many", ["training.epochs: must be a valid integer, not 'many'"]),
    ("training.batch_size", 0, ["training.batch_size: must be greater than or equal to 1, not 0"]),
    ("training.learning_rate", float("nan"), ["training.learning_rate"]),
    ("training.decay", 1.5, ["training.decay: must be less than or equal to 1, not 1.5"]),
    (
        "training.precision",
        "float16",
        ["training.precision: must be 'float32', 'float64' or 'bfloat16', not 'float16'"],
    ),
    ("data.train", 0, ["data.train: must be greater than or equal to 1, not 0"]),
    ("data.file", 3, ["data.file: must be a file name or a list of file names, not 3"]),
    ("data.file", [], ["data.file: must be a file name or a list of file names, not []"]),
    ("data.file", ["a.h5", 3], ["data.file: must be a file name or a list of file names, not ["]),
    ("parallel.grid_ranks", 0, ["parallel.grid_ranks: must be greater than or equal to 1, not 0"]),
    ("parallel", 2, ["parallel"]),
    ("inverse", {}, ["inverse: unknown key"]),
    ("data.reference_factor", 2, ["data.reference_factor: unknown key"]),
]
CORRECTOR = [
    (
        "physics",
        {"pde": "poisson"},
        ["physics.pde: 'poisson' is not known here", "'burgers', 'navier_stokes'"],
    ),
    (
        "physics",
        {"pde": "navier_stokes", "viscosity": 1, "dt": 1},
        ["navier_stokes needs a periodic grid: give grid.boundary"],
    ),
    ("corrector.unroll", 0, ["corrector.unroll: must be greater than or equal to 1, not 0"]),
    ("corrector.validation_steps", [], ["corrector.validation_steps", "at least 1"]),
    (
        "corrector.validation_steps",
        [2, 1],
        ["corrector.validation_steps: must be strictly increasing, e.g. [1, 2, 5], not [2, 1]"],
    ),
    (
        "corrector.validation_steps",
        [1, 1],
        ["corrector.validation_steps: must be strictly increasing"],
    ),
    ("corrector.measures", "u", ["corrector.measures: unknown key; did you mean 'measure'?"]),
    (
        "data.reference_factor",
        0,
        ["data.reference_factor: must be greater than or equal to 1, not 0"],
    ),
    ("grid.boundary", "neumann", ["data.reference_factor must be 1 with neumann boundaries"]),
]
INVERSE = [
    (
        "physics",
        {"pde": "heat", "dt": 1.0},
        ["physics.pde: 'heat' is not known here, choose one of 'poisson'"],
    ),
    ("grid.shape", [8, 8], ["grid.shape must have 1 entry, not 2"]),
    ("inverse.modes", 2, ["inverse: reference has 1 numbers for 2 modes; give one per mode"]),
    ("inverse.reference", [0.0], ["inverse: reference must not be all zeros"]),
    ("inverse.start", [float("nan")], ["inverse.start.0: must be a finite number"]),
    ("inverse.true", [2.0], ["inverse.true: unknown key; known here: modes, reference, start"]),
    ("training.batch_size", 5, ["training.batch_size: unknown key"]),
    ("network", {"hidden": [8]}, ["network: unknown key"]),
]


def one_message(call, *parts):
    with pytest.raises(ConfigError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


def changed(content, dotted, value):
    content = copy.deepcopy(content)
    *sections, last = dotted.split(".")
    inner = content
    for key in sections:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "parts"), EMULATOR, ids=lambda case: case if isinstance(case, str) else ""
)
def test_emulator(key, value, parts, tmp_path):
    one_message(
        lambda: validate(changed(tiny.emulator(tmp_path), key, value), "here.yaml"),
        "here.yaml: ",
        *parts,
    )


@pytest.mark.parametrize(
    ("key", "value", "parts"), INVERSE, ids=lambda case: case if isinstance(case, str) else ""
)
def test_inverse(key, value, parts, tmp_path):
    one_message(
        lambda: validate(changed(tiny.inverse(tmp_path), key, value), "here.yaml"),
        "here.yaml: ",
        *parts,
    )


@pytest.mark.parametrize(
    ("key", "value", "parts"), CORRECTOR, ids=lambda case: case if isinstance(case, str) else ""
)
def test_corrector(key, value, parts, tmp_path):
    one_message(
        lambda: validate(changed(tiny.corrector(tmp_path), key, value), "here.yaml"),
        "here.yaml: ",
        *parts,
    )


def test_incompressible_flow_on_one_axis(tmp_path):
    physics = {"pde": "navier_stokes", "viscosity": 1e-2, "dt": 0.1}
    content = tiny.corrector(tmp_path, grid={"boundary": "periodic"}, physics=physics)
    one_message(
        lambda: validate(content, "here.yaml"),
        "physics.pde=navier_stokes needs grid.shape with 2 or 3 entries, not 1",
    )


def test_all_mistakes_are_reported_together(tmp_path):
    content = changed(changed(tiny.emulator(tmp_path), "seed", -1), "training.epochs", 0)
    message = one_message(lambda: validate(content, "here.yaml"), "seed:", "training.epochs:")
    assert len(message.splitlines()) == 3


def test_a_value_that_fits_no_alternative_is_reported_once(tmp_path):
    content = changed(tiny.emulator(tmp_path), "grid.boundary", "robin")
    assert one_message(lambda: validate(content, "here.yaml")).count("grid.boundary") == 1
