"""Multi-layer perceptron on whole fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks.activations import Activation, activation_of
from prdp_hpc.number_checks import check_count


class MLP(nn.Module):
    """A multilayer perceptron over the flattened field: `Linear → activation → … → Linear`.

    It maps a field of shape `(B, C, *shape)`, with `C · prod(shape) = in_features`, to one of shape
    `(B, C', *shape)`, with `C' · prod(shape) = out_features`. Weights and biases are initialised
    uniformly in ±1/√fan_in: torch's default, and that of Equinox, which the paper's code uses.

    Parameters
    ----------
    in_features : int
        Numbers of an input field, over all channels and points.
    out_features : int
        Numbers of an output field.
    hidden : sequence of int
        Widths of the hidden layers.
    activation : {"relu", "tanh", "gelu"}, default "relu"
        The activation.

    Raises
    ------
    InputError
        For a width below 1 or an unknown activation; in a call, for a field of another size.

    Notes
    -----
    Source: PRDP (Bhatia, Koehler and Thuerey, ICLR 2025), heat emulators.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import MLP
    >>> network = MLP(30, 30, hidden=[64, 64, 64])
    >>> network(torch.ones(2, 1, 30)).shape
    torch.Size([2, 1, 30])
    """

    @classmethod
    def build(
        cls,
        partition: Partition,
        in_channels: int,
        out_channels: int,
        hidden: Sequence[int],
        activation: Activation = "relu",
    ) -> MLP:
        """Make the perceptron for whole fields of a grid."""
        points = math.prod(partition.shape)
        return cls(in_channels * points, out_channels * points, hidden, activation)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int],
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        for width in hidden:
            check_count("an entry of network.hidden", width)
        widths = [in_features, *hidden, out_features]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation_of(activation)]
        self.in_features = in_features
        self.out_features = out_features
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, field: Tensor) -> Tensor:
        """Map fields `(B, C, *shape)` to fields `(B, C', *shape)`."""
        if field.ndim < 2 or math.prod(field.shape[1:]) != self.in_features:
            raise InputError(
                f"the field has shape {tuple(field.shape)}, but the MLP needs (B, C, *shape) with "
                f"{self.in_features} values"
                " per sample; build it for this grid"
            )
        shape = field.shape[2:]
        channels, rest = divmod(self.out_features, math.prod(shape))
        if rest:
            raise InputError(
                f"{self.out_features} output values do not fill channels of shape {tuple(shape)}"
            )
        output: Tensor = self.layers(torch.flatten(field, 1))
        return output.reshape(field.shape[0], channels, *shape)
