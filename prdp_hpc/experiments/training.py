"""The trainer of a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prdp_hpc.config import ExperimentConfig
from prdp_hpc.config.slots import made
from prdp_hpc.config.training import SupervisedTrainingSection
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.early_stopping import EarlyStopping
from prdp_hpc.training.trainer import Trainer

_WHEN = ("epochs", "checkpoint_every", "keep_checkpoints", "keep_best", "early_stopping")
_WHEN_IN_STEPS = ("steps", "log_every")


def build_trainer(
    config: ExperimentConfig, task: Task, folder: Path, settings: Mapping[str, Any]
) -> Trainer:
    """The trainer of a config's task. `settings` are those that a resumed run must not change."""
    training = config.training
    checkpoints = Checkpoints(folder / "checkpoints", training.keep_checkpoints, settings)
    stopping = training.early_stopping
    in_steps = isinstance(training, SupervisedTrainingSection)
    keys = ("steps", "validate_every", "log_every") if in_steps else ()
    return Trainer(
        task,
        config.refinement.build(),
        folder,
        training.epochs,
        config.name,
        checkpoints,
        training.checkpoint_every,
        early_stopping=None if stopping is None else EarlyStopping(**stopping.model_dump()),
        keep_best=training.keep_best,
        trackers=[kind(**keys) for kind, keys in (made("trackers", t) for t in config.tracking)],
        settings=config.model_dump(mode="json"),
        **{key: getattr(training, key) for key in keys},
    )


def planned(config: ExperimentConfig) -> str:
    """When training ends at the latest, as text: "100 epochs" or "5000 steps"."""
    training = config.training
    if isinstance(training, SupervisedTrainingSection) and training.steps is not None:
        return f"{training.steps} steps"
    return f"{training.epochs} epochs"


def may_change(config: ExperimentConfig) -> tuple[str, ...]:
    """Keys of `training` that a resumed run may change: when it saves, logs and ends."""
    in_steps = isinstance(config.training, SupervisedTrainingSection)
    return (*_WHEN, *(_WHEN_IN_STEPS if in_steps else ()))
