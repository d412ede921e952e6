"""The keys of the losses."""

from __future__ import annotations

from typing import ClassVar

from prdp_hpc.config.models import Float, Positive, Section

_LOSSES = "prdp_hpc.tasks.losses"


class SquaredSection(Section):
    """The mean squared error."""

    component: ClassVar[str] = f"{_LOSSES}:Squared"


class AbsoluteSection(Section):
    """The mean absolute error."""

    component: ClassVar[str] = f"{_LOSSES}:Absolute"


class HuberSection(Section):
    """The Huber loss: quadratic for small errors, linear for large ones."""

    component: ClassVar[str] = f"{_LOSSES}:Huber"

    delta: Positive = 1.0
    """Error at which the loss changes from quadratic to linear, in the field's unit."""


class RelativeL2Section(Section):
    """The L2 norm of a sample's error relative to that of the data."""

    component: ClassVar[str] = f"{_LOSSES}:RelativeL2"


class H1Section(Section):
    """The squared error and the squared gradient of the error."""

    component: ClassVar[str] = f"{_LOSSES}:H1"

    weight: Positive = 1.0
    """Weight of the squared gradient of the error, in units of length squared."""


class SpectralSection(Section):
    """The squared error with a weight per wave number, on periodic grids."""

    component: ClassVar[str] = f"{_LOSSES}:Spectral"

    order: Float = 1.0
    """Exponent s of the weight `(1 + |k|²)^s`; negative: emphasis on large scales."""
