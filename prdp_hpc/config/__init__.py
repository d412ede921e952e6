"""Validated configs."""

from prdp_hpc.config.base import SupervisedConfig
from prdp_hpc.config.errors import ConfigError, nearest
from prdp_hpc.config.experiment import (
    CorrectorConfig,
    EmulatorConfig,
    ExperimentConfig,
    components,
    load_config,
    validate,
    write_resolved,
)
from prdp_hpc.config.inverse_tasks import FieldInversionConfig, InverseConfig
from prdp_hpc.config.paper import Paper, PaperExperiment, find_list, load_experiment, load_paper

__all__ = [
    "ConfigError",
    "CorrectorConfig",
    "EmulatorConfig",
    "ExperimentConfig",
    "FieldInversionConfig",
    "InverseConfig",
    "Paper",
    "PaperExperiment",
    "SupervisedConfig",
    "components",
    "find_list",
    "load_config",
    "load_experiment",
    "load_paper",
    "nearest",
    "validate",
    "write_resolved",
]
