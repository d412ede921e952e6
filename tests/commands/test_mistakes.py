"""Reliability: each mistake ends with exit code 2 and one clear message, without a traceback, and
within seconds on many ranks.
"""

import json
import re

import h5py
import numpy as np
import pytest
import tiny

from prdp_hpc import cli


@pytest.fixture
def config(tmp_path):
    """The path of a tiny config with run folders in `tmp_path / "runs"`."""
    return tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))


def fails(capsys, *arguments):
    """Run the command in this process; return its single message."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in captured.err
    assert len(re.findall(r"^prdp-hpc( \w+)?: error: ", captured.err, re.MULTILINE)) == 1
    assert "error" not in captured.out
    return captured.err


def trajectories(path, train, validation):
    with h5py.File(path, "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = train, validation


# Arguments; CONFIG is replaced by the path of the config, FOLDER by that of an empty folder.
WORDS = [
    ([], "the following arguments are required: COMMAND"),
    (["train"], "invalid choice: 'train' (choose from"),
    (["run"], "the following arguments are required: CONFIG"),
    (["run", "CONFIG", "--resum"], "unrecognized arguments: --resum"),
    (["run", "CONFIG", "--fast"], "unrecognized arguments: --fast"),
    (
        ["run", "CONFIG", "--resume", "--overwrite"],
        "--overwrite: not allowed with argument --resume",
    ),
    (["generate", "CONFIG", "data.file=a.h5"], "'a.h5', so they would not find what"),
    (["generate", "CONFIG", "--resume"], "unrecognized arguments: --resume"),
    (["generate", "CONFIG", "--out"], "--out: expected one argument"),
    (["plot"], "the following arguments are required: RUN"),
    (["doctor", "now"], "unrecognized arguments: now"),
    (["run", "nowhere.yaml"], "nowhere.yaml: no such config file"),
    (["run", "FOLDER"], "is a folder; give the YAML file of a config"),
    (
        ["run", "CONFIG", "training.epochs"],
        "'training.epochs' is not of the form section.key=value",
    ),
    (["run", "CONFIG", "training.epochs=few"], "training.epochs: must be a valid integer"),
    (["run", "CONFIG", "trainings.epochs=5"], "trainings: unknown key; did you mean 'training'?"),
    (["run", "CONFIG", "task=inverse"], "data: unknown key"),
    (["run", "CONFIG", "task=[1]"], "task: must be a name, not [1]"),
    (
        ["compare", "CONFIG", "grid.shape=[8, 0]"],
        "grid.shape.1: must be greater than or equal to 2",
    ),
    (["run", "CONFIG", "solver.ksp=richardsen"], "did you mean richardson?"),
    (["run", "CONFIG", "solver.pc=jakobi"], "did you mean jacobi"),
    (
        ["run", "CONFIG", "solver.petsc_options={ksp_richardson_skale: 1}"],
        "'ksp_richardson_skale' has no effect in",
    ),
    (
        ["run", "CONFIG", "parallel.grid_ranks=2"],
        "1 ranks cannot be split into replicas of 2 grid ranks",
    ),
    (
        ["run", "CONFIG", "training.learning_rate=1e200", "training.batch_size=10"],
        "diverged; lower the learning rate",
    ),
    (["run", "CONFIG", "data.file=nowhere.h5"], "nowhere.h5: no such data file"),
    (["run", "CONFIG", "data.file=FOLDER"], "contains no file with the ending .h5 or .hdf5"),
    (["run", "CONFIG", "data.file=CONFIG"], "cannot be read as HDF5"),
    (["run", "CONFIG", "output=CONFIG"], "cannot write to the run folder"),
    (["run", "CONFIG", "output=/proc/nowhere"], "choose another output=…"),
    (["generate", "CONFIG", "--out", "FOLDER"], "cannot be written"),
    (["generate", "CONFIG", "--out", "/proc/a.h5"], "cannot be written"),
    (["paper", "--list", "nowhere.yaml"], "nowhere.yaml: no such config file"),
    (["paper", "--list", "CONFIG"], "task: unknown key; known here: experiments"),
    (
        ["paper", "--only", "heat1d"],
        "--only: no experiment is named 'heat1d'; did you mean 'heat_1d'?",
    ),
    (["plot", "nowhere"], "nowhere: no such folder; give the folder of a run"),
    (["evaluate", "nowhere"], "nowhere: no such folder; give the folder of a run"),
    (["predict", "nowhere"], "nowhere: no such folder; give the folder of a run"),
    (["export", "nowhere", "--format", "torch"], "nowhere: no such folder; give the folder of a"),
    (["plot", "FOLDER"], "metrics.jsonl: cannot be read"),
    (["plot", "FOLDER", "FOLDER"], "metrics.jsonl: cannot be read"),
]


@pytest.mark.parametrize(
    ("words", "message"), WORDS, ids=lambda case: " ".join(case) if isinstance(case, list) else ""
)
def test_words(words, message, config, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"CONFIG": config, "FOLDER": str(tmp_path / "empty")}
    filled = [re.sub("CONFIG|FOLDER", lambda match: places[match[0]], word) for word in words]
    assert message in fails(capsys, *filled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda u: u[:, :, :-1],
            "has shape (6, 3, 7), the grid needs (samples, steps + 1, [channels,] 8)",
        ),
        (lambda u: u[:, :2], "have 1 step(s), but the task needs 2"),
        (lambda u: u.astype(complex), "must have floating-point numbers of at most 64 bits"),
        (
            lambda u: np.where(u == u[2, 1, 3], np.nan, u),
            "contains NaN or infinity, first in sample 2, step 1",
        ),
        (lambda u: u[:0], "needs at least 1 sample"),
    ],
)
def test_data_files(change, message, config, tmp_path, capsys):
    whole = np.random.default_rng(0).standard_normal((6, 3, 8))
    trajectories(tmp_path / "mine.h5", change(whole), change(whole))
    error = fails(capsys, "run", config, f"data.file={tmp_path / 'mine.h5'}")
    assert message in error
    assert "mine.h5: " in error


def test_data_of_another_time_step(config, tmp_path, capsys):
    cli.main(["generate", config, "--out", str(tmp_path / "a.h5")])
    capsys.readouterr()
    message = fails(capsys, "run", config, f"data.file={tmp_path / 'a.h5'}", "physics.dt=0.125")
    assert re.search(
        r"a\.h5: was generated with dt = .*, but physics\.dt is 0\.125: give physics\.dt=", message
    )


def test_data_of_zeros_only(config, tmp_path, capsys):
    trajectories(tmp_path / "mine.h5", np.ones((6, 3, 8)), np.zeros((2, 3, 8)))
    error = fails(capsys, "run", config, f"data.file={tmp_path / 'mine.h5'}")
    assert "mine.h5: validation/trajectories is zero everywhere in sample 0, step 0" in error


def test_generate_for_an_inverse_problem(tmp_path, capsys):
    path = tiny.write(tmp_path / "inverse.yaml", tiny.inverse(tmp_path))
    assert "an inverse problem is not trained on trajectories" in fails(capsys, "generate", path)


def test_run_folders(config, tmp_path, capsys):
    cli.main(["run", config, "training.epochs=1"])
    capsys.readouterr()
    assert "contains a run: continue it with --resume, start again with --overwrite" in fails(
        capsys, "run", config
    )
    assert "seed: 1 in the checkpoint, 3 now" in fails(capsys, "run", config, "seed=3", "--resume")
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"error": ', '"errror": '))
    assert "line 1: error" in fails(capsys, "plot", metrics.parent)
    for checkpoint in (metrics.parent / "checkpoints").iterdir():
        checkpoint.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="has no checksum at its end: truncated"):
        assert "none of the 2 checkpoints can be read" in fails(capsys, "run", config, "--resume")


def test_overwrite_removes_runs_only(config, tmp_path, capsys):
    precious = tmp_path / "runs" / "tiny" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    for command, folder in (("run", "tiny"), ("compare", "tiny-compare")):
        precious.parent.rename(tmp_path / "runs" / folder)
        precious = tmp_path / "runs" / folder / "thesis.tex"
        assert "has no run in it, so --overwrite does not remove it" in fails(
            capsys, command, config, "--overwrite"
        )
        assert precious.read_text() == "years of work"


def test_by_the_command_itself(config):
    ended = tiny.prdp_hpc(0, "run", config, "training.epochs=0")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.fullmatch(r"prdp-hpc: error: .*\n", ended.stderr), ended.stderr


def test_a_flipped_bit_is_reported_in_one_line(config, tmp_path, two_ranks):
    cli.main(["run", config, "training.epochs=1", "training.checkpoint_every=1"])
    newest = max((tmp_path / "runs" / "tiny" / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    (ended,) = two_ranks([["run", config, "training.epochs=1", "--resume"]])
    assert ended.codes == [0, 0], ended.stderr
    reported = [line for line in ended.stderr.splitlines() if "warning" in line.lower()]
    wanted = (
        r"prdp-hpc: warning: .*epoch_0001\.pt: is damaged: its checksum is "
        r"wrong; .*; trying the previous checkpoint"
    )
    assert len(reported) == 1
    assert re.fullmatch(wanted, reported[0])


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    reported = set(re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    assert reported == {
        "run",
        "compare",
        "paper",
        "generate",
        "gradients",
        "plan",
        "plot",
        "evaluate",
        "submit",
        "doctor",
        "init",
        "config",
        "completion",
        "export",
        "inspect",
        "predict",
        "show",
        "site",
        "status",
    }


def test_a_bug_is_not_hidden(config, capsys, monkeypatch):
    monkeypatch.setattr("prdp_hpc.commands.run.load_config", lambda *_: json.loads("3").missing)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", config])
    assert ended.value.code == 1
    assert "AttributeError" in capsys.readouterr().err
