"""Settings of network training: optimiser, learning rate, loss, batch size and precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count, check_number
from prdp_hpc.tasks.losses import FieldLoss, Loss, Squared

Precision = Literal["float32", "float64", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DECAYED = ("all", "weights")


def adam(parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with torch's defaults.

    The fused version is used, because for a small network a step in many small kernels takes longer
    than its forward and backward pass; it does not exist for complex parameters.
    """
    given = list(parameters)
    is_real = not any(parameter.is_complex() for parameter in given)
    return torch.optim.Adam(given, lr=lr, fused=is_real)


def exponential(decay: float = 1.0, decay_steps: int = 100) -> Callable[[int], float]:
    """The learning rate after a number of steps relative to the initial one,
    `decay^(step / decay_steps)`.
    """
    return lambda step: decay ** (step / decay_steps)


def cosine(decay: float = 1.0, decay_steps: int = 100) -> Callable[[int], float]:
    """The learning rate after a number of steps relative to the initial one,
    `decay + (1 − decay) (1 + cos(π step / decay_steps)) / 2` until `decay_steps`, then `decay`.
    """
    return lambda step: (
        decay + (1.0 - decay) * (1.0 + math.cos(math.pi * min(step / decay_steps, 1.0))) / 2.0
    )


@dataclass(frozen=True)
class Recipe:
    """Settings of the training of a network.

    A `SupervisedTask` reads its optimiser, learning rate, loss, batch size and precision from it.

    Parameters
    ----------
    batch_size : int, default 25
        Samples per step of the optimiser, of all replicas together.
    learning_rate : float, default 1e-3
        Initial learning rate.
    optimizer : callable, optional
        The optimiser is created by `optimizer(parameters, lr=learning_rate)`, e.g.
        `torch.optim.SGD`. Default: fused Adam.
    rate : callable, optional
        The learning rate after `n` steps is `rate(n) · learning_rate`. Default: constant.
    loss : callable, optional
        `loss(prediction, target)` with two tensors of shape `(b, C, *local_shape)` returns the loss
        of each entry in that shape, e.g. `torch.nn.HuberLoss(reduction="none")`. The mean over the
        batch, the channels and the whole grid is minimised. Or a `FieldLoss`, see
        `prdp_hpc.tasks.losses`. Default: the squared error.
    precision : {"float32", "float64", "bfloat16"}, default "float32"
        Floating-point type of the network and its fields. With "bfloat16" only the layers use it;
        parameters, fields and losses are float32.
    seed : int, default 1
        Random seed of the order of samples, and of torch's generators, e.g. for dropout; each
        replica has its own stream.
    scheduler : callable, optional
        `scheduler(optimiser)` creates a schedule of `torch.optim.lr_scheduler`, which replaces
        `rate`. `ReduceLROnPlateau` receives the validation errors. Default: none.
    warmup_steps : int, default 0
        Steps in which the learning rate rises linearly to the first one of the schedule.
    clip_norm : float, optional
        Largest 2-norm of the gradient over all parameters; a larger one is scaled down. Default:
        none.
    accumulate : int, default 1
        Number of parts of a batch whose gradients are computed one after the other and added.
    ema : float, optional
        Decay of the moving average of the weights, from 0 to 1, with which the network is validated
        and stored. Default: no average.
    weight_decay_on : {"all", "weights"}, default "all"
        Parameters to which the optimiser's weight decay applies: "weights" are those with two or
        more axes, without biases and normalisations.
    compile : bool or str, default False
        Whether `torch.compile` compiles the network, or the backend that does.
    checkpoint_activations : bool or "steps", default False
        Whether the backward pass computes the network's activations again instead of storing them;
        "steps": also the time steps of the solver. Their solves count as forward solves again, and
        separately in `solver.report.recomputed`.

    Raises
    ------
    InputError
        For an unknown precision, or a number out of range.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Recipe
    >>> recipe = Recipe(batch_size=8, optimizer=torch.optim.SGD, rate=lambda step: 0.99**step)
    >>> recipe.dtype, recipe.learning_rate
    (torch.float32, 0.001)
    """

    batch_size: int = 25
    learning_rate: float = 1e-3
    optimizer: Callable[..., torch.optim.Optimizer] = adam
    rate: Callable[[int], float] = field(default_factory=exponential)
    loss: Loss | FieldLoss = field(default_factory=Squared)
    precision: Precision = "float32"
    seed: int = 1
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None
    warmup_steps: int = 0
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    weight_decay_on: Literal["all", "weights"] = "all"
    compile: bool | str = False
    checkpoint_activations: bool | Literal["steps"] = False

    def __post_init__(self) -> None:
        for key, least in (("batch_size", 1), ("warmup_steps", 0), ("accumulate", 1), ("seed", 0)):
            check_count(key, getattr(self, key), least)
        check_number("learning_rate", self.learning_rate, above=0)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        if self.ema is not None:
            check_number("ema", self.ema, above=0, below=1)
        for key, wrong, wanted in (
            ("weight_decay_on", self.weight_decay_on not in DECAYED, f"one of {DECAYED}"),
            (
                "checkpoint_activations",
                self.checkpoint_activations not in (False, True, "steps"),
                "false, true or steps",
            ),
        ):
            if wrong:
                raise InputError(f"{key}: must be {wanted}, not {getattr(self, key)!r}")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision: {self.precision!r} is not known; choose one of {', '.join(PRECISIONS)}"
            )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of parameters, fields and losses."""
        dtype: torch.dtype = getattr(torch, "float32" if self.autocast else self.precision)
        return dtype

    @property
    def autocast(self) -> torch.dtype | None:
        """Floating-point type of the layers if it differs from `dtype`, or None."""
        return torch.bfloat16 if self.precision == "bfloat16" else None
