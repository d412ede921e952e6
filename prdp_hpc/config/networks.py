"""The section `network`: one model a kind of network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field

from prdp_hpc.config.models import Count, Section

Activation = Literal["relu", "tanh", "gelu"]


class MLPSection(Section):
    """A multilayer perceptron on the whole field: widths of its hidden layers and its
    activation.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = Field(default=(64, 64, 64), min_length=1)
    activation: Activation = "relu"


class ResNetSection(Section):
    """A convolutional residual network: its width, its residual blocks and its activation."""

    kind: Literal["resnet"]
    channels: Count = 64
    blocks: Count = 3
    activation: Activation = "relu"


class UNetSection(Section):
    """A U-Net: the width of its finest level, its coarser levels and its activation."""

    kind: Literal["unet"]
    channels: Count = 32
    depth: Count = 3
    activation: Activation = "relu"


def _with_kind(value: Any) -> Any:
    """A section that names no kind is an MLP."""
    return {"kind": "mlp", **value} if isinstance(value, dict) else value


NetworkSection = Annotated[
    Annotated[MLPSection | ResNetSection | UNetSection, Discriminator("kind")],
    BeforeValidator(_with_kind),
]
