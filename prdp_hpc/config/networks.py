"""The section `network` of a config for the built-in networks.

`starting` is what `prdp-hpc init` writes for a network.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field

from prdp_hpc.config.models import Count, Section

Layer = dict[str, Any]
Activation = Literal["relu", "tanh", "gelu"]


class MLPSection(Section):
    """A multilayer perceptron on the whole field."""

    component: ClassVar[str] = "prdp_hpc.networks.mlp:MLP"
    starting: ClassVar[dict[str, Any]] = {"hidden": [64, 64, 64], "activation": "relu"}

    kind: str = "mlp"
    """Name of the network."""
    hidden: tuple[Count, ...] = Field(default=(64, 64, 64), min_length=1)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Activation function: relu, tanh or gelu."""

    def layers(self, shape: tuple[int, ...], inside: int, outside: int) -> list[Layer]:
        """See `prdp_hpc.planning.Layer`."""
        points = math.prod(shape)
        widths = [inside * points, *self.hidden, outside * points]
        return [_layer(2.0 * a * b, a * b + b, a, b, dense=True) for a, b in pairwise(widths)]


class ResNetSection(Section):
    """A convolutional residual network."""

    component: ClassVar[str] = "prdp_hpc.networks.resnet:ResNet"
    starting: ClassVar[dict[str, Any]] = {"channels": 16, "blocks": 2, "activation": "relu"}

    kind: str = "resnet"
    """Name of the network."""
    channels: Count = 64
    """Channels of the hidden layers."""
    blocks: Count = 3
    """Number of residual blocks, each with two convolutions."""
    activation: Activation = "relu"
    """Activation function: relu, tanh or gelu."""

    def layers(self, shape: tuple[int, ...], inside: int, outside: int) -> list[Layer]:
        """See `prdp_hpc.planning.Layer`."""
        dim, wide = len(shape), self.channels
        inner = [_convolution(dim, wide, wide) for _ in range(2 * self.blocks)]
        first = _convolution(dim, inside, wide)
        return [first, *inner, _convolution(dim, wide, outside, kernel=1)]


class UNetSection(Section):
    """A U-Net."""

    component: ClassVar[str] = "prdp_hpc.networks.unet:UNet"
    starting: ClassVar[dict[str, Any]] = {"channels": 16, "depth": 2, "activation": "relu"}

    kind: str = "unet"
    """Name of the network."""
    channels: Count = 32
    """Channels of the finest level, doubled on each coarser one."""
    depth: Count = 3
    """Number of coarser levels; a periodic axis needs a multiple of 2^depth points."""
    activation: Activation = "relu"
    """Activation function: relu, tanh or gelu."""

    def layers(self, shape: tuple[int, ...], inside: int, outside: int) -> list[Layer]:
        """See `prdp_hpc.planning.Layer`."""
        dim, wide = len(shape), self.channels
        found = _unet_level(dim, inside, wide, 0)
        for level in range(1, self.depth + 1):
            fine, coarse = wide * 2 ** (level - 1), wide * 2**level
            found += [_convolution(dim, fine, coarse, level)]
            found += _unet_level(dim, coarse, coarse, level)
        for level in reversed(range(self.depth)):
            fine, coarse = wide * 2**level, wide * 2 ** (level + 1)
            parameters = 2**dim * coarse * fine + fine
            up = _layer(2.0 * coarse * fine, parameters, coarse, fine, level, width=1)
            found += [up, *_unet_level(dim, 2 * fine, fine, level)]
        return [*found, _convolution(dim, wide, outside, kernel=1)]


def _unet_level(dim: int, channels: int, wide: int, level: int) -> list[Layer]:
    norm = _layer(10.0 * wide, 2 * wide, wide, wide, level, reductions=2)
    first = _convolution(dim, channels, wide, level)
    return [first, norm, _convolution(dim, wide, wide, level), norm]


def _convolution(dim: int, inside: int, outside: int, level: int = 0, kernel: int = 3) -> Layer:
    weights = kernel**dim * inside * outside
    width = (kernel - 1) // 2
    return _layer(2.0 * weights, weights + outside, inside, outside, level, width=width)


def _layer(
    flops: float, parameters: int, inside: int, outside: int, level: int = 0, **more: Any
) -> Layer:
    return {
        "flops": flops,
        "parameters": parameters,
        "channels_in": inside,
        "channels_out": outside,
        "level": level,
        **more,
    }
