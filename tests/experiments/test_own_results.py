"""Usability: what user-defined components return is checked, with one message that names it."""

import numpy as np
import own_components
import pytest
import tiny
import torch

from prdp_hpc import train
from prdp_hpc.cli import main
from prdp_hpc.errors import InputError

ALTERED = {}
"""The functions that change what a method returns, by the name of the method in messages."""


def out(name, good):
    return ALTERED.get(name, lambda same: same)(good)


class Decay(own_components.Decay):
    def __call__(self, state):
        return out("a step of Decay", super().__call__(state))

    def attributes(self):
        return out("Decay.attributes()", {"dt": 0.1})

    def initial_states(self, generator, count, modes):
        states = torch.from_numpy(generator.standard_normal((count, 1, *self.grid.shape)))
        return out("Decay.initial_states(", self.grid.scatter(states))

    def network_inputs(self):
        return out("Decay.network_inputs()", torch.ones(1, *self.grid.local_shape))


class Net(own_components.Whole):
    def forward(self, fields):
        return out("Net(fields)", super().forward(fields))


class Task(own_components.Residual):
    weight = 1.0

    @classmethod
    def from_config(cls, section, parts):
        given = parts.stepper(), parts.network, parts.data, parts.mesh, parts.recipe, parts.inputs
        return out("task", cls(*given))

    def advance(self, state):
        return out("Task.advance(state)", self.predicted(state))

    def local_loss(self, trajectories):
        return out("Task.local_loss(trajectories)", super().local_loss(trajectories))

    def sample_errors(self, trajectories):
        difference = self.predicted(trajectories[:, 0]) - trajectories[:, 1]
        errors = {"error": self.squares(difference).sum(axis=1)}
        return out("Task.sample_errors(trajectories)", errors)

    def step_errors(self, step, prediction, truth, before):
        errors = super().step_errors(step, prediction, truth, before)
        return out("Task.step_errors(…)", errors)

    def validate(self):
        return out("Task.validate()", super().validate())


class Twice(own_components.Twice):
    @property
    def level(self):
        return out("Twice.level", 2)

    @property
    def adjoint_level(self):
        return out("Twice.adjoint_level", 2)

    def state_dict(self):
        return out("state['schedule']", super().state_dict())


class Arrays:
    def __init__(self, path):
        self.path = "mine"
        self.steps = out("mine: steps", 2)
        self.attributes = out("mine: attributes", {})
        self.groups = out("mine: groups", ("train", "validation"))

    def count(self, group):
        return out(f"mine: count('{group}')", 2 * (group in ("train", "validation")))

    def read(self, group, samples, part):
        states = np.random.default_rng(0).standard_normal((2, 3, 1, 8))
        found = states[(list(samples), slice(None), slice(None), *part)]
        return out(f"mine: read('{group}', …)", found)

    def content_id(self):
        return out("mine: content_id()", "the same")


def optimiser(parameters, lr):
    return out("training.optimizer", torch.optim.SGD(parameters, lr=lr))


def rate():
    return out("training.schedule", lambda step: out("training.schedule: the rate", 1.0))


def loss():
    def squared(prediction, target):
        return out("training.loss: the loss", (prediction - target).square())

    return out("training.loss", squared)


EVERYWHERE = (
    "a step of Decay",
    "Decay.attributes()",
    "Decay.initial_states(",
    "Decay.network_inputs()",
    "Net(fields)",
    "task",
    "Task.advance(state)",
    "Task.local_loss(trajectories)",
    "Task.sample_errors(trajectories)",
    "Task.step_errors(…)",
    "Task.validate()",
    "Twice.level",
    "Twice.adjoint_level",
    "mine: steps",
    "mine: attributes",
    "mine: groups",
    "mine: count('train')",
    "mine: read('train', …)",
    "mine: content_id()",
    "training.optimizer",
    "training.schedule",
    "training.schedule: the rate",
    "training.loss",
    "training.loss: the loss",
)


def nothing(good):
    return None


SOME = [
    ("a step of Decay", lambda good: good[..., 1:]),
    ("a step of Decay", lambda good: good.flatten(1)),
    ("a step of Decay", lambda good: good.detach().numpy()),
    ("Decay.attributes()", lambda good: ["dt"]),
    ("Decay.attributes()", lambda good: {"dt": "fast"}),
    ("Decay.initial_states(", lambda good: torch.cat([good, good], dim=1)),
    ("Decay.network_inputs()", lambda good: good[0]),
    ("Net(fields)", lambda good: (good, good)),
    ("Net(fields)", lambda good: good.to(torch.complex64)),
    ("Task.advance(state)", lambda good: (good, good)),
    ("Task.local_loss(trajectories)", lambda good: good.detach()),
    ("Task.local_loss(trajectories)", lambda good: good.item()),
    ("Task.sample_errors(trajectories)", lambda good: {"mine": good["error"]}),
    ("Task.sample_errors(trajectories)", lambda good: {"error": good["error"][:1]}),
    ("Task.validate()", lambda good: good | {"epoch": 9}),
    ("Task.validate()", lambda good: good | {"more": object()}),
    ("Twice.level", lambda good: 2.0),
    ("state['schedule']", lambda good: {"own": object()}),
    ("training.loss: the loss", lambda good: good.to(torch.complex64)),
]


def config_in(folder, name, **data):
    """A config of the components above, which are found in this module."""
    own = {
        "grid": {"shape": [8], "boundary": "periodic"},
        "solver": {"ksp": "cg", "pc": "jacobi"},
        "physics": {"pde": f"{__name__}:Decay"},
        "network": {"kind": f"{__name__}:Net", "width": 2},
        "network_inputs": ["physics"],
        "task": f"{__name__}:Task",
        "tracking": [],
        "refinement": {
            "schedule": f"{__name__}:Twice",
            "ladder": {"kind": "iterations", "stop": 2},
        },
        "training": {
            "epochs": 1,
            "batch_size": 2,
            "optimizer": f"{__name__}:optimiser",
            "schedule": f"{__name__}:rate",
            "loss": f"{__name__}:loss",
        },
        "data": {"train": 2, "validation": 2, **data},
    }
    content = tiny.emulator(folder / "runs", **own) | {"name": name}
    return tiny.write(folder / f"{name}.yaml", content)


@pytest.fixture
def altered():
    yield ALTERED
    ALTERED.clear()


@pytest.mark.parametrize(("name", "wrong"), [*((name, nothing) for name in EVERYWHERE), *SOME])
def test_a_wrong_result_is_one_error_that_names_the_method(name, wrong, altered, tmp_path):
    altered[name] = wrong
    own = {"file": "any", "format": f"{__name__}:Arrays"} if name.startswith("mine") else {}
    with pytest.raises(InputError) as caught:
        train(config_in(tmp_path, "wrong", **own))
    assert name in str(caught.value)


def test_a_step_without_a_gradient_is_an_error(altered, tmp_path):
    altered["a step of Decay"] = lambda good: good.detach()
    config = config_in(tmp_path, "detached")
    with pytest.raises(InputError, match="has no gradient with respect to the state"):
        train(config, ["task=emulator", "network_inputs=[physics]"])


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Twice.level", np.int64),
        ("mine: steps", np.int64),
        ("mine: read('train', …)", lambda good: good.tolist()),
        ("Task.validate()", lambda good: {"error": torch.tensor(good["error"]), "sign": "+"}),
        ("Task.validate()", lambda good: {"error": np.float32(good["error"]), "more": [1, 2]}),
        ("Task.sample_errors(trajectories)", lambda good: {"error": list(good["error"])}),
        ("training.schedule: the rate", torch.tensor),
        ("Decay.attributes()", lambda good: {"dt": torch.tensor(good["dt"])}),
    ],
)
def test_equal_numbers_of_another_type_are_accepted(name, other, altered, tmp_path, capsys):
    altered[name] = other
    own = {"file": "any", "format": f"{__name__}:Arrays"} if name.startswith("mine") else {}
    main(["run", str(config_in(tmp_path, "right", **own))])
    assert "metrics:" in capsys.readouterr().out or tiny.rows(tmp_path / "runs" / "right")
