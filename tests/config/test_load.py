"""Correctness: a loaded config has the values of the file, and a resolved config loads as the same
config.
"""

import re

import pytest
import tiny
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc import load_network
from prdp_hpc.config import (
    EmulatorConfig,
    InverseConfig,
    load_config,
    validate,
    write_resolved,
    yaml_files,
)
from prdp_hpc.config.errors import ConfigError
from prdp_hpc.config.yaml_files import apply_override
from prdp_hpc.refinement import ConstantSchedule, Coordinator, ManualSchedule

CONFIGS = sorted((tiny.REPOSITORY / "configs").glob("*.yaml"))
LADDERS = [
    {"kind": "iterations", "start": 2, "step": 3, "stop": 9},
    {"kind": "tolerances", "start": 0.1, "factor": 0.5, "stop": 1e-9},
    {"kind": "levels", "levels": [1, 5]},
    {"kind": "levels", "levels": [0.5, 1e-7]},
]


def again(config, folder):
    write_resolved(config, folder / "resolved.yaml")
    return load_config(folder / "resolved.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_of_the_repository(path, tmp_path):
    config = load_config(path)
    assert config.name == path.stem
    config.refinement.build()
    assert again(config, tmp_path) == config


@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("adjoint", [None, *LADDERS])
def test_resolved_config_means_the_same(ladder, adjoint, tmp_path):
    refinement = {
        "schedule": "manual",
        "ladder": ladder,
        "adjoint_ladder": adjoint,
        "manual": {0: 1, 20: 1e-3},
        "level": 1e-5,
    }
    options = {
        "ksp_gmres_restart": 8,
        "ksp_view": None,
        "flag": True,
        "text": "1e-3",
        "number": 1e-3,
    }
    content = tiny.emulator(
        tmp_path,
        refinement=refinement,
        grid={"shape": [4, 5], "boundary": ["neumann", "periodic"], "length": [1, 2.5]},
        solver={"petsc_options": options},
    )
    config = validate(content, "here")
    read = again(config, tmp_path)
    assert read == config
    given_types = {key: type(value) for key, value in options.items()}
    assert {key: type(value) for key, value in read.solver.petsc_options.items()} == given_types
    assert [type(level) for level in read.refinement.manual.values()] == [int, float]


@given(st.floats(1e-300, 1e300), st.integers(0, 10**9))
def test_numbers_survive(number, seed):
    config = validate(tiny.emulator("out", seed=seed, physics={"dt": number}), "here")
    read = validate(yaml.safe_load(config.to_yaml()), "there")
    assert (read.physics.dt, read.seed) == (number, seed)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "+1e-3", "1.e-3", ".1e-2"])
def test_numbers_that_yaml_reads_as_text(text, tmp_path):
    path = tiny.write(tmp_path / "c.yaml", tiny.emulator(tmp_path))
    overrides = [
        f"training.learning_rate={text}",
        f"refinement.level={text}",
        "refinement.schedule=constant",
        f"refinement.ladder={{kind: levels, levels: [0.1, {text}]}}",
    ]
    config = load_config(path, overrides)
    assert (
        config.training.learning_rate
        == config.refinement.level
        == config.refinement.ladder.levels[1]
        == 1e-3
    )
    assert config.refinement.build().level == 1e-3


def test_overrides_in_order_and_into_missing_sections(tmp_path):
    content = tiny.emulator(tmp_path, network=None)
    path = tiny.write(tmp_path / "c.yaml", content)
    config = load_config(
        path, ["training.epochs=5", "training.epochs=7", "network.hidden=[3, 4]", "output=a=b"]
    )
    assert (config.training.epochs, config.network.hidden, config.output) == (7, (3, 4), "a=b")
    resolved = tmp_path / "resolved.yaml"
    write_resolved(config, resolved)
    ladder = ["refinement.adjoint_ladder.kind=iterations", "refinement.adjoint_ladder.stop=9"]
    assert load_config(resolved, ladder).refinement.adjoint_ladder.stop == 9


def test_defaults(tmp_path):
    emulator = validate(
        {
            "task": "emulator",
            "name": "a",
            "grid": {"shape": [4]},
            "physics": {"pde": "heat", "dt": 1},
        },
        "here",
    )
    inverse = validate(
        {"task": "inverse", "name": "a", "grid": {"shape": [4]}, "physics": {"pde": "poisson"}},
        "here",
    )
    assert isinstance(emulator, EmulatorConfig)
    assert isinstance(inverse, InverseConfig)
    assert emulator.refinement.full_level == 60
    for config in (emulator, inverse):
        assert again(config, tmp_path) == config


def test_schedules(tmp_path):
    def schedule(**refinement):
        return validate(tiny.emulator(tmp_path, refinement=refinement), "here").refinement.build()

    prdp = schedule(
        step_threshold=0.5,
        stop_threshold=0.6,
        ema_window=4,
        error_window=7,
        adjoint_ladder=LADDERS[1],
    )
    assert isinstance(prdp, Coordinator)
    assert (prdp.step_threshold, prdp.stop_threshold, prdp.ema_window, prdp.error_window) == (
        0.5,
        0.6,
        4,
        7,
    )
    assert (prdp.level, prdp.adjoint_level) == (1, 0.1)
    top = schedule(schedule="constant", adjoint_ladder=LADDERS[1])
    assert isinstance(top, ConstantSchedule)
    assert (top.level, top.adjoint_level) == (4, 1e-9)
    assert schedule(schedule="constant", level=2).level == 2
    manual = schedule(schedule="manual", manual={0: 3, 1: 4})
    assert isinstance(manual, ManualSchedule)
    assert manual.level == 3


def test_looser_adjoint_solves(tmp_path):
    def schedule(**refinement):
        return validate(tiny.emulator(tmp_path, refinement=refinement), "here").refinement.build()

    ladder = {"kind": "levels", "levels": [8, 20]}
    prdp = schedule(ladder=ladder, adjoint_factor=0.25)
    assert (prdp.level, prdp.adjoint_level) == (8, 2)
    manual = schedule(schedule="manual", manual={0: 0.01}, adjoint_factor=0.1)
    assert (manual.level, manual.adjoint_level) == (0.01, pytest.approx(0.1))
    full = schedule(schedule="constant", ladder=ladder, adjoint_factor=0.25)
    assert (full.level, full.adjoint_level) == (20, 20)


def test_seeds_of_a_comparison(tmp_path):
    assert list(validate(tiny.emulator(tmp_path, seed=4), "here").seeds) == [4, 5, 6]
    assert list(validate(tiny.inverse(tmp_path), "here").seeds) == [1]
    assert list(validate(tiny.inverse(tmp_path, comparison={"seeds": 2}), "here").seeds) == [1, 2]


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{:e}", "{:.0e}", "{!r}"])
)
def test_numbers_are_read_with_every_kind_of_exponent(number, form):
    text = form.format(number)
    content = {}
    apply_override(content, f"physics.key={text}")
    assert content["physics"]["key"] == float(text)
    assert isinstance(content["physics"]["key"], float)


@given(st.one_of(st.sampled_from(["1e-3", "2E5", "-1e+2", "1.e3", "0x1", "on"]), st.text()))
def test_text_stays_text_when_it_is_written_and_read(text):
    content = {"name": text, "list": [text, 1e-3]}
    written = yaml_files.to_yaml(content)
    assert yaml_files.yaml.load(written, Loader=yaml_files._Loader) == content


@pytest.mark.parametrize("wrong", ["training.epochs=10", None, 3, {"a": 1}, [3], [None]], ids=repr)
def test_overrides_are_a_list_of_strings(wrong):
    with pytest.raises(
        ConfigError, match=rf"overrides must be a list .* not {re.escape(repr(wrong))}"
    ):
        load_config(CONFIGS[0], wrong)


@pytest.mark.parametrize("wrong", [None, 3, ["heat_1d.yaml"], {"task": "emulator"}], ids=repr)
def test_a_config_is_named_by_its_path(wrong):
    with pytest.raises(ConfigError, match="path must be the path of a YAML file, not "):
        load_config(wrong)


def test_a_string_instead_of_a_list_of_strings_is_an_error(tmp_path):
    path = CONFIGS[0]
    (tmp_path / "config.yaml").write_text(path.read_text())
    with pytest.raises(ConfigError, match=r"components must be a list .* not 'mine.py:Net'"):
        load_network(tmp_path, components="mine.py:Net")
