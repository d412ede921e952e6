"""Correctness: the errors of single samples at the end of a run have the means of a validation, for
a group that is used for nothing else.
"""

import json

import numpy as np
import pytest
import tiny

from prdp_hpc.config import validate
from prdp_hpc.experiments.run import run_experiment

GROUPS = {"validation": 3, "test": 4}


@pytest.mark.parametrize("make", [tiny.emulator, tiny.corrector])
def test_errors_of_samples_have_the_validations_means(make, make_task):
    task, _ = make_task(make, 2)
    tested = task.test()
    assert tested["group"] == "validation"
    for name, mean in task.validate().items():
        assert len(tested["samples"][name]) == 3
        assert np.mean(tested["samples"][name]) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("make", [tiny.emulator, tiny.corrector])
def test_the_test_group_is_that_of_the_file(make, make_task):
    """The errors are those of a validation on the same trajectories."""
    task, _ = make_task(make, 2, data=GROUPS)
    tested = task.test()
    assert tested["group"] == "test"
    assert [len(errors) for errors in tested["samples"].values()] == [4] * len(tested["samples"])
    with task.evaluating():
        states = task._data.test.batch(np.arange(4))
        alone = [task.sample_errors(states[i : i + 1])["error"][0] for i in range(4)]
    np.testing.assert_allclose(tested["samples"]["error"], alone, rtol=1e-10)
    assert set(task.test()["samples"]) == set(task.validate())


@pytest.mark.parametrize("make", [tiny.emulator, tiny.corrector])
def test_training_is_the_same_with_a_test_group(make, mesh, tmp_path):
    for name, data in (("plain", {}), ("tested", GROUPS)):
        config = validate(make(tmp_path, name=name, data=data), "here")
        run_experiment(config, mesh, tmp_path / name)
    assert tiny.rows(tmp_path / "plain") == tiny.rows(tmp_path / "tested")
    tested = json.loads((tmp_path / "tested" / "summary.json").read_text())["test"]
    assert (tested["group"], len(tested["samples"]["error"])) == ("test", 4)


def test_an_inverse_problem_has_no_samples(mesh, tmp_path):
    summary = run_experiment(validate(tiny.inverse(tmp_path), "here"), mesh, tmp_path / "run")
    assert summary["test"] is None
