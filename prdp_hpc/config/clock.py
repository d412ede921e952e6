"""Keys of the section `training` that all tasks have: checkpoints and early stopping."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from prdp_hpc.config.intervals import EveryOrTime
from prdp_hpc.config.models import Count, Section, as_number


class EarlyStoppingSection(Section):
    """End a run when the validation error no longer falls.

    The run ends after `patience` successive validations at the current level that did not lower the
    error. A change of the level starts the count again, so a run never ends before a refinement has
    had `patience` validations to show its effect.
    """

    patience: Count = 10
    """Number of validations at one level without a lower error, then training ends."""
    min_change: Annotated[float, BeforeValidator(as_number), Field(ge=0, lt=1)] = 0.0
    """Relative decrease of the error that counts as lower, e.g. 0.01."""


class CheckpointingSection(Section):
    """Checkpoints and early stopping."""

    checkpoint_every: EveryOrTime = 1
    """Interval of checkpoints: 3 (epochs), "200 steps" or "10 minutes"."""
    keep_checkpoints: Count = 2
    """Number of checkpoints to keep, the latest ones."""
    keep_best: bool = True
    """Whether to keep the network of the lowest validation error as well."""
    early_stopping: EarlyStoppingSection | None = None
    """When to end training before the last epoch; null: never."""
