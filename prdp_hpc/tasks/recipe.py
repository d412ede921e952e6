"""How a network is trained: optimiser, learning rate, loss, batch, precision."""

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

    Fused: a step in many small kernels costs a small network more than forward and backward.
    """
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def exponential(decay: float = 1.0, decay_steps: int = 100) -> Callable[[int], float]:
    """The learning rate after a number of steps, as a multiple of the first one:
    `decay^(step / decay_steps)`.
    """
    return lambda step: decay ** (step / decay_steps)


def cosine(decay: float = 1.0, decay_steps: int = 100) -> Callable[[int], float]:
    """`decay + (1 − decay) (1 + cos(π step / decay_steps)) / 2` until `decay_steps`, then
    `decay`.
    """
    return lambda step: (
        decay + (1.0 - decay) * (1.0 + math.cos(math.pi * min(step / decay_steps, 1.0))) / 2.0
    )


def squared() -> Callable[[Tensor, Tensor], Tensor]:
    """`(prediction − target)²`, entry by entry."""
    return lambda prediction, target: (prediction - target).square()


@dataclass(frozen=True)
class Recipe:
    """How the network of a supervised task is trained.

    Attributes
    ----------
    batch_size : samples per step, of all replicas together.
    learning_rate : of the first step.
    optimizer : `optimizer(parameters, lr=learning_rate)`, e.g. `torch.optim.SGD`; default: fused
        Adam.
    rate : the learning rate after `n` steps is `rate(n) · learning_rate`; default: constant.
    loss : `loss(prediction, target)`, both `(b, C, *local_shape)`, gives the loss of each entry in
        that shape, e.g. `torch.nn.HuberLoss(reduction="none")`; the mean over the batch, the
        channels and the whole grid is minimised. Default: the square of the difference.
    precision : of the network and its fields: "float32" (default), "float64", or "bfloat16", in
        which the layers run while parameters, fields and losses stay in float32.
    seed : of the order of samples.

    Raises
    ------
    ValueError
        For an unknown precision.
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
        """Of parameters, fields and losses."""
        dtype: torch.dtype = getattr(torch, "float32" if self.autocast else self.precision)
        return dtype

    @property
    def autocast(self) -> torch.dtype | None:
        """In which the layers run, where it is another one."""
        return torch.bfloat16 if self.precision == "bfloat16" else None
