"""Correctness: a network between normalised states is the network for data that were normalised
before, and the solver receives physical states.
"""

import json

import h5py
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc import load_network
from prdp_hpc.config import validate
from prdp_hpc.data.moments import Moments, combined
from prdp_hpc.experiments.evaluation import evaluate
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.experiments.trained import trained_state
from prdp_hpc.networks.normalised import NormalisedNetwork

SIZES = np.array([1e3, 1e-2]).reshape(2, 1)
STATES = (5.0 + np.random.default_rng(0).standard_normal((4, 6, 2, 8))) * SIZES


def store(path, states=STATES):
    with h5py.File(path, "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = states, 2.0 * states[:2]
    return {"file": str(path)}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.floats(-1e6, 1e6))
def test_moments_of_parts_are_those_of_the_whole(sizes, offset):
    values = offset + np.random.default_rng(1).standard_normal((sum(sizes), 3, 4))
    parts = np.split(values, np.cumsum(sizes)[:-1])
    found = combined([Moments.of(part) for part in parts])
    assert found.count == 4 * sum(sizes)
    if found.count:
        np.testing.assert_allclose(found.mean, values.mean(axis=(0, 2)), rtol=1e-13, atol=1e-9)
        np.testing.assert_allclose(found.std, values.std(axis=(0, 2)), rtol=1e-8)


def test_a_constant_channel_is_only_shifted():
    found = Moments.of(np.full((5, 1, 7), 0.1))
    np.testing.assert_allclose(found.mean, 0.1)
    np.testing.assert_array_equal(found.std, 1.0)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("steps", [None, 3])
def test_statistics_are_those_of_the_training_states_that_are_used(
    in_memory, steps, make_task, tmp_path
):
    data = store(tmp_path / "a.h5") | {"normalise": "standard", "in_memory": in_memory}
    task, _ = make_task(tiny.emulator, 3, data=data | {"steps": steps})
    used = STATES[:, : None if steps is None else steps + 1]
    found = task.network.as_dict(task.channels)
    assert found["channels"] == ["u_1", "u_2"]
    np.testing.assert_allclose(found["mean"], used.mean(axis=(0, 1, 3)), rtol=1e-12)
    np.testing.assert_allclose(found["std"], used.std(axis=(0, 1, 3)), rtol=1e-12)


@pytest.mark.parametrize("make", [tiny.emulator, tiny.corrector])
def test_the_network_receives_normalised_states_and_the_solver_physical_ones(
    make, make_task, tmp_path
):
    data = store(tmp_path / "a.h5")
    plain, _ = make_task(make, 3, data=data)
    task, _ = make_task(make, 3, data=data | {"normalise": "standard"})
    mean, std = task.network.get_extra_state()[:2, :, None]
    assert mean.dtype == torch.float64
    state = torch.from_numpy(STATES[:, 0])
    with task.evaluating():
        inside = plain.network_on((state - mean) / std)
        expected = inside * std + (mean if make is tiny.emulator else 0.0)
        torch.testing.assert_close(task.network_on(state), expected, rtol=1e-12, atol=0.0)
        assert torch.equal(task.step(state), plain.step(state))
    losses = [task.train_epoch(epoch) for epoch in range(1, 6)]
    assert losses[-1] < losses[0]


def test_normalisation_is_kept_with_the_run(mesh, make_task, tmp_path):
    data = store(tmp_path / "a.h5") | {"normalise": "standard"}
    config = validate(tiny.emulator(tmp_path, data=data, training={"epochs": 2}), "here")
    summary = run_experiment(config, mesh, tmp_path / "tiny")
    kept = json.loads((tmp_path / "tiny" / "normalisation.json").read_text())
    np.testing.assert_allclose(kept["mean"], STATES.mean(axis=(0, 1, 3)), rtol=1e-12)
    network = load_network(tmp_path / "tiny")
    assert isinstance(network, NormalisedNetwork)
    assert network.as_dict(kept["channels"]) == kept
    # Evaluation and a resumed run use the statistics of the run, not those of other data.
    other = store(tmp_path / "b.h5", 3.0 * STATES)
    store(tmp_path / "c.h5")
    assert evaluate(tmp_path / "tiny", tmp_path / "c.h5")["error"] == summary["error"]
    task, _ = make_task(tiny.emulator, 3, data=data | other)
    assert task.network.as_dict(task.channels) != kept
    task.load_state_dict(trained_state(tmp_path / "tiny")["task"])
    assert task.network.as_dict(task.channels) == kept
    longer = validate(tiny.emulator(tmp_path, data=data, training={"epochs": 3}), "here")
    run_experiment(longer, mesh, tmp_path / "tiny", resume=True)
    assert json.loads((tmp_path / "tiny" / "normalisation.json").read_text()) == kept
    assert load_network(tmp_path / "tiny").as_dict(kept["channels"]) == kept
