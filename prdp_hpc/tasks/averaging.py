"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from prdp_hpc.distributed.shards import is_shard, local


class WeightAverage:
    """The average `a ← decay · a + (1 − decay) · w` of the weights w after each step.

    The average starts at the weights after the first step, as in
    `torch.optim.swa_utils.AveragedModel`.

    Parameters
    ----------
    network : the network that is trained.
    decay : weight of the earlier average, from 0 to 1.

    Attributes
    ----------
    steps : number of steps that are averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._parameters = list(network.parameters())
        # Of a sharded network, this rank's parts.
        self._average = [local(parameter).clone() for parameter in self._parameters]
        self._update = get_ema_multi_avg_fn(decay)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step."""
        if self.steps == 0:
            self.reset()
        else:
            self._update(self._average, [local(p) for p in self._parameters], self.steps)
        self.steps += 1

    @torch.no_grad()
    def reset(self) -> None:
        """Set the average to the present weights."""
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.copy_(local(parameter))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Return a context in which the network has the average as its weights."""
        if any(is_shard(parameter) for parameter in self._parameters):
            self._exchange()
            try:
                yield
            finally:
                self._exchange()
            return
        weights = [parameter.data for parameter in self._parameters]
        try:
            for parameter, average in zip(self._parameters, self._average, strict=True):
                parameter.data = average
            yield
        finally:
            for parameter, weight in zip(self._parameters, weights, strict=True):
                parameter.data = weight

    @torch.no_grad()
    def _exchange(self) -> None:
        """Exchange the numbers of the average and of the weights, whose memory cannot be replaced
        if they are parts.
        """
        for parameter, average in zip(self._parameters, self._average, strict=True):
            own = local(parameter)
            weight = own.clone()
            own.copy_(average)
            average.copy_(weight)
