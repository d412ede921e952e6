"""The settings of a run that its checkpoints record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prdp_hpc.config import ExperimentConfig
from prdp_hpc.config.training import SupervisedTrainingSection

_WHEN = ("epochs", "checkpoint_every", "keep_checkpoints", "keep_best", "early_stopping")
_WHEN_IN_STEPS = ("steps", "log_every")

ADDED: dict[str, Any] = {
    "training.optimizer": "adam",
    "training.loss": "squared",
    "training.warmup_steps": 0,
    "training.clip_norm": None,
    "training.accumulate": 1,
    "training.weight_decay_on": "all",
    "training.ema": None,
    "training.compile": False,
    "training.checkpoint_activations": False,
    "training.init_from": None,
    "training.validate_every": 1,
    "solver.lag_preconditioner": None,
    "solver.initial_guess": "zero",
    "solver.precision": "float64",
    "data.format": "hdf5",
    "data.format.segments": 1,
    "data.test": 0,
    "data.streams": "shared",
    "data.window": None,
    "data.normalise": "none",
    "refinement.theta": 0.35,
    "refinement.theta_noise": 1.0,
    "refinement.probe_share": 0.1,
    "emulator.chain": "mixed",
    "emulator.unroll": 1,
    "emulator.every": 1,
    "network_inputs": [],
}
"""Settings that were added later, with the values that runs without them had."""


def recorded_settings(config: ExperimentConfig, content: str | None = None) -> dict[str, Any]:
    """The settings that must be equal in a checkpoint and a resumed run, with the content id of the
    data, if there is one. When the run saves, logs and ends, its folder and its distribution over
    ranks may differ.
    """
    without = {"output", "parallel", "name", "comparison", "tracking", "logging"}
    settings = config.model_dump(mode="json", exclude=without)
    settings["training"] = {
        k: v for k, v in settings["training"].items() if k not in _may_change(config)
    }
    # The state of the sampler contains what the stride and the steps determine.
    for key in ("stride", "steps", "in_memory"):
        settings.get("data", {}).pop(key, None)
    if content is not None:
        settings["data"]["content"] = content
    if content is None or settings["data"]["file"] is not None:
        settings.get("data", {}).pop("streams", None)
    return dict(_without_folders(settings))


def _may_change(config: ExperimentConfig) -> tuple[str, ...]:
    """Keys of `training` that a resumed run may change: when it saves, logs and ends."""
    in_steps = isinstance(config.training, SupervisedTrainingSection)
    return (*_WHEN, *(_WHEN_IN_STEPS if in_steps else ()))


def _without_folders(value: Any) -> Any:
    """Settings without folders of user code, which may move: `/a/my.py:Name` is `my.py:Name`."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, str) and ".py:" in value:
        where, _, name = value.rpartition(":")
        return f"{Path(where).name}:{name}"
    return value
