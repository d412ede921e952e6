"""Reliability: on many ranks a mistake is told once, on one rank only or on all, and the job ends
at once.
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


def fails(ranks, *words):
    """The one message of a job that ends with an error."""
    ended = tiny.prdp_hpc(ranks, *words, timeout=60)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert len(re.findall(r"error(?: \(rank \d\))?: ", ended.stderr)) == 1, ended.stderr
    return ended.stderr


def test_a_config_that_does_not_do(config):
    assert "training.epochs: must be a valid integer" in fails(
        2, "run", config, "training.epochs=few"
    )


def test_words_that_are_not_known(config):
    assert "unrecognized arguments: --fast" in fails(2, "run", config, "--fast")


def test_ranks_that_do_not_divide(config):
    assert "2 ranks cannot be split into replicas of 3 grid ranks" in fails(
        2, "run", config, "parallel.grid_ranks=3"
    )


def test_replicas_of_an_inverse_problem(tmp_path):
    path = tiny.write(tmp_path / "inverse.yaml", tiny.inverse(tmp_path))
    message = fails(2, "run", path, "parallel.grid_ranks=1")
    assert "give parallel.grid_ranks=2, or start 1 rank(s)" in message


def test_all_ranks_share_the_grid_of_an_inverse_problem(tmp_path):
    path = tiny.write(tmp_path / "inverse.yaml", tiny.inverse(tmp_path))
    ended = tiny.prdp_hpc(2, "run", path)
    assert ended.returncode == 0, ended.stderr


def test_a_number_that_is_not_finite_in_one_ranks_part(config, tmp_path):
    whole = np.ones((4, 3, 8))
    whole[2, 1, 7] = np.nan
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = whole, whole
    message = fails(2, "run", config, f"data.file={tmp_path / 'mine.h5'}", "parallel.grid_ranks=2")
    assert "mine.h5: train/trajectories holds NaN or infinity, first in sample 2, step 1" in message


def test_a_solve_that_fails_on_one_replica_only(config, tmp_path):
    whole = np.ones((4, 3, 8))
    whole[2] = 1e308  # the square of its error is not finite, and it is one replica's sample
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = whole, whole[:1]
    words = ["network.activation=relu", "solver.ksp=cg", "refinement.ladder={kind: tolerances}"]
    message = fails(2, "run", config, f"data.file={tmp_path / 'mine.h5'}", *words)
    assert "adjoint solve with ksp='cg'" in message
    assert "the incoming gradient holds NaN or infinity" in message
    assert "error (rank " in message


def test_files_that_only_rank_0_reads_or_writes(config, tmp_path):
    cli.main(["run", config, "training.epochs=2"])
    assert "holds a run already" in fails(2, "run", config)
    assert "seed: 1 in the checkpoint, 3 now" in fails(2, "run", config, "seed=3", "--resume")
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    metrics.write_text("no JSON\n" + metrics.read_text())
    assert "metrics.jsonl, line 1: is not JSON" in fails(2, "run", config, "--resume")
    assert "cannot be written" in fails(2, "generate", config, "--out", tmp_path)


def test_plot_and_doctor_speak_once(config, tmp_path):
    assert "no such folder" in fails(2, "plot", tmp_path / "nowhere")
    ended = tiny.prdp_hpc(2, "doctor")
    assert ended.returncode == 0
    assert ended.stdout.count("all that is needed is there") == 1
