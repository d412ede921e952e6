"""The section `training` of the tasks that train a network, and of the inverse problem."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from prdp_hpc.config.clock import CheckpointingSection
from prdp_hpc.config.intervals import Every
from prdp_hpc.config.models import Count, Positive, Share, as_number
from prdp_hpc.errors import InputError


class SupervisedTrainingSection(CheckpointingSection):
    """Training of a network.

    `schedule` is "exponential", for the rate `learning_rate · decay^(step / decay_steps)`,
    "cosine", for half a cosine wave from `learning_rate` to `decay · learning_rate` in
    `decay_steps` steps and a constant rate after them, or "plateau", which lowers the rate when the
    validation error stops falling. Classes of `torch.optim` and `torch.optim.lr_scheduler` are
    named as in torch, with their arguments as keys, e.g. `{kind: AdamW, weight_decay: 0.1}`. See
    docs/howto/training.md.

    User-defined components: `optimizer` is created by `Name(parameters, lr=learning_rate, **keys)`,
    e.g. `{kind: "torch.optim:SGD", momentum: 0.9}`. `schedule` is created by `Name(**keys)`; it is
    called with the number of completed steps and returns a multiple of `learning_rate`. A subclass
    of `LRScheduler` of torch is created by `Name(optimizer, **keys)` instead. `loss` is
    created by `Name(**keys)`; it is called with prediction and target of the same shape and returns
    the loss of each entry in that shape, or it is a loss of whole fields, see
    `prdp_hpc.tasks.losses.FieldLoss`.
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
    """Optimiser: adam, a class of torch.optim by its name, or in user code."""
    loss: str = "squared"
    """Loss: squared, absolute, huber, relative_l2, h1, spectral, or in user code."""
    schedule: str = "exponential"
    """Learning rate: exponential, cosine, plateau, torch's name, or in user code."""
    decay: Annotated[float, BeforeValidator(as_number), Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate after `decay_steps` steps; 1: constant."""
    decay_steps: Count = 100
    """Number of steps after which the rate is `decay · learning_rate`."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Floating-point type of the network; bfloat16: layers only, rest in float32."""
    warmup_steps: Annotated[int, Field(ge=0, strict=True)] = 0
    """Steps in which the rate rises linearly to the first one of the schedule."""
    clip_norm: Positive | None = None
    """Largest 2-norm of the gradient over all parameters; null: not limited."""
    accumulate: Count = 1
    """Parts of a batch whose gradients are computed in turn and added."""
    weight_decay_on: Literal["all", "weights"] = "all"
    """Parameters with weight decay; weights: none on biases and normalisations."""
    ema: Share | None = None
    """Decay of the averaged weights that are validated and stored; null: none."""
    compile: bool | str = False
    """Compile the network by torch.compile: true, or the name of a backend."""
    checkpoint_activations: bool | Literal["steps"] = False
    """Compute activations again in the backward pass; steps: also solver steps."""
    init_from: str | None = None
    """Run folder whose last weights are the initial ones; null: from the seed."""

    @model_validator(mode="after")
    def _decay_of_its_schedule(self) -> Self:
        kind = self.schedule if isinstance(self.schedule, str) else self.schedule.kind
        changed = [k for k in ("decay", "decay_steps") if getattr(self, k) != _default(k)]
        if changed and kind not in ("exponential", "cosine"):
            raise InputError(
                f"{changed[0]}: only the schedules exponential and cosine use it: give the keys of "
                f"{kind} as schedule: {{kind: {kind}, key: value}}"
            )
        return self


def _default(key: str) -> Any:
    return SupervisedTrainingSection.model_fields[key].default


class InverseTrainingSection(CheckpointingSection):
    """Gradient descent with one step per epoch."""

    epochs: Count = 180
    """Number of epochs, i.e. of gradient steps."""
    learning_rate: Positive = 275.0
    """Learning rate of gradient descent; constant."""
