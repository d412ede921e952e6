"""`prdp-hpc init` writes configs that are valid, commented and train."""

import io
import re

import h5py
import numpy as np
import pytest
import yaml

from prdp_hpc import cli
from prdp_hpc.commands.starting import Choices, starting_config
from prdp_hpc.config import load_config
from prdp_hpc.errors import InputError

STEPPED_CASES = [
    (task, pde, dimension)
    for task in ("emulator", "corrector")
    for pde in Choices(task).pdes
    for dimension in ((2,) if pde == "navier_stokes" else (1, 2, 3))
]
OTHER_CASES = [
    ("inverse", "poisson", 1),
    *(("field_inversion", "poisson", dimension) for dimension in (1, 2, 3)),
    *(("amortised_inversion", "poisson", dimension) for dimension in (1, 2, 3)),
]
SHORT = {
    "emulator": ["training.epochs=1", "data.train=4", "data.validation=2", "data.test=0"],
    "corrector": ["training.epochs=1", "data.train=4", "data.validation=2", "data.test=0"],
    "inverse": ["training.epochs=2"],
    "field_inversion": ["training.epochs=1", "training.steps=1"],
    "amortised_inversion": ["training.epochs=1", "data.train=2", "data.validation=1"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("task", "pde", "dimension"), STEPPED_CASES + OTHER_CASES)
def test_every_choice_makes_a_valid_config_with_comments(folder, task, pde, dimension):
    words = ["--task", task, "--pde", pde, "--dimension", str(dimension), "--name", "mine"]
    cli.main(["init", *words])
    config = load_config(folder / "mine.yaml")
    assert len(config.grid.shape) == dimension
    assert config.physics.pde == pde
    lines = (folder / "mine.yaml").read_text().splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert sum("#" in line for line in lines) > 0.7 * len(lines)


@pytest.mark.parametrize("task", SHORT)
def test_the_default_of_each_task_trains(folder, task):
    cli.main(["init", "--task", task, "--points", "8", "--name", "mine"])
    cli.main(["run", "mine.yaml", *SHORT[task]])
    assert (folder / "runs" / "mine" / "summary.json").is_file()


def test_a_file_that_exists_is_not_replaced(folder, capsys):
    (folder / "mine.yaml").write_text("my work")
    with pytest.raises(SystemExit) as ended:
        cli.main(["init", "--name", "mine"])
    assert ended.value.code == 2
    assert "mine.yaml: this file exists" in capsys.readouterr().err
    assert (folder / "mine.yaml").read_text() == "my work"


def test_a_data_file_gives_the_grid_and_the_coefficients(folder):
    with h5py.File("mine.h5", "w") as file:
        file.attrs.update({"pde": "heat", "grid_shape": [12, 10], "boundary": "neumann"})
        file.attrs.update({"diffusivity": 0.25, "dt": 0.5, "length": 2.0})
        for group in ("train", "validation"):
            file[f"{group}/trajectories"] = np.zeros((2, 3, 12, 10))
    cli.main(["init", "--data", "mine.h5", "--dimension", "2", "--name", "mine"])
    config = load_config(folder / "mine.yaml")
    assert config.grid.shape == (12, 10)
    assert (config.grid.boundary, config.grid.length) == ("neumann", 2.0)
    assert (config.physics.diffusivity, config.physics.dt) == (0.25, 0.5)
    assert config.data.file == "mine.h5"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices("emulator", "poisson"), "has no such PDE"),
        (Choices("emulator", "navier_stokes", 3), "needs --dimension 2"),
        (Choices("inverse", dimension=2), "needs --dimension 1"),
        (Choices("field_inversion", network="mlp"), "has no network"),
        (Choices("inverse", data="a.h5"), "reads no trajectories"),
    ],
)
def test_choices_that_exclude_each_other_are_errors(choices, message):
    with pytest.raises(InputError, match=message):
        starting_config("mine", choices)


def test_questions_on_a_terminal_choose_what_no_option_gives(folder, monkeypatch):
    answers = io.StringIO("corrector\nbergers\nburgers\n\n2\n1\n24\nunet\n")
    monkeypatch.setattr(answers, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", answers)
    cli.main(["init", "--name", "mine"])
    content = yaml.safe_load((folder / "mine.yaml").read_text())
    assert content["task"] == "corrector"
    assert content["physics"]["pde"] == "burgers"
    assert content["grid"]["shape"] == [24, 24]
    assert content["network"]["kind"] == "unet"


def test_the_values_of_a_written_file_are_those_of_the_choices(folder):
    cli.main(["init", "--name", "mine"])
    text = re.sub(r"\s+#.*$", "", (folder / "mine.yaml").read_text(), flags=re.MULTILINE)
    assert yaml.safe_load(text) == starting_config("mine", Choices())


@pytest.mark.parametrize("answers", ["", "emulator\n", "emulator\nheat\n\n"])
def test_an_input_that_ends_early_is_a_mistake_of_the_user(folder, monkeypatch, answers, capsys):
    terminal = io.StringIO(answers)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(SystemExit) as end:
        cli.main(["init"])
    assert end.value.code == 2
    assert "answer all questions, or give options" in capsys.readouterr().err
    assert not list(folder.iterdir())
