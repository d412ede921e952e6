"""Property: each key of the training section does what its description states."""

import copy

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prdp_hpc.config import ConfigError, validate
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import ConfigParts, build_recipe, build_task
from prdp_hpc.tasks.emulator import Emulator
from prdp_hpc.tasks.learning_rate import LearningRate
from prdp_hpc.tasks.recipe import Recipe

RESNET = {"kind": "resnet", "channels": 4, "blocks": 1}
PERIODIC = {"grid": {"shape": [8], "boundary": "periodic"}}


@pytest.fixture
def task_of(make_task):
    """A task of one batch per epoch."""
    return lambda changes=None, **training: make_task(
        tiny.emulator, 2, training={"batch_size": 10, **training}, **(changes or {})
    )[0]


def weights(task):
    return [parameter.detach().clone() for parameter in task.network.parameters()]


def trained(task, epochs=3):
    for epoch in range(1, epochs + 1):
        task.train_epoch(epoch)
    return task


def rates_of(recipe, steps, errors=None):
    """The rate of each step; a validation after each step if errors are given."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    rate, found = LearningRate(optimiser, recipe), []
    for step in range(steps):
        found.append(rate.value)
        optimiser.step()
        rate.step()
        if errors is not None:
            rate.after_validation(errors[step])
    return found


def test_an_optimiser_of_torch_does_its_own_steps(task_of):
    task = task_of(optimizer={"kind": "AdamW", "weight_decay": 0.5, "betas": [0.5, 0.9]})
    network = copy.deepcopy(task.network)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2, (0.5, 0.9), weight_decay=0.5)
    trained(task, 1)
    for mine, given in zip(network.parameters(), task.network.parameters(), strict=True):
        mine.grad = given.grad
    optimiser.step()
    for mine, given in zip(network.parameters(), task.network.parameters(), strict=True):
        assert torch.equal(mine, given)


def test_weight_decay_on_weights_leaves_out_biases(task_of):
    decaying = {"kind": "SGD", "weight_decay": 1.0}
    all_of_them, some = (
        task_of(optimizer=decaying, weight_decay_on=which) for which in ("all", "weights")
    )
    with torch.no_grad():
        for task in (all_of_them, some):
            for parameter in task.network.parameters():
                parameter += 1.0
    pairs = zip(*(weights(trained(task, 1)) for task in (all_of_them, some)), strict=True)
    for one, other in pairs:
        assert torch.equal(one, other) == (one.dim() > 1)


@pytest.mark.parametrize("shape", [None, [6, 6], [4, 4, 4]])
def test_lbfgs_evaluates_the_loss_several_times_per_step(shape, task_of):
    lbfgs = {"kind": "LBFGS", "max_iter": 4, "line_search_fn": "strong_wolfe"}
    fields = {"network": RESNET, "grid": {"shape": shape, "boundary": "periodic"}}
    changes = {} if shape is None else fields
    task, plain = task_of(changes, optimizer=lbfgs, learning_rate=1.0), task_of(changes)
    first, second, third = (task.train_epoch(epoch) for epoch in (1, 2, 3))
    assert first == plain.train_epoch(1)
    assert third < second < first
    numbers = task.step_numbers()
    # One solve per sample and evaluation, forward and adjoint.
    assert task.solver.report.forward.solves == 10 * numbers["evaluations"] > 30


@pytest.mark.parametrize("changes", [{}, {"network": RESNET}])
def test_accumulated_gradients_are_those_of_the_batch(changes, task_of):
    whole, parts = task_of(changes), task_of(changes, accumulate=4)
    assert parts.train_epoch(1) == pytest.approx(whole.train_epoch(1), rel=1e-13)
    assert parts.step_numbers() == pytest.approx(whole.step_numbers(), rel=1e-12)
    assert torch.allclose(parts.gradient(), whole.gradient(), rtol=1e-7, atol=1e-12)


def test_a_clipped_gradient_has_the_given_norm(task_of):
    task = trained(task_of(clip_norm=1e-3), 1)
    norm = torch.cat([p.grad.flatten() for p in task.network.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    whole = trained(task_of(), 1).step_numbers()
    assert task.step_numbers() == pytest.approx(whole)
    assert whole["gradient_norm"] > 1e-3


def test_averaged_weights_are_validated_and_stored(task_of):
    decay, task, plain = 0.75, task_of(ema=0.75), task_of()
    average = None
    for epoch in range(1, 4):
        losses = {each.train_epoch(epoch) for each in (task, plain)}
        assert len(losses) == 1
        now = weights(plain)
        average = average or now
        average = [decay * a + (1 - decay) * w for a, w in zip(average, now, strict=True)]
    stored = task.state_dict()
    for mine, given, own in zip(
        average, stored["network"].values(), task.network.parameters(), strict=True
    ):
        assert torch.allclose(mine, given, rtol=1e-13)
        assert not torch.equal(given, own)
    plain.load_network(stored["network"])
    assert plain.validate() == task.validate()
    other = task_of(ema=0.75)
    other.load_network(stored["network"])
    assert other.validate() == task.validate()


@pytest.mark.parametrize("changes", [{}, {"network": RESNET, **PERIODIC}])
def test_recomputed_activations_change_no_bit(changes, task_of):
    plain, recomputed = task_of(changes), task_of(changes, checkpoint_activations=True)
    assert torch.equal(plain.gradient(), recomputed.gradient())
    chain = {"emulator": {"chain": "rollout", "unroll": 2}, **changes}
    plain, recomputed = task_of(chain), task_of(chain, checkpoint_activations=True)
    assert torch.equal(plain.gradient(), recomputed.gradient())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"solver": {"differentiation": "unrolled"}},
        {"solver": {"initial_guess": "state"}, "emulator": {"chain": "diverted", "unroll": 2}},
        {"physics": {"pde": "burgers", "viscosity": 1e-2, "dt": 0.1}, **PERIODIC},
        {"make": tiny.corrector, "network": RESNET},
    ],
)
def test_recomputed_steps_change_no_bit_and_are_counted(changes, make_task):
    changes = dict(changes)
    make = changes.pop("make", tiny.emulator)
    tasks, stored = [], []
    for again in (False, "steps"):
        training = {"batch_size": 10, "checkpoint_activations": again}
        task, _ = make_task(make, 2, training=training, **changes)
        task.solver.report.reset()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor.numel()) or tensor, lambda t: t
        ):
            task.local_loss(task._batch(np.arange(4)))
        tasks.append(task)
        stored.append(sum(saved))
    assert stored[1] < stored[0]
    plain, recomputed = tasks
    assert torch.equal(plain.gradient(), recomputed.gradient())
    reports = [task.solver.report for task in tasks]
    # Of the loss above without a gradient nothing was computed again.
    for task in tasks:
        task.solver.report.reset()
        task.train_epoch(1)
    once, twice = reports
    assert once.recomputed.iterations == 0
    assert twice.recomputed.solves > 0
    for name in ("solves", "iterations"):
        forward = getattr(once.forward, name)
        assert getattr(twice.recomputed, name) == getattr(twice.forward, name) - forward
        assert getattr(twice.adjoint, name) == getattr(once.adjoint, name)
    assert trained(plain, 2).validate() == trained(recomputed, 2).validate()


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ({"initial_guess": "last"}, r"solver\.initial_guess=last starts from"),
        ({"lag_preconditioner": 2}, r"solver\.lag_preconditioner keeps"),
    ],
)
def test_steps_with_a_memory_cannot_be_recomputed(solver, message, mesh, tmp_path):
    training = {"checkpoint_activations": "steps"}
    config = validate(tiny.emulator(tmp_path, training=training, solver=solver), "here")
    with pytest.raises(InputError, match=message):
        build_task(config, mesh)


def test_recomputation_stores_fewer_tensors(task_of):
    counts = []
    for again in (False, True):
        task, saved = task_of({"network": RESNET}, checkpoint_activations=again), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor.numel()) or tensor, lambda t: t
        ):
            task.network_on(task.validation[:, 0])
        counts.append(sum(saved))
    assert counts[1] < counts[0] / 2


def test_running_statistics_cannot_be_recomputed(task_of, mesh, tmp_path):
    config = validate(tiny.emulator(tmp_path, training={"checkpoint_activations": True}), "here")
    parts = ConfigParts(config, mesh)
    network = nn.Sequential(nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1))
    with pytest.raises(InputError, match="layer 1 has running statistics"):
        Emulator(parts.stepper(), network, parts.data, mesh, build_recipe(config))


def test_warm_up_precedes_any_schedule():
    warm = Recipe(learning_rate=0.8, warmup_steps=3, rate=lambda step: 0.5**step)
    assert rates_of(warm, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.4, 0.2])
    step = Recipe(
        learning_rate=0.8,
        warmup_steps=1,
        scheduler=lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.1),
    )
    assert rates_of(step, 6) == pytest.approx([0.4, 0.8, 0.8, 0.08, 0.08, 0.008])


def test_plateau_lowers_the_rate_when_errors_stop_falling():
    plateau = Recipe(
        learning_rate=1.0,
        scheduler=lambda optimiser: torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, factor=0.5, patience=0
        ),
    )
    errors = [1.0, 0.5, 0.5, 0.1, 0.2, 0.3]
    assert rates_of(plateau, 6, errors) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_a_schedule_that_has_ended_is_an_input_error(task_of):
    task = task_of(schedule={"kind": "OneCycleLR", "max_lr": 0.1, "total_steps": 2})
    with pytest.raises(InputError, match=r"training\.schedule: .*total"):
        trained(task, 3)


def test_steps_of_the_endless_sequence_are_those_of_epochs(make_task):
    tasks = [make_task(tiny.emulator, 2)[0] for _ in range(2)]
    assert tasks[0].steps_per_epoch == 3
    losses = [tasks[0].train_epoch(epoch) for epoch in (1, 2, 3)]
    steps = [tasks[1].train_steps(step, step + 1) for step in range(4)]
    assert np.mean(steps[:3]) == losses[0]
    rest = tasks[1].train_steps(4, 9)
    assert np.sum(steps) + 5 * rest == pytest.approx(3 * np.sum(losses), rel=1e-14)
    assert tasks[0].validate() == tasks[1].validate()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"optimizer": {"kind": "AdamW", "weight_deca": 1}}, "did you mean 'weight_decay'?"),
        ({"optimizer": {"kind": "AdamW", "lr": 1}}, r"training\.optimizer\.lr: unknown key"),
        ({"optimizer": {"kind": "AdamW", "amsgrad": "maybe"}}, r"amsgrad: .*, not 'maybe'"),
        ({"optimizer": "Adamm"}, "'Adamm' is not known here"),
        ({"schedule": {"kind": "StepLR"}}, r"training\.schedule\.step_size: must be given"),
        ({"schedule": "LinearLR", "decay": 0.5}, "only the schedules exponential and cosine"),
        ({"optimizer": {"kind": "AdamW", "weight_decay": -1}}, r"weight_decay: .*0, not -1"),
        ({"loss": {"kind": "huber", "delta": 0}}, r"training\.loss\.delta: must be greater"),
        ({"ema": 1.0}, r"training\.ema: must be less than 1"),
        ({"accumulate": 0}, r"training\.accumulate"),
    ],
)
def test_wrong_keys_are_named(training, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        validate(tiny.emulator(tmp_path, training=training), "here")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"schedule": {"kind": "StepLR", "step_size": "a"}}, r"training\.schedule: "),
        ({"optimizer": "Rprop", "weight_decay_on": "weights"}, "Rprop has no weight decay"),
        ({"optimizer": "LBFGS", "clip_norm": 1.0}, r"training\.clip_norm: LBFGS"),
        ({"loss": "spectral"}, r"needs grid\.boundary=periodic"),
    ],
)
def test_wrong_values_are_input_errors(training, message, task_of):
    with pytest.raises(InputError, match=message):
        trained(task_of(**training), 2)
