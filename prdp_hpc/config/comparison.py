"""The section `comparison` of a config: variants, seeds and targets of `prdp-hpc compare`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from prdp_hpc.config.models import Count, Level, Section, Share, SolverSection
from prdp_hpc.errors import InputError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OWN_NAMES = re.compile(r"prdp|gradient|full|constant_.*|seed_.*|figures")


def _baseline_name(name: str) -> str:
    if not _NAME.fullmatch(name) or _OWN_NAMES.fullmatch(name):
        raise InputError(
            "a baseline's name must be a word in lower-case letters that no other run has, e.g. "
            f"plain_gmres, not {name!r}"
        )
    return name


BaselineName = Annotated[str, AfterValidator(_baseline_name)]


class BaselineSection(Section):
    """A further variant with full refinement and another solver."""

    solver: SolverSection
    """Linear solver of this variant."""
    level: Level | None = None
    """Constant level of this variant; null: that of full refinement."""


class TargetSection(Section):
    """Savings that PRDP must reach, as shares between 0 and 1."""

    inner_iterations: Share | None = None
    """Share of forward and adjoint iterations to be saved; null: no target."""
    solver_seconds: Share | None = None
    """Share of the time in the solver to be saved; null: no target."""
    total_seconds: Share | None = None
    """Share of the total time to be saved; null: no target."""


class ComparisonSection(Section):
    """The variants of a comparison, its seeds and its targets."""

    seeds: Count | None = None
    """Number of seeds: `seed`, `seed + 1`, …; null: 3, or 1 for inverse problems."""
    schedules: tuple[Literal["prdp", "gradient"], ...] = ("prdp",)
    """Schedules to compare with full refinement; "prdp" is always included."""
    constant_levels: tuple[Level, ...] = ()
    """Constant levels to train with as well, forward and adjoint, e.g. [1, 3, 10]."""
    baselines: dict[BaselineName, BaselineSection] = Field(default_factory=dict)
    """Further variants by name: full refinement with another solver."""
    in_turns: bool = False
    """Train the runs of a seed in turns, for their times on a busy machine."""
    targets: dict[str, TargetSection] = Field(default_factory=dict)
    """Savings to be reached against `full` or a baseline, by its name."""

    @field_validator("constant_levels")
    @classmethod
    def _levels(cls, value: Any) -> Any:
        if len(set(value)) < len(value):
            raise InputError(f"constant_levels must all be different, not {list(value)}")
        return value

    @property
    def further_schedules(self) -> tuple[str, ...]:
        """The schedules other than PRDP, without duplicates."""
        return tuple(dict.fromkeys(name for name in self.schedules if name != "prdp"))

    @model_validator(mode="after")
    def _targets_exist(self) -> ComparisonSection:
        unknown = [name for name in self.targets if name != "full" and name not in self.baselines]
        if unknown:
            known = ", ".join(["full", *self.baselines])
            raise InputError(f"targets are measured against {known}; there is no {unknown[0]!r}")
        return self
