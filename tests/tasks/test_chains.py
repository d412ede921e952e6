"""Accuracy: each chain has the loss of its definition, and its gradient."""

import pytest
import tiny
import torch
from differences import check_gradient

from prdp_hpc.config import ConfigError, validate
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import ConfigParts
from prdp_hpc.tasks.emulator import DivertedChain, Emulator, MixedChain, RolloutChain

CHAINS = [
    {"chain": "mixed", "unroll": 2},
    {"chain": "one_step"},
    {"chain": "rollout", "unroll": 3},
    {"chain": "diverted", "unroll": 3, "every": 2},
]


def losses_by_definition(task, u):
    """The mean losses of the chains of `CHAINS` for the trajectories u."""
    states = [u[:, 0]]
    for _ in range(3):
        states.append(task.network_on(states[-1]))
    one, two, three = states[1:]

    def mean(prediction, target):
        return (prediction - target).square().mean().item()

    return [
        mean(task.step(two), u[:, 3]),
        mean(one, u[:, 1]),
        mean(one, u[:, 1]) + mean(two, u[:, 2]) + mean(three, u[:, 3]),
        mean(one, task.step(u[:, 0])) + mean(three, task.step(two)),
    ]


@pytest.fixture
def task_of(make_task):
    return lambda chain: make_task(
        tiny.emulator, 3, emulator=chain, data={"steps": 4}, training={"batch_size": 100}
    )[0]


@pytest.mark.parametrize("number", range(len(CHAINS)))
def test_loss_is_that_of_the_definition(number, task_of):
    task = task_of(CHAINS[number])
    states = torch.randn((5, 5, 1, 8), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        found = task.local_loss(states).item() / states[:, 0].numel()
        assert found == pytest.approx(losses_by_definition(task, states)[number], rel=1e-12)


@pytest.mark.parametrize("chain", CHAINS)
def test_gradient_is_the_finite_difference(chain, task_of):
    check_gradient(lambda: task_of(chain))


@pytest.mark.parametrize(
    ("chain", "window", "solves"),
    [(MixedChain(2), 4, 1), (RolloutChain(3), 4, 0), (DivertedChain(3, 2), 1, 2)],
)
def test_windows_and_solves_are_those_that_a_chain_needs(chain, window, solves, mesh, tmp_path):
    config = validate(tiny.emulator(tmp_path, data={"steps": 4}), "here")
    parts = ConfigParts(config, mesh)
    task = Emulator(parts.stepper(), parts.network, parts.data, mesh, parts.recipe, chain=chain)
    task.solver.refine(2)
    assert (task.window, chain.window, chain.solver_steps) == (window, window, solves)
    task.train_epoch(1)
    samples = 10 * (5 - window + 1)
    assert task.solver.report.forward.solves == solves * samples


def test_a_chain_without_solves_is_reported(make_task, capsys):
    make_task(tiny.emulator, 1, emulator={"chain": "rollout", "unroll": 2})
    assert "has nothing to refine" in capsys.readouterr().err
    constant = {"refinement": {"schedule": "constant"}}
    make_task(tiny.emulator, 1, emulator={"chain": "one_step"}, **constant)
    assert "refine" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"chain": "one_step", "unroll": 2}, "choose the chain rollout"),
        ({"chain": "rollout", "unroll": 2, "every": 2}, "only the chain diverted uses"),
        ({"chain": "diverted", "unroll": 2, "every": 3}, "every ≤ unroll"),
        ({"chain": "divertd"}, r"emulator\.chain: must be 'mixed'"),
    ],
)
def test_keys_that_contradict_each_other_are_errors(section, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        validate(tiny.emulator(tmp_path, emulator=section), "here")
    with pytest.raises(InputError, match="1 ≤ every ≤ unroll"):
        DivertedChain(2, 3)
