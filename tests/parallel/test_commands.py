"""Reliability: on many ranks a mistake, on one rank only or on all, is reported once, and the job
ends immediately.
"""

import re

import h5py
import numpy as np
import pytest
import tiny

from prdp_hpc import cli


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path / "runs"))


def check_message(stderr, wanted):
    """One message, without a traceback."""
    assert "Traceback" not in stderr
    assert len(re.findall(r"error(?: \(rank \d\))?: ", stderr)) == 1, stderr
    assert wanted in stderr


def not_finite(tmp_path):
    """Data with one number that is not finite, in the part of one rank."""
    whole = np.ones((4, 3, 8))
    whole[2, 1, 7] = np.nan
    with h5py.File(tmp_path / "nan.h5", "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = whole, whole
    return f"data.file={tmp_path / 'nan.h5'}"


def damaged(config, tmp_path):
    """A run whose metrics are damaged."""
    cli.main(["run", config, "training.epochs=2", "name=damaged"])
    metrics = tmp_path / "runs" / "damaged" / "metrics.jsonl"
    metrics.write_text("no JSON\n" + metrics.read_text())


def test_what_two_ranks_say_once(config, tmp_path, two_ranks):
    """Mistakes of the command line, of the config, of one rank's part of the data, of files that
    only rank 0 reads or writes; and what ends well.
    """
    cli.main(["run", config, "training.epochs=2"])
    damaged(config, tmp_path)
    inverse = tiny.write(tmp_path / "inverse.yaml", tiny.inverse(tmp_path))
    mistakes = {
        "unrecognized arguments: --fast": ["run", config, "--fast"],
        "training.epochs: must be a valid integer": ["run", config, "training.epochs=few"],
        "2 ranks cannot be split into replicas of 3 grid ranks": [
            "run",
            config,
            "parallel.grid_ranks=3",
        ],
        "give parallel.grid_ranks=2, or start 1 rank(s)": [
            "run",
            inverse,
            "parallel.grid_ranks=1",
        ],
        "nan.h5: validation/trajectories contains NaN or infinity, first in sample 2, step 1": [
            "run",
            config,
            "name=not_finite",
            not_finite(tmp_path),
            "parallel.grid_ranks=2",
        ],
        "already contains a run": ["run", config],
        "seed: 1 in the checkpoint, 3 now": ["run", config, "seed=3", "--resume"],
        "metrics.jsonl, line 1: is not JSON": ["run", config, "name=damaged", "--resume"],
        "cannot be written": ["generate", config, "--out", tmp_path],
        "no such folder": ["plot", tmp_path / "nowhere"],
    }
    # All ranks share the grid of an inverse problem; doctor looks for all of them.
    *finished, trained, doctor = two_ranks([*mistakes.values(), ["run", inverse], ["doctor"]])
    for (wanted, words), done in zip(mistakes.items(), finished, strict=True):
        check_message(done.stderr, wanted)
        assert done.codes == [2, 0 if words[0] == "plot" else 2]
    assert trained.codes == doctor.codes == [0, 0]
    assert trained.stdout.count("run folder: ") == 1
    assert doctor.stdout.count("nothing is missing") == 1


def test_a_solve_that_fails_on_one_replica_only(config, tmp_path):
    whole = np.ones((4, 3, 8))
    whole[2] = 1e308  # the square of its error is not finite, and it is one replica's sample
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = whole, whole[:1]
    words = ["network.activation=relu", "solver.ksp=cg", "refinement.ladder={kind: tolerances}"]
    ended = tiny.prdp_hpc(2, "run", config, f"data.file={tmp_path / 'mine.h5'}", *words)
    assert ended.returncode != 0
    message = ended.stderr
    check_message(message, "adjoint solve with ksp='cg'")
    assert "the incoming gradient holds NaN or infinity" in message
    assert "error (rank " in message
