"""Normalisation with the statistics of the whole field."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from prdp_hpc.distributed.transport import all_reduce_sum
from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition


class GroupNorm(nn.Module):
    """`y = γ_c (x − μ) / √(σ² + ε) + β_c` with mean and variance of each sample over the whole grid
    and a group of channels.

    Fields are `(B, channels, *local_shape)`. With one channel per group this is instance
    normalisation, with one group layer normalisation. It needs one all-reduce for the means and one
    for the variances (squares of differences from the mean, without cancellation). Statistics are
    at least in float32. Samples do not interact, so the result does not depend on the division of a
    batch among replicas, unlike batch normalisation.

    Parameters
    ----------
    groups : number of groups; it must divide `channels`.
    epsilon : ε, default 1e-5.

    Raises
    ------
    ValueError
        If `groups` does not divide `channels`.

    Source: Wu and He, Group Normalization, 2018; torch.nn.GroupNorm.
    """

    def __init__(
        self, partition: Partition, groups: int, channels: int, epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise InputError(
                f"{channels} channels cannot be divided into {groups} groups of the same size"
            )
        self._partition, self._groups, self._epsilon = partition, groups, epsilon
        self._count = channels // groups * math.prod(partition.shape)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, field: Tensor) -> Tensor:
        """Normalise this rank's part of a field."""
        if self._partition.comm.size == 1:
            output: Tensor = nn.functional.group_norm(
                field, self._groups, self.weight, self.bias, self._epsilon
            )
            return output
        wide = field if field.dtype == torch.float64 else field.float()
        grouped = wide.unflatten(1, (self._groups, -1))
        axes = tuple(range(2, grouped.dim()))
        centred = grouped - self._mean(grouped.sum(axes, keepdim=True))
        variance = self._mean(centred.square().sum(axes, keepdim=True))
        normal = (centred * torch.rsqrt(variance + self._epsilon)).flatten(1, 2)
        per_channel = (1, -1, *(1 for _ in field.shape[2:]))
        scaled: Tensor = normal * self.weight.view(per_channel) + self.bias.view(per_channel)
        return scaled.to(field.dtype)

    def _mean(self, partial: Tensor) -> Tensor:
        return all_reduce_sum(partial, self._partition.comm, self._partition.group) / self._count
