"""The sections `tracking` and `logging`: where the metrics and messages of a run go."""

from __future__ import annotations

from typing import ClassVar, Literal

from prdp_hpc.config.models import Section


class TensorBoardSection(Section):
    """Metrics for TensorBoard, in `tensorboard/` in the run folder; it has no keys."""

    component: ClassVar[str] = "prdp_hpc.training.trackers.tensorboard:TensorBoard"


class WandBSection(Section):
    """Metrics for Weights & Biases."""

    component: ClassVar[str] = "prdp_hpc.training.trackers.wandb:WandB"

    project: str | None = None
    """Project; null: that of the environment (`WANDB_PROJECT`)."""
    entity: str | None = None
    """User or team; null: that of the account."""
    mode: Literal["online", "offline"] | None = None
    """Offline: only files, for `wandb sync`; null: `WANDB_MODE`, or online."""
    group: str | None = None
    """Group of runs; null: that of the environment (`WANDB_RUN_GROUP`), or none."""
    tags: tuple[str, ...] = ()
    """Tags of the run; none: those of the environment (`WANDB_TAGS`)."""


class MLflowSection(Section):
    """Metrics for MLflow."""

    component: ClassVar[str] = "prdp_hpc.training.trackers.mlflow:MLflow"

    uri: str | None = None
    """Address, e.g. http://host:5000 or file:runs/mlflow; null: see `MLflow`."""
    experiment: str | None = None
    """Experiment; null: `MLFLOW_EXPERIMENT_NAME`, or "prdp-hpc"."""


class LoggingSection(Section):
    """Log files in `logs/` in the run folder."""

    level: Literal["debug", "info", "warning", "error"] | None = None
    """Least level of messages; null: no files, or info with `per_rank`."""
    per_rank: bool = False
    """Whether each rank writes a file, instead of rank 0 only."""

    @property
    def least(self) -> str | None:
        """Least level of messages in the files; None: no files are written."""
        return self.level or ("info" if self.per_rank else None)
