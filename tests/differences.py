"""Finite differences of a task's loss along random directions of its network's parameters."""

import pytest
import torch


def check_gradient(fresh_task, directions=3, step=1e-5):
    """`fresh_task()` returns a task in the same state each time, whose epoch is one batch."""

    def loss(shift=0.0, direction=()):
        task = fresh_task()
        parameters = list(task.network.parameters())
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=False):
                parameter += shift * along
        return task.train_epoch(
            1
        ), parameters  # one batch: the loss and the gradient are those before the step

    _, parameters = loss()
    gradients = [parameter.grad for parameter in parameters]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    for seed in range(directions):
        torch.manual_seed(seed)
        direction = [torch.randn_like(parameter) for parameter in parameters]
        expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
        difference = (loss(step, direction)[0] - loss(-step, direction)[0]) / (2 * step)
        assert difference == pytest.approx(expected, rel=1e-6)
