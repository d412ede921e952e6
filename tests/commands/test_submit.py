"""Reliability: the script that `prdp-hpc submit` writes, without SLURM (tests/slurm uses SLURM)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from prdp_hpc import cli
from prdp_hpc.config import load_config

SCRIPTS = sorted(tiny.REPOSITORY.glob("jobs/*.sh"))
COMMON = tiny.REPOSITORY / "prdp_hpc" / "commands" / "job_common.sh"


@pytest.fixture(autouse=True)
def _no_site(monkeypatch):
    monkeypatch.setenv("PRDP_SITE", "")


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
    options, command, script = shown(
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
    frozen = script.with_suffix(".yaml")
    assert command == ["run", str(frozen), "--resume"]
    changes = ["training.epochs=5", "parallel.grid_ranks=3"]
    assert load_config(frozen) == load_config(config, changes)


def test_grid_ranks_of_the_config(shown):
    options, _, script = shown("--replicas=2", "parallel.grid_ranks=2")
    assert "--ntasks-per-node=4" in options
    assert load_config(script.with_suffix(".yaml")).parallel.grid_ranks == 2


def test_only_the_given_options_are_in_the_script(shown):
    options, _, _ = shown()
    names = {option.partition("=")[0] for option in options}
    always = {
        "--job-name",
        "--nodes",
        "--ntasks-per-node",
        "--cpus-per-task",
        "--output",
        "--chdir",
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


@pytest.mark.parametrize("script", [COMMON, *SCRIPTS], ids=lambda path: path.name)
def test_scripts_are_sound(script):
    sound(script)


def sound(script, *options):
    words = [tiny.BIN / "shellcheck", "-x", *options, script]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_all_scripts_source_the_same_part():
    ends = [path.read_text().splitlines()[-1] for path in SCRIPTS if path.name != "pipeline.sh"]
    assert ends == [". prdp_hpc/commands/job_common.sh"] * 4
    assert COMMON.is_file()


def test_a_job_needs_nothing_that_changes_later(shown, config):
    """Neither the config, nor the installed package, nor a later submission of the same name."""
    _, first, script = shown()
    text = script.read_text()
    common = Path(shlex.split(text.splitlines()[-1])[1])
    assert common.parent == script.parent
    assert common.read_text() == COMMON.read_text()
    sound(script)
    frozen = Path(first[1])
    before = frozen.read_text()
    Path(config).write_text(Path(config).read_text().replace("epochs: 3", "epochs: 4"))
    _, second, _ = shown()
    assert frozen.read_text() == before
    assert Path(second[1]).name == "tiny-2.yaml"
    assert load_config(second[1]).training.epochs == 4
    assert shown()[1] == second


def test_own_components_of_a_frozen_config_are_found(config, tmp_path, shown):
    (tmp_path / "nets.py").write_text("from prdp_hpc.networks.mlp import MLP as Mine\n")
    content = tiny.emulator(tmp_path / "runs") | {
        "network": {"kind": "nets.py:Mine", "hidden": [4]}
    }
    tiny.write(config, content)
    _, command, _ = shown()
    assert load_config(command[1]) == load_config(config)


def test_an_edited_script_is_not_overwritten(config, shown, capsys):
    _, _, script = shown("--time=10")
    shown("--time=20")
    edited = script.read_text().replace("--time=20", "--time=30")
    script.write_text(edited)
    reported = refused(capsys, config, "--dry-run")
    assert f"{script} was edited, so it is not overwritten" in reported
    assert "--overwrite-script" in reported
    assert script.read_text() == edited
    shown("name=another")
    assert "--time=40" in shown("--time=40", "--overwrite-script")[0]


def test_further_options_of_sbatch(shown, config, capsys):
    options, _, _ = shown(
        "--mem=3G", "--qos=short", "--constraint=ice|lake", "--exclusive", "--dependency=afterok:1",
        "--gpus-per-node=a100:4", "--sbatch", "hint=nomultithread", "--sbatch=spread-job",
    )  # fmt: skip
    assert {
        "--mem=3G", "--qos=short", "--constraint=ice|lake", "--exclusive", "--dependency=afterok:1",
        "--gpus-per-node=a100:4", "--hint=nomultithread", "--spread-job",
    } <= set(options)  # fmt: skip
    assert "give --mem instead" in refused(capsys, config, "--sbatch=mem=3")
    assert "submit sets this option itself" in refused(capsys, config, "--sbatch=nodes=3")
    assert "the long name of an option" in refused(capsys, config, "--sbatch=-p=x")
    assert "must be a number or TYPE:NUMBER" in refused(capsys, config, "--gpus-per-node=a100")
    assert "would generate the same data" in refused(
        capsys, config, "--array=1-2", "--command=generate"
    )


def test_an_array_of_seeds(shown):
    options, command, script = shown("--array=1-20%4")
    assert "--array=1-20%4" in options
    assert command[2:] == [
        "seed=$SLURM_ARRAY_TASK_ID", "name=tiny-seed-$SLURM_ARRAY_TASK_ID", "--resume",
    ]  # fmt: skip
    assert script.name == "tiny-seeds.sh"
    assert "-%A_%a.log" in " ".join(options)
    sound(script)


def test_the_runs_of_a_comparison_as_an_array(config, capsys):
    cli.main(["submit", config, "--fan-out=3", "comparison.seeds=2", "--dry-run"])
    array, collect = [
        Path(shlex.split(line.removesuffix(")"))[-1])
        for line in capsys.readouterr().out.splitlines()
        if "sbatch --" in line and not line.startswith("#")
    ]
    # prdp and full from two seeds, three at a time
    assert "#SBATCH --array=0-3%3\n" in array.read_text()
    assert '--only="$SLURM_ARRAY_TASK_ID" --resume\n' in array.read_text()
    assert "--array" not in collect.read_text()
    assert "set -- compare" in collect.read_text()
    sound(array)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Write a site file and use it."""
    path = tmp_path / "site.yaml"

    def write(text):
        path.write_text(text)
        monkeypatch.setenv("PRDP_SITE", str(path))
        return path

    return write


SITE = """
modules: [gcc/12, cray-mpich]
mpi: cray_shasta
defaults: {account: mine, time: "4:00:00", cpus_per_task: 2, gpus_per_node: 4, sbatch: {hint: a}}
"""


def test_options_override_the_site_file_which_overrides_defaults(site, shown):
    site(SITE)
    options, _, script = shown("--time=10", "--sbatch=hint=b")
    given = {"--account=mine", "--time=10", "--cpus-per-task=2", "--gpus-per-node=4", "--hint=b"}
    assert given <= set(options)
    text = script.read_text()
    assert text.startswith("#!/bin/bash -l\n")
    assert "module load gcc/12 cray-mpich\n" in text
    assert "launch=(srun --mpi=cray_shasta --kill-on-bad-exit=0 --wait=20)\n" in text
    site("launcher: mpirun --bind-to core\n")
    assert "launch=(mpirun --bind-to core)\n" in shown()[2].read_text()


def test_containers(site, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.sif").touch()
    image = ["--container=image.sif", "--gpus-per-node=1"]
    assert (
        f"program=(apptainer exec --nv --bind {tmp_path} {tmp_path / 'image.sif'} prdp-hpc)\n"
        in shown(*image)[2].read_text()
    )
    site("container_runtime: singularity\ncontainer_options: [--bind, /scratch]\n")
    assert (
        f"program=(singularity exec --bind {tmp_path} --bind /scratch docker://a/b prdp-hpc)\n"
        in shown("--container=docker://a/b")[2].read_text()
    )
    site("container_runtime: pyxis\n")
    text = shown("--container=a/b:1")[2].read_text()
    assert f"--container-image=a/b:1 --container-mounts={tmp_path}:{tmp_path} " in text
    assert "program=(prdp-hpc)\n" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modlues: []", "modlues: unknown key; did you mean 'modules'?"),
        ("defaults: {time: 4:00:00}", "defaults.time: must be text in quotes"),
        ("container_runtime: docker", "container_runtime: must be 'apptainer', 'singularity'"),
        ("defaults: {cpus_per_task: 0}", "defaults.cpus_per_task: must be greater than or equal"),
        ("defaults: {sbatch: {mem: 3G}}", "defaults.sbatch: mem: give defaults.mem instead"),
    ],
)
def test_mistakes_in_the_site_file(text, message, site, config, capsys):
    path = site(text)
    reported = refused(capsys, config, "--dry-run")
    assert message in reported
    path.unlink()
    assert f"{path}: no such config file" in refused(capsys, config, "--dry-run")
