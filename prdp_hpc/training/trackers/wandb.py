"""Metrics for Weights & Biases."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prdp_hpc.files import load_json, write_json
from prdp_hpc.training.trackers.tracker import Numbers, TrackedRun, missing


class WandB:
    """Sends the numbers of a run to Weights & Biases.

    Files are written to `wandb/` in the run folder. A resumed run continues with the same id, which
    is in `wandb.json`. Numbers are shown over `step`.

    Parameters
    ----------
    project : str, optional
        Project. Default: that of the environment (`WANDB_PROJECT`), or "uncategorized".
    entity : str, optional
        User or team. Default: that of the account.
    mode : str, optional
        "online", or "offline": only files are written; `wandb sync` sends them later. Default: that
        of the environment (`WANDB_MODE`), or "online".
    group : str, optional
        Group of runs, e.g. of a comparison. Default: that of the environment (`WANDB_RUN_GROUP`).
    tags : sequence of str, default ()
        Tags. Without any, those of the environment (`WANDB_TAGS`) are used.

    Examples
    --------
    >>> from prdp_hpc import WandB
    >>> tracker = WandB(project="prdp", mode="offline")
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        self._options: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "mode": mode or os.environ.get("WANDB_MODE"),
            "group": group,
            # An empty list would replace the tags of the environment.
            "tags": list(tags) or None,
        }
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Start a run, or continue that of the folder.

        Parameters
        ----------
        run : TrackedRun
            The run.

        Raises
        ------
        InputError
            If the package wandb is not installed.
        """
        try:
            import wandb
        except ImportError:
            raise missing("wandb", "Weights & Biases") from None
        resumed, options = run.resumed_at is not None, dict(self._options)
        if resumed and options["mode"] != "offline":
            # Only a server can continue a run; `wandb sync` joins files with the same id.
            options["resume"] = "allow"
        self._run = wandb.init(
            id=self._id(run.folder / "wandb.json", resumed),
            name=run.name,
            config=dict(run.config),
            dir=str(run.folder),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            reinit="create_new",
            **options,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, numbers: Numbers, step: int) -> None:
        """Send numbers.

        Parameters
        ----------
        numbers : mapping from str to float
            Numbers by name.
        step : int
            Number of completed steps of the optimiser.
        """
        self._run.log({**numbers, "step": step})

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Send the summary and end the run.

        Parameters
        ----------
        summary : mapping or None
            The summary; None: the run is marked as failed.
        """
        if summary is not None:
            self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if summary is not None else 1)

    def _id(self, path: Path, resumed: bool) -> str:
        if resumed and path.exists():
            return str(load_json(path)["id"])
        found = secrets.token_hex(4)
        write_json(path, {"id": found})
        return found
