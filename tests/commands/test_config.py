"""`prdp-hpc config`, names of shipped configs, the JSON schema and shell completion."""

import json
import subprocess

import pytest
import tiny
import yaml

from prdp_hpc import cli
from prdp_hpc.config import load_config
from prdp_hpc.config.schema import config_schema
from prdp_hpc.config.yaml_files import find_config, shipped_configs

pytestmark = pytest.mark.xdist_group("config")  # One worker makes what all tests use.

CONFIGS = sorted(tiny.REPOSITORY.glob("configs/*.yaml"))
EXAMPLES = sorted(tiny.REPOSITORY.glob("examples/*/*.yaml"))


@pytest.fixture(scope="module")
def is_valid():
    """Whether an editor would accept a config."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(json.dumps(config_schema()))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema).is_valid


def test_every_shipped_config_is_found_by_its_name():
    assert set(shipped_configs()) == {path.stem for path in CONFIGS}
    assert load_config(find_config("heat_1d")).name == "heat_1d"


def test_a_file_comes_before_a_shipped_config_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heat_1d").write_text("")
    assert find_config("heat_1d") == "heat_1d"


def test_an_unknown_name_is_an_error_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "heat_1dd"])
    assert ended.value.code == 2
    assert "did you mean 'heat_1d'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_commands_take_names(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = {"plan": ["--ranks", "2"], "submit": ["--dry-run"]}[command]
    cli.main([command, "heat_1d", *words])
    assert "heat_1d" in capsys.readouterr().out


def test_the_resolved_config_has_all_defaults(capsys):
    cli.main(["config", "heat_1d", "training.epochs=7"])
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["training"]["epochs"] == 7
    assert content["training"]["keep_checkpoints"] == 2
    assert content["solver"]["differentiation"] == "implicit"


def test_the_list_has_a_line_per_shipped_config(capsys):
    cli.main(["config", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [path.stem for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS + EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_accepts_configs(path, is_valid):
    assert is_valid(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("section", "content"),
    [
        ("task", "emulatr"),
        ("training", {"epoch": 3}),
        ("physics", {"pde": "heat", "dt": -1.0}),
        ("physics", {"pde": "heat", "dt": 1.0, "viscosity": 1.0}),
        ("network", {"kind": "mlp", "hiden": [3]}),
        ("grid", {"shape": [8], "boundary": "peroidic"}),
        ("refinement", {"schedule": "prpd"}),
    ],
)
def test_the_schema_rejects_what_a_run_rejects(section, content, is_valid):
    config = yaml.safe_load((tiny.REPOSITORY / "configs" / "heat_1d.yaml").read_text())
    assert not is_valid({**config, section: content})


@pytest.mark.parametrize(
    ("section", "content"),
    [
        ("physics", {"pde": "mine.py:Waves", "speed": 2}),
        ("network", {"kind": "mine.py:Net", "width": 3}),
        ("task", "mine.py:Task"),
        ("training", {"optimizer": {"kind": "torch.optim:SGD", "momentum": 0.9}}),
    ],
)
def test_the_schema_accepts_user_code(section, content, is_valid):
    config = yaml.safe_load((tiny.REPOSITORY / "configs" / "heat_1d.yaml").read_text())
    assert is_valid({**config, section: content})


def test_the_completion_script_is_one_for_bash(capsys):
    pytest.importorskip("shtab")
    cli.main(["completion", "bash"])
    script = capsys.readouterr().out
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0
    assert all(word in script for word in ("compare", "--grid-ranks", "navier_stokes"))
