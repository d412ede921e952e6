"""Reliability: the script that `prdp-hpc submit` writes, without SLURM (tests/slurm uses SLURM)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from prdp_hpc import cli

COMMON = "# ---- The rest is the same in every job script."
SCRIPTS = sorted(tiny.REPOSITORY.glob("jobs/*.sh"))
TEMPLATE = tiny.REPOSITORY / "prdp_hpc" / "commands" / "job.sh"


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "a config.yaml", tiny.emulator(tmp_path / "50% of runs"))


@pytest.fixture
def shown(config, capsys):
    """The options and the command in the script for these arguments, and its path."""

    def show(*words):
        cli.main(["submit", config, *words, "--dry-run"])
        script = Path(shlex.split(capsys.readouterr().out.splitlines()[-1])[-1])
        text = script.read_text()
        options = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
        command = next(line for line in text.splitlines() if line.startswith("set -- "))
        return shlex.split(" ".join(options)), shlex.split(command)[2:], script

    return show


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["submit", *map(str, words)])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_ranks_are_divided_over_nodes(shown, config):
    options, command, _ = shown(
        "--nodes",
        "2",
        "--replicas",
        "2",
        "--grid-ranks",
        "3",
        "training.epochs=5",
        "--gpus-per-node=3",
    )
    assert {"--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=3", "--cpus-per-task=1"} <= set(
        options
    )
    assert command == ["run", config, "training.epochs=5", "parallel.grid_ranks=3", "--resume"]


def test_grid_ranks_of_the_config(shown):
    options, command, _ = shown("--replicas=2", "parallel.grid_ranks=2")
    assert "--ntasks-per-node=4" in options
    assert command.count("parallel.grid_ranks=2") == 1


def test_only_the_given_options_are_in_the_script(shown):
    options, _, _ = shown()
    names = {option.partition("=")[0] for option in options}
    always = {
        "--job-name",
        "--nodes",
        "--ntasks-per-node",
        "--cpus-per-task",
        "--output",
        "--open-mode",
        "--signal",
        "--requeue",
    }
    assert names == always
    options, _, _ = shown("--time=1-0", "--partition=big", "--account=my group")
    assert {"--time=1-0", "--partition=big", "--account=my group"} <= set(options)


@pytest.mark.parametrize(
    ("task", "resumes"), [("run", True), ("compare", True), ("generate", False)]
)
def test_commands(task, resumes, shown):
    options, command, script = shown("--command", task)
    assert command[0] == task
    assert ("--resume" in command) == resumes
    assert script.name == ("tiny.sh" if task == "run" else f"tiny-{task}.sh")
    assert f"--output={script.parent}/{script.stem}-%j.log".replace("50% of", "50%% of") in options


def test_it_works_without_mpi(config):
    words = ["submit", config, "--dry-run"]
    code = (
        f"import sys; from prdp_hpc import cli; cli.main({words!r}); print(sorted({{'mpi4py', "
        f"'torch'}} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_mistakes(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        "4 ranks, which do not divide evenly over 3 nodes; --nodes may be one of [1, 2, 4]"
        in refused(capsys, config, "--replicas=2", "--grid-ranks=2", "--nodes=3")
    )
    assert "argument --nodes: must be an integer" in refused(capsys, config, "--nodes=0")
    assert "training.epochs: must be a valid integer" in refused(
        capsys, config, "training.epochs=few"
    )
    assert "cannot be written" in refused(capsys, config, "output=/proc/nowhere")
    assert "sbatch was not found: submit from a login node" in refused(capsys, config)
    inverse = tiny.write(tmp_path / "inverse.yaml", tiny.inverse(tmp_path))
    assert "give --grid-ranks instead" in refused(capsys, inverse, "--replicas=2")
    assert "there is nothing to generate" in refused(capsys, inverse, "--command=generate")


@pytest.mark.parametrize("script", [TEMPLATE, *SCRIPTS], ids=lambda path: path.name)
def test_scripts_are_sound(script):
    ended = subprocess.run(
        [tiny.BIN / "shellcheck", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout


def test_all_scripts_end_in_the_same_way():
    parts = [
        path.read_text().partition(COMMON)
        for path in [TEMPLATE, *SCRIPTS]
        if path.name != "pipeline.sh"
    ]
    assert len(parts) == 5
    assert len({end for _, found, end in parts if found}) == 1
    assert all(found for _, found, _ in parts)
