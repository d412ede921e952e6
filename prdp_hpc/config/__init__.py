"""Validated configs."""

from prdp_hpc.config.errors import ConfigError, nearest
from prdp_hpc.config.experiment import EmulatorConfig, ExperimentConfig, InverseConfig, load_config, validate, write_resolved

__all__ = [
    "ConfigError",
    "EmulatorConfig",
    "ExperimentConfig",
    "InverseConfig",
    "load_config",
    "nearest",
    "validate",
    "write_resolved",
]
