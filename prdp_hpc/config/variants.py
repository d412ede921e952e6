"""The variants of a comparison."""

from __future__ import annotations

from prdp_hpc.config.experiment import ExperimentConfig
from prdp_hpc.config.refinement import RefinementSection


def variants(config: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """Return the configs of a comparison by name: `prdp`, `full`, further schedules,
    `constant_<level>` and the baselines.
    """
    full = config.refinement.full_level
    found = {"prdp": _refined(config, config.refinement.model_copy(update={"schedule": "prdp"}))}
    # Only keys that affect full refinement, so that changed PRDP thresholds cause no new training.
    found["full"] = _refined(
        config,
        RefinementSection(
            schedule="constant", level=full, adjoint_ladder=config.refinement.adjoint_ladder
        ),
    )
    for name in config.comparison.further_schedules:
        found[name] = _refined(config, config.refinement.model_copy(update={"schedule": name}))
    for level in config.comparison.constant_levels:
        # A manual schedule does not change the level of full refinement, at which correctors are
        # validated.
        found[f"constant_{level:g}"] = _refined(
            config, RefinementSection(schedule="manual", manual={0: level}, level=full)
        )
    for name, baseline in config.comparison.baselines.items():
        level = full if baseline.level is None else baseline.level
        refined = _refined(config, RefinementSection(schedule="constant", level=level))
        found[name] = refined.model_copy(update={"solver": baseline.solver})
    return found


def _refined(config: ExperimentConfig, refinement: RefinementSection) -> ExperimentConfig:
    return config.model_copy(update={"refinement": refinement})
