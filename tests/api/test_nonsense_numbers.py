"""Property: a number that means nothing is refused where it is given, by an error that names it.

Each argument that is a number gets NaN, infinity, a negative number, text, None, a list and, where
they mean nothing, zero and a fraction. None is right where it is the default.
"""

import inspect
import math

import numpy as np
import pytest
import tiny
import torch
from mpi4py import MPI

import prdp_hpc as p
from prdp_hpc.config import ConfigError, torch_components, validate
from prdp_hpc.errors import InputError
from prdp_hpc.tasks.learning_rate import LearningRate
from prdp_hpc.tasks.optimisers import make_optimiser
from prdp_hpc.training.clock import Clock

LADDER = p.IterationLadder(1, 1, 3)
GRID = p.Grid((8, 8), "periodic", MPI.COMM_SELF)
NOT_NUMBERS = (math.nan, math.inf, -math.inf, "x", [1.0], True)
ONES = np.ones((2, 6, 1, 8, 8))


def count(make, none=False, least=1):
    """The nonsense for an integer of at least `least`."""
    return make, (*NOT_NUMBERS, least - 1, 1.5, *(() if none else (None,)))


def positive(make, none=False):
    """The nonsense for a number above 0."""
    return make, (*NOT_NUMBERS, -1.0, 0, *(() if none else (None,)))


def number(make, *more):
    """The nonsense for a number, and what is out of its range."""
    return make, (*NOT_NUMBERS, None, *more)


def keyword(kind, name, *given, **others):
    """A call of `kind` with the value as the argument `name`."""
    return lambda value: kind(*given, **others, **{name: value})


def trainer(**keys):
    """The clock of a trainer, whose task is not looked at before its numbers."""
    Clock(None, **{"epochs": 2, **keys})


def corrector(**keys):
    """A corrector, whose other arguments are not looked at before its numbers."""
    p.Corrector(None, None, None, None, None, **keys)


def inverse(**keys):
    """An inverse problem of one mode."""
    mesh = p.ProcessMesh.from_world(1, MPI.COMM_SELF)
    poisson = p.Poisson(p.Grid((8,), comm=mesh.grid_comm), p.Solver("cg", "jacobi", 2))
    given = {"reference": [2.0], "start": [5.0], "learning_rate": 1.0} | keys
    try:
        p.Inverse(poisson, poisson, mesh, **given)
    finally:
        mesh.close()


def unknown(start):
    """The unknown field of an inversion."""
    mesh = p.ProcessMesh.from_world(1, MPI.COMM_SELF)
    try:
        p.FieldUnknown(p.Grid((8,), comm=mesh.grid_comm), mesh, start)
    finally:
        mesh.close()


def rows(n_local):
    """A matrix of two rows, of which this rank has some."""
    p.SparseOperator([0, 1], [0, 1], (2, 2), MPI.COMM_SELF, n_local=n_local)


PARAMETERS = [torch.nn.Parameter(torch.ones(3))]
HEAT = p.Heat(GRID, 0.1, 0.1, p.Solver("cg", "jacobi", 2))
STATE = torch.ones(1, 1, 8, 8).double()
ARRAYS = p.TrajectoryArrays(ONES, ONES)
CASES = {
    "batch_size": count(keyword(p.Recipe, "batch_size")),
    "learning_rate": positive(keyword(p.Recipe, "learning_rate")),
    "warmup_steps": count(keyword(p.Recipe, "warmup_steps"), least=0),
    "clip_norm": positive(keyword(p.Recipe, "clip_norm"), none=True),
    "accumulate": count(keyword(p.Recipe, "accumulate")),
    "ema": positive(keyword(p.Recipe, "ema"), none=True),
    "seed": count(keyword(p.Recipe, "seed"), least=0),
    "learning_rate (inverse)": positive(keyword(inverse, "learning_rate")),
    "reference": number(lambda value: inverse(reference=[value])),
    "start": number(lambda value: inverse(start=[value])),
    "start (field)": (unknown, (*NOT_NUMBERS[:4], None)),
    "lr": positive(keyword(p.LBFGS, "lr", PARAMETERS)),
    "history": count(keyword(p.LBFGS, "history", PARAMETERS)),
    "evaluations": count(keyword(p.LBFGS, "evaluations", PARAMETERS)),
    "weight": number(keyword(p.H1Regularisation, "weight", GRID), -1.0),
    "weight (variation)": number(keyword(p.TotalVariation, "weight", GRID), -1.0),
    "smoothing": positive(keyword(p.TotalVariation, "smoothing", GRID, 1.0)),
    "position": (lambda value: p.Positions(GRID, [[0.5, value]]), (*NOT_NUMBERS[:4], None)),
    "position (list)": (lambda value: p.Positions(GRID, [[value, value]]), ("1", True, None)),
    "dim": count(p.CoordinateNetwork),
    "features": count(keyword(p.CoordinateNetwork, "features", 2)),
    "bandwidth": positive(keyword(p.CoordinateNetwork, "bandwidth", 2)),
    "hidden": count(lambda value: p.CoordinateNetwork(2, hidden=(value,))),
    "in_features": count(lambda value: p.MLP(value, 4, (4,))),
    "out_features": count(lambda value: p.MLP(4, value, (4,))),
    "hidden (mlp)": count(lambda value: p.MLP(4, 4, (value,))),
    "in_channels": count(lambda value: p.ResNet(GRID.partition, value, 1)),
    "channels": count(lambda value: p.ResNet(GRID.partition, 1, 1, value)),
    "blocks": count(lambda value: p.ResNet(GRID.partition, 1, 1, 4, value)),
    "channels (unet)": count(lambda value: p.UNet(GRID.partition, 1, 1, value)),
    "depth": count(lambda value: p.UNet(GRID.partition, 1, 1, 4, value)),
    "out_channels": count(lambda value: p.Convolution(GRID.partition, 1, value)),
    "kernel": count(lambda value: p.Convolution(GRID.partition, 1, 1, value)),
    "stride": count(lambda value: p.Convolution(GRID.partition, 1, 1, 3, value)),
    "window": count(keyword(p.WindowedDataset, "window", ARRAYS), none=True),
    "stride (window)": count(keyword(p.WindowedDataset, "stride", ARRAYS)),
    "steps": count(keyword(p.WindowedDataset, "steps", ARRAYS), none=True),
    "epochs": count(keyword(trainer, "epochs")),
    "steps (trainer)": count(keyword(trainer, "steps"), none=True),
    "log_every": count(keyword(trainer, "log_every"), none=True),
    "unroll": count(keyword(corrector, "unroll")),
    "validation_steps": count(lambda value: corrector(validation_steps=(value,))),
    "keep": count(keyword(p.Checkpoints, "keep", "unused")),
    "patience": count(p.EarlyStopping),
    "min_change": number(keyword(p.EarlyStopping, "min_change", 3), -1.0, 1.0),
    "step_threshold": positive(keyword(p.Coordinator, "step_threshold", LADDER)),
    "stop_threshold": positive(keyword(p.Coordinator, "stop_threshold", LADDER)),
    "ema_window": count(keyword(p.Coordinator, "ema_window", LADDER)),
    "error_window": count(keyword(p.Coordinator, "error_window", LADDER)),
    "error": number(lambda value: p.Coordinator(LADDER).observe(value), -1.0),
    "error (gradient)": number(lambda value: p.GradientCoordinator(LADDER).observe(value)),
    "error (constant)": number(lambda value: p.ConstantSchedule(1).observe(value)),
    "error (manual)": number(lambda value: p.ManualSchedule({0: 1}).observe(value)),
    "theta": positive(keyword(p.GradientCoordinator, "theta", LADDER)),
    "theta_noise": positive(keyword(p.GradientCoordinator, "theta_noise", LADDER)),
    "probe_share": positive(keyword(p.GradientCoordinator, "probe_share", LADDER)),
    "variance": number(lambda value: p.MeasuredGradient(torch.ones(3), value), -1.0),
    "start (ladder)": count(keyword(p.IterationLadder, "start")),
    "step": count(keyword(p.IterationLadder, "step")),
    "stop": count(keyword(p.IterationLadder, "stop")),
    "factor": positive(keyword(p.ToleranceLadder, "factor")),
    "level": count(keyword(p.ConstantSchedule, "level")),
    "epoch": (lambda value: p.ManualSchedule({0: 1, value: 2}), (-1, 1.5, math.nan, None, "x")),
    "max_it": count(keyword(p.Refinement, "max_it"), none=True),
    "rtol": positive(keyword(p.Refinement, "rtol"), none=True),
    "steps (rollout)": count(lambda value: p.rollout(HEAT, STATE, value)),
    "checkpoints": count(lambda value: p.rollout(HEAT, STATE, 3, value), none=True),
    "at": count(lambda value: p.rollout(HEAT, STATE, 3, at=[value])),
    "n_local": count(rows, none=True, least=0),
    "n_local (function)": count(lambda value: p.FunctionOperator(len, value), least=0),
    "n_local (jacobian)": count(lambda value: p.ColouredJacobian([0], [0], value), least=0),
    "grid_ranks": count(lambda value: p.ProcessMesh.from_world(value, MPI.COMM_SELF)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_number_that_means_nothing_is_refused(name):
    make, nonsense = CASES[name]
    for value in nonsense:
        with pytest.raises(InputError) as raised:
            make(value)
        named = name.split(" (")[0]
        words = str(raised.value)
        known = (named, named.replace("_", " "), {"level": "tolerance"}.get(named, named))
        assert any(word in words for word in known), (value, words)


def test_whole_numbers_of_numpy_are_whole_numbers():
    one = np.int64(1)
    ladder = p.IterationLadder(one, one, np.int32(3))
    assert [type(ladder.level(rung)) for rung in range(3)] == [int] * 3
    assert [type(level) for level in p.ExplicitLadder(np.array([1, 5])).levels] == [int] * 2
    assert type(p.ManualSchedule({one - 1: one}).level) is int
    assert type(p.Refinement(max_it=one).max_it) is int
    assert p.FunctionOperator(len, one, MPI.COMM_SELF).n_local == 1


def test_rows_of_the_ranks_make_the_matrix():
    with pytest.raises(InputError, match=r"n_local .* add up to the operator's 2 rows, not \[1\]"):
        rows(1)


NEEDED = {
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 4]},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 5},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 1.0},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 10},
}
CLASSES = [("optimizer", torch.optim, name) for name in torch_components.OPTIMIZERS] + [
    ("schedule", torch.optim.lr_scheduler, name) for name in torch_components.RATES
]


@pytest.mark.parametrize(("section", "module", "name"), CLASSES)
def test_arguments_of_torch_are_within_their_bounds(section, module, name, tmp_path):
    def checked(**keys):
        given = {"kind": name, **NEEDED.get(name, {}), **keys}
        validate(tiny.emulator(tmp_path, training={section: given}), "here")

    checked()
    for key, argument in inspect.signature(getattr(module, name).__init__).parameters.items():
        default = argument.default
        if key in {"self", "params", "lr", "optimizer", "last_epoch", "scale_fn"}:
            continue
        if isinstance(default, bool | str):
            continue
        pair = isinstance(default, tuple)
        for value in (math.nan, math.inf):
            with pytest.raises(ConfigError, match=rf"training\.{section}\.{key}\b"):
                checked(**{key: [value] * len(default) if pair else value})
        if default is not None and key not in {"beta2_decay", "ns_coefficients"}:
            with pytest.raises(ConfigError, match=rf"training\.{section}\.{key}\b"):
                checked(**{key: [-1.0] * len(default) if pair else -1.0})


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_a_rate_of_an_own_schedule_is_a_number_of_at_least_zero(rate):
    recipe = p.Recipe(learning_rate=0.1, rate=lambda step: rate if step == 2 else 1.0)
    optimiser = torch.optim.SGD(PARAMETERS, lr=0.1)
    learning_rate = LearningRate(optimiser, recipe)
    optimiser.step()
    learning_rate.step()
    with pytest.raises(InputError, match=r"training\.schedule: the learning rate after 2 step"):
        learning_rate.step()


def test_an_argument_of_an_own_optimiser_is_not_nan():
    def own(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr, momentum=math.nan)

    with pytest.raises(InputError, match=r"training\.optimizer: momentum must be a number"):
        make_optimiser(torch.nn.Linear(1, 1), p.Recipe(optimizer=own))
