"""The trainer of a config."""

from __future__ import annotations

from pathlib import Path

from prdp_hpc.config import ExperimentConfig
from prdp_hpc.config.slots import made
from prdp_hpc.config.training import SupervisedTrainingSection
from prdp_hpc.experiments.recorded import ADDED, recorded_settings
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.early_stopping import EarlyStopping
from prdp_hpc.training.trainer import Trainer


def build_trainer(
    config: ExperimentConfig, task: Task, folder: Path, content: str | None
) -> Trainer:
    """The trainer of a config's task; `content` is the content id of its data."""
    training = config.training
    settings = recorded_settings(config, content)
    checkpoints = Checkpoints(folder / "checkpoints", training.keep_checkpoints, settings, ADDED)
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
