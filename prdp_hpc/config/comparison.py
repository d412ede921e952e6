"""What `prdp-hpc compare` trains beside PRDP, over which seeds, and what must be saved."""

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
            "a baseline's name is a word in small letters, as plain_gmres, that no other run has, "
            f"not {name!r}"
        )
    return name


BaselineName = Annotated[str, AfterValidator(_baseline_name)]


class BaselineSection(Section):
    """A further full refinement with a solver of its own; `level` null: that of the config's full
    refinement.
    """

    solver: SolverSection
    """The solver of this baseline."""
    level: Level | None = None
    """Its level; null: that of the config's full refinement."""


class TargetSection(Section):
    """Shares (between 0 and 1) that PRDP must save; null: no target."""

    inner_iterations: Share | None = None
    """Share of the inner iterations to be saved."""
    solver_seconds: Share | None = None
    """Share of the solver's seconds to be saved."""
    total_seconds: Share | None = None
    """Share of all seconds to be saved."""


class ComparisonSection(Section):
    """Runs of a comparison: how many seeds (`seed`, `seed + 1`, …), which schedules, constant
    levels and baselines, which targets.

    `schedules` are compared with full refinement; "prdp" is always one of them.

    `targets` names what PRDP is measured against: `full` or a baseline. `seeds` null: 3, and 1 for
    an inverse problem, in which nothing is random.
    """

    seeds: Count | None = None
    """Number of seeds: `seed`, `seed + 1`, …; null: 3, or 1 for an inverse problem."""
    schedules: tuple[Literal["prdp", "gradient"], ...] = ("prdp",)
    """Schedules that are compared with full refinement."""
    constant_levels: tuple[Level, ...] = ()
    """Constant levels that are trained at as well."""
    baselines: dict[BaselineName, BaselineSection] = Field(default_factory=dict)
    """Further full refinements with other solvers, by name."""
    targets: dict[str, TargetSection] = Field(default_factory=dict)
    """Savings to be reached against `full` or a baseline, by its name."""

    @field_validator("constant_levels")
    @classmethod
    def _levels(cls, value: Any) -> Any:
        if len(set(value)) < len(value):
            raise InputError(f"constant_levels are given twice: {list(value)}")
        return value

    @property
    def further_schedules(self) -> tuple[str, ...]:
        """The schedules beside PRDP, each once."""
        return tuple(dict.fromkeys(name for name in self.schedules if name != "prdp"))

    @model_validator(mode="after")
    def _targets_exist(self) -> ComparisonSection:
        unknown = [name for name in self.targets if name != "full" and name not in self.baselines]
        if unknown:
            known = ", ".join(["full", *self.baselines])
            raise InputError(f"targets are measured against {known}; there is no {unknown[0]!r}")
        return self
