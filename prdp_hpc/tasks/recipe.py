"""Settings of network training: optimiser, learning rate, loss, batch size and precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prdp_hpc.errors import InputError

PRECISIONS = ("float32", "float64", "bfloat16")


def adam(parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with torch's defaults.

    The fused version is used, because for a small network a step in many small kernels takes longer
    than its forward and backward pass.
    """
    return torch.optim.Adam(parameters, lr=lr, fused=True)


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


def squared() -> Callable[[Tensor, Tensor], Tensor]:
    """The squared error of each entry, `(prediction − target)²`."""
    return lambda prediction, target: (prediction - target).square()


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
        batch, the channels and the whole grid is minimised. Default: the squared error.
    precision : {"float32", "float64", "bfloat16"}, default "float32"
        Floating-point type of the network and its fields. With "bfloat16" only the layers use it;
        parameters, fields and losses are float32.
    seed : int, default 1
        Random seed of the order of samples.

    Raises
    ------
    InputError
        For an unknown precision.

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
    loss: Callable[[Tensor, Tensor], Tensor] = field(default_factory=squared)
    precision: str = "float32"
    seed: int = 1

    def __post_init__(self) -> None:
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
