"""Usability: submit refuses what would be dropped silently, or fail only when the job starts."""

import pytest
import tiny

from prdp_hpc import cli

TEXTS = ("account", "partition", "qos", "constraint", "time", "mem", "gpus_per_node")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("PRDP_SITE", "")
    return tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path / "runs"))


@pytest.fixture
def refused(config, capsys):
    """The message with which these words are refused, before anything is submitted."""

    def message(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(["submit", config, *words])
        assert ended.value.code == 2
        return capsys.readouterr().err

    return message


@pytest.fixture
def site(tmp_path, monkeypatch):
    def write(text):
        path = tmp_path / "site.yaml"
        path.write_text(text)
        monkeypatch.setenv("PRDP_SITE", str(path))
        return path

    return write


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fan-out", "--array=1-3"], "--array: --fan-out makes an array of all runs"),
        (["--fan-out", "--command=generate"], "leave out generate"),
        (["--command=generate", "data.file=a.h5"], "data.file: runs read 'a.h5'"),
        (["--sbatch=cpus-per-gpu=2"], "beside the cores per rank; give --cpus-per-task instead"),
        (["--sbatch=exclusive=user"], "--sbatch exclusive: give --exclusive instead"),
        (["--exclusive=users"], "argument --exclusive: must be user, mcs, topo or nothing"),
        (["--gpus-per-node=a100:2,h100"], "must be a number or TYPE:NUMBER"),
        (["--sbatch=ntasks=2"], "--sbatch ntasks: submit sets this option itself"),
        (["--sbatch=tasks-per-node=2"], "--sbatch tasks-per-node: submit sets this option itself"),
        (["--container=absent.sif"], "--container absent.sif: no such file"),
        (["--sbatch=comment=a\n#SBATCH --time=1"], "--comment: must be text in one line"),
        (["--mem=1G\n2G"], "--mem: must be text in one line"),
    ],
)
def test_options_that_contradict_each_other(words, message, refused):
    assert message in refused(*words, "--dry-run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f'defaults: {{{key}: "{bad}"}}', f"defaults.{key}: must be") for key in TEXTS
          for bad in (" ", r"a\nb")),
        *((f'{key}: "{bad}"', f"{key}: must be text in one line") for key in ("launcher", "mpi")
          for bad in (" ", r"a\nb")),
        ('modules: ["gcc mpich"]', "modules.0: must be the name of one module"),
        ("modules: gcc", "modules: must be a list, not 'gcc'"),
        ("launcher: srun 'a", "launcher: must be a command with its options: No closing quotation"),
        ("defaults: {gpus_per_node: four}", "defaults.gpus_per_node: must be a number or TYPE:"),
        ("defaults: {gpus_per_node: 0}", "defaults.gpus_per_node: must be a number or TYPE:"),
        ("defaults: {exclusive: users}", "defaults.exclusive: must be"),
        ("defaults: {sbatch: {cpus-per-gpu: 2}}", "give --cpus-per-task of submit instead"),
        ("defaults: {sbatch: [hint]}", "defaults.sbatch: must be a section with keys"),
        ("defaults: {sbatch: {time: 3}}", "defaults.sbatch: time: give defaults.time instead"),
        ("defaults: {sbatch: {array: 1-3}}", "defaults.sbatch: array: give --array of submit"),
        ("defaults: {sbatch: {Hint: a}}", "defaults.sbatch: Hint: give the long name"),
        ("[mpi]", "must contain keys and sections, e.g. 'mpi: pmix'"),
    ],
)  # fmt: skip
def test_values_of_the_site_file_that_fit_no_script(text, message, site, refused):
    path = site(text)
    reported = refused("--dry-run")
    assert f"{path}: " in reported
    assert message in reported


def test_pyxis_needs_srun(site, refused):
    site("container_runtime: pyxis\nlauncher: mpirun\n")
    assert "pyxis is a part of srun, but the launcher is 'mpirun'" in refused("--container=a/b")


@pytest.mark.parametrize("text", ["", "# mpi: pmix\n", "launcher: ' srun '\n"])
def test_a_site_file_without_values_is_that_of_the_defaults(text, site, config, capsys):
    shown = []
    for content in (text, "mpi: pmi2\n"):
        site(content)
        cli.main(["submit", config, "--dry-run"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_numbers_as_names_in_the_site_file(site, config, capsys):
    site("defaults: {account: 1234, qos: 5}\n")
    cli.main(["submit", config, "--dry-run"])
    shown = capsys.readouterr().out
    assert "#SBATCH --account=1234\n" in shown
    assert "#SBATCH --qos=5\n" in shown


@pytest.fixture
def options(config, capsys):
    """The options of sbatch in the script for these words of the command line."""

    def given(*words):
        cli.main(["submit", "--dry-run", *[config if word == "CONFIG" else word for word in words]])
        lines = capsys.readouterr().out.splitlines()
        return [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]

    return given


@pytest.mark.parametrize("kind", ["user", "mcs", "topo"])
def test_kinds_of_exclusive_nodes(kind, site, options):
    assert f"exclusive={kind}" in options("CONFIG", f"--exclusive={kind}")
    assert f"exclusive={kind}" in options("CONFIG", "--exclusive", kind)
    site(f"defaults: {{exclusive: {kind}}}\n")
    assert f"exclusive={kind}" in options("CONFIG")
    assert "exclusive" in options("CONFIG", "--exclusive")


@pytest.mark.parametrize("option", ["--exclusive", "--fan-out"])
def test_options_without_their_value_before_the_config_or_a_change(option, options):
    expected = options("CONFIG", option, "--time=3")
    assert options(option, "CONFIG", "--time=3") == expected
    assert options("CONFIG", option, "seed=3", "--time=3") == expected


ALTERNATIVES = [
    ("mem: 1G", "--sbatch=mem-per-cpu=2G", "mem-per-cpu=2G", "mem="),
    ("sbatch: {mem-per-gpu: 1G}", "--mem=2G", "mem=2G", "mem-per-gpu="),
    ("sbatch: {mem-per-gpu: 1G}", "--sbatch=mem-per-cpu=2G", "mem-per-cpu=2G", "mem-per-gpu="),
    ("exclusive: true", "--sbatch=oversubscribe", "oversubscribe", "exclusive"),
    ("sbatch: {oversubscribe: null}", "--exclusive", "exclusive", "oversubscribe"),
]


@pytest.mark.parametrize(("default", "word", "given", "absent"), ALTERNATIVES)
def test_an_option_replaces_its_alternatives_of_the_site_file(
    default, word, given, absent, site, options
):
    site(f"defaults: {{{default}}}\n")
    shown = options("CONFIG", word)
    assert given in shown
    assert not any(one.startswith(absent) for one in shown)


@pytest.mark.parametrize(
    "word",
    ["--gpus-per-node=a100:1,h100:1", "--sbatch=gpus=2", "--sbatch=gpus-per-task=1",
     "--sbatch=gres=gpu:2"],
)  # fmt: skip
def test_a_container_has_the_gpus_of_its_job(word, config, capsys):
    cli.main(["submit", config, "--container=docker://a/b", "--dry-run", word])
    assert "program=(apptainer exec --nv " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "afterany"), ("afterok:7", "afterok:7,afterany"), ("afterok:7?singleton", "afterany")],
)
def test_the_collecting_job_waits_for_what_its_runs_wait_for(given, expected, config, capsys):
    words = [] if given is None else [f"--dependency={given}"]
    cli.main(["submit", config, "--fan-out", "--dry-run", *words])
    assert f"sbatch --dependency={expected}:$first " in capsys.readouterr().out


def test_a_rejected_second_job_names_the_first(refused, tmp_path, monkeypatch):
    command = tmp_path / "bin" / "sbatch"
    command.parent.mkdir()
    command.write_text(
        '#!/bin/sh\ncase "$*" in *afterany*) echo "sbatch: error: limit" >&2; exit 1;; esac\n'
        "echo 41\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    message = refused("--fan-out")
    assert "collect.sh: limit" in message
    assert "job 41 was submitted before: scancel 41 removes it" in message
