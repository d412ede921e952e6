"""Metrics for MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prdp_hpc.files import load_json, write_json
from prdp_hpc.training.settings import flat_settings
from prdp_hpc.training.trackers.tracker import Numbers, TrackedRun, missing, scalars

MOST_PARAMETERS = 100
"""Parameters that MLflow accepts in one call."""
LONGEST_PARAMETER = 500
"""Characters of a parameter that all stores of MLflow accept."""


class MLflow:
    """Sends the numbers of a run to an MLflow server, or writes them to a database or folder.

    The settings of the run become its parameters, by dotted keys. A resumed run continues with the
    same id, which is in `mlflow.json` in the run folder.

    Parameters
    ----------
    uri : str, optional
        Address: `http://…`, a folder `file:runs/mlflow`, or a database `sqlite:///runs/mlflow.db`,
        which needs the whole package `mlflow`. Default: that of the environment
        (`MLFLOW_TRACKING_URI`), otherwise the folder `mlruns` in the run folder.
    experiment : str, optional
        Experiment, which is created if it does not exist. Default: that of the environment
        (`MLFLOW_EXPERIMENT_NAME`), or "prdp-hpc".

    Examples
    --------
    >>> from prdp_hpc import MLflow
    >>> tracker = MLflow(uri="file:runs/mlflow", experiment="mine")
    """

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        own = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "prdp-hpc"
        self._uri, self._experiment = uri, own
        self._client: Any = None
        self._id = ""

    def start(self, run: TrackedRun) -> None:
        """Start a run, or continue that of the folder.

        Parameters
        ----------
        run : TrackedRun
            The run.

        Raises
        ------
        InputError
            If the package mlflow is not installed.
        """
        # Training waits for these requests, so an unreachable server must fail soon.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        address = self._address(run.folder)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise missing("mlflow-skinny", "MLflow") from None
        self._client = MlflowClient(address)
        path = run.folder / "mlflow.json"
        if run.resumed_at is not None and path.exists():
            self._id = str(load_json(path)["id"])
            self._client.set_terminated(self._id, "RUNNING")
            return
        self._id = self._client.create_run(self._experiment_id(), run_name=run.name).info.run_id
        write_json(path, {"id": self._id})
        self._log_parameters(run.config)

    def log(self, numbers: Numbers, step: int) -> None:
        """Send numbers.

        Parameters
        ----------
        numbers : mapping from str to float
            Numbers by name.
        step : int
            Number of completed steps of the optimiser.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, number, now, step) for key, number in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Send the numbers and texts of the summary and end the run.

        Parameters
        ----------
        summary : mapping or None
            The summary; None: the run is marked as killed.
        """
        if summary is None:
            self._client.set_terminated(self._id, "KILLED")
            return
        for key, value in summary.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, key, value)
        self.log({f"summary/{key}": value for key, value in scalars(summary).items()}, 0)
        self._client.set_terminated(self._id, "FINISHED")

    def _address(self, folder: Path) -> str:
        own = f"file:{(folder / 'mlruns').resolve()}"
        found = self._uri or os.environ.get("MLFLOW_TRACKING_URI") or own
        if found.startswith("file:"):
            # Newer versions ask for this consent; on a cluster files need no server.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        return found

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self._experiment))

    def _log_parameters(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        settings = flat_settings(config).items()
        flat = [Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in settings]
        for first in range(0, len(flat), MOST_PARAMETERS):
            self._client.log_batch(self._id, params=flat[first : first + MOST_PARAMETERS])
