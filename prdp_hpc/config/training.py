"""The section `training` of the tasks that train a network, and of the inverse problem."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from prdp_hpc.config.clock import CheckpointingSection
from prdp_hpc.config.intervals import Every
from prdp_hpc.config.models import Count, Positive, as_number


class SupervisedTrainingSection(CheckpointingSection):
    """Training of a network.

    `schedule` is "exponential", for the rate `learning_rate · decay^(step / decay_steps)`, or
    "cosine", for half a cosine wave from `learning_rate` to `decay · learning_rate` in
    `decay_steps` steps and a constant rate after them.

    User-defined components: `optimizer` is created by `Name(parameters, lr=learning_rate, **keys)`,
    e.g. `{kind: "torch.optim:SGD", momentum: 0.9}`. `schedule` is created by `Name(**keys)`; it is
    called with the number of completed steps and returns a multiple of `learning_rate`. `loss` is
    created by `Name(**keys)`; it is called with prediction and target of the same shape and returns
    the loss of each entry in that shape.
    """

    epochs: Count = 100
    """Number of epochs, i.e. passes over the training data."""
    steps: Count | None = None
    """Number of steps of the optimiser, instead of epochs; null: `epochs` applies."""
    validate_every: Every = 1
    """Interval of validations, after which the level may change: 2 or "500 steps"."""
    log_every: Count | None = None
    """Steps between two lines of `steps.jsonl`; null: none are written."""
    batch_size: Count = 25
    """Samples per step of the optimiser, divided among the replicas."""
    learning_rate: Positive = 1e-3
    """Initial learning rate."""
    optimizer: str = "adam"
    """Optimiser: adam, or a class in user code."""
    loss: str = "squared"
    """Loss per entry: squared (mean squared error), or in user code."""
    schedule: str = "exponential"
    """Schedule of the learning rate: exponential, cosine, or in user code."""
    decay: Annotated[float, BeforeValidator(as_number), Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate after `decay_steps` steps; 1: constant."""
    decay_steps: Count = 100
    """Number of steps after which the rate is `decay · learning_rate`."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Floating-point type of the network; bfloat16: layers only, rest in float32."""


class InverseTrainingSection(CheckpointingSection):
    """Gradient descent with one step per epoch."""

    epochs: Count = 180
    """Number of epochs, i.e. of gradient steps."""
    learning_rate: Positive = 275.0
    """Learning rate of gradient descent; constant."""
