"""The settings of a run that its checkpoints record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prdp_hpc.config import ExperimentConfig
from prdp_hpc.experiments.training import may_change

_ADDED = {
    "training": {
        "optimizer": "adam",
        "loss": "squared",
        "warmup_steps": 0,
        "clip_norm": None,
        "accumulate": 1,
        "weight_decay_on": "all",
        "ema": None,
        "compile": False,
        "checkpoint_activations": False,
        "init_from": None,
        "validate_every": 1,
    },
    "solver": {"lag_preconditioner": None, "initial_guess": "zero", "precision": "float64"},
    "data": {
        "format": "hdf5",
        "test": 0,
        "streams": "shared",
        "window": None,
        "normalise": "none",
    },
    "refinement": {"theta": 0.35, "theta_noise": 1.0, "probe_share": 0.1},
    "emulator": {"chain": "mixed", "unroll": 1, "every": 1},
    "network_inputs": [],
}
"""Defaults of settings that were added later, which older checkpoints do not have."""
_ADDED_TO_FORMATS = {"segments": 1}
"""The same for the keys of `data.format`."""


def recorded_settings(config: ExperimentConfig, content: str | None = None) -> dict[str, Any]:
    """The settings that must be equal in a checkpoint and a resumed run, with the content id of the
    data, if there is one. When the run saves, logs and ends, its folder and its distribution over
    ranks may differ.
    """
    without = {"output", "parallel", "name", "comparison", "tracking", "logging"}
    settings = config.model_dump(mode="json", exclude=without)
    settings["training"] = {
        k: v for k, v in settings["training"].items() if k not in may_change(config)
    }
    # The state of the sampler contains what the stride and the steps determine.
    for key in ("stride", "steps", "in_memory"):
        settings.get("data", {}).pop(key, None)
    if content is not None:
        settings["data"]["content"] = content
    if content is None or settings["data"]["file"] is not None:
        settings.get("data", {}).pop("streams", None)
    return dict(_without_folders(_without_added(settings)))


def _without_added(settings: dict[str, Any]) -> dict[str, Any]:
    data = settings.get("data")
    if isinstance(data, dict) and isinstance(data.get("format"), dict):
        keys = data["format"].items()
        own = {k: v for k, v in keys if _ADDED_TO_FORMATS.get(k) != v}
        settings["data"] = {**data, "format": own}
    for key, default in _ADDED.items():
        if isinstance(default, dict) and isinstance(settings.get(key), dict):
            settings[key] = {
                k: v for k, v in settings[key].items() if k not in default or v != default[k]
            }
            if not settings[key]:
                del settings[key]
        elif settings.get(key) == default:
            del settings[key]
    return settings


def _without_folders(value: Any) -> Any:
    """Settings without folders of user code, which may move: `/a/my.py:Name` is `my.py:Name`."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, str) and ".py:" in value:
        where, _, name = value.rpartition(":")
        return f"{Path(where).name}:{name}"
    return value
