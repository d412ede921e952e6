"""Progress of runs, read from their folders without loading MPI, PETSc or torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prdp_hpc.lock_files import FOLDER_LOCK, holder

METRICS, STEPS = "metrics.jsonl", "steps.jsonl"
_MARKS = (METRICS, "config.yaml", "starts.json")
_INSIDE = {"checkpoints", "tensorboard", "figures", "slurm", "data", "logs", "wandb", "mlruns"}
"""Folders in which there are no runs."""
_TAIL = 2**16


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes
    ----------
    folder : the run folder.
    state : "finished", "running", "starting" (it loads or generates data), or "stopped".
    done, total : epochs or steps; None if unknown.
    unit : "epoch" or "step".
    row : the last line of `metrics.jsonl`; empty before the first validation.
    updated : seconds since the last change of a file of metrics or a checkpoint; None before.
    left : estimated seconds to the end, for a run that has started; None if unknown.
    owner : the process that holds the lock of the folder; None if there is none.
    """

    folder: Path
    state: str
    done: float | None
    total: int | None
    unit: str
    row: dict[str, Any]
    updated: float | None
    left: float | None
    owner: dict[str, Any] | None


def run_folders(root: Path) -> Iterator[Path]:
    """The run folders in a folder and below it, in the order of their names."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        locked_only = FOLDER_LOCK in files and not folders
        if locked_only or any(mark in files for mark in _MARKS):
            yield folder
        folders[:] = sorted(
            inner for inner in folders if inner not in _INSIDE and not inner.endswith(".parts")
        )


def progress_of(folder: Path) -> RunProgress:
    """The progress of the run in a folder."""
    row, step_row = _last_line(folder / METRICS), _last_line(folder / STEPS)
    latest = max(row, step_row, key=lambda one: one.get("total_seconds") or 0.0)
    training = _training(folder / "config.yaml")
    # The steps of a field inversion are those of an epoch; its section has no `validate_every`.
    in_steps = training.get("steps") is not None and "validate_every" in training
    unit = "step" if in_steps else "epoch"
    total = training.get("epochs" if unit == "epoch" else "steps")
    done = latest.get(unit)
    owner = holder(folder / FOLDER_LOCK)
    return RunProgress(
        folder=folder,
        state=_state(folder, owner, row),
        done=done,
        total=total,
        unit=unit,
        row=row,
        updated=_age(folder),
        left=None if owner is None else _left(latest.get("total_seconds"), done, total),
        owner=owner,
    )


def _state(folder: Path, owner: dict[str, Any] | None, row: dict[str, Any]) -> str:
    if owner is not None:
        return "running" if row else "starting"
    return "finished" if (folder / "summary.json").exists() else "stopped"


def _last_line(path: Path) -> dict[str, Any]:
    """The last complete line of a file of metrics; empty without one."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        for line in reversed(file.read().splitlines()):
            with suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict):
                    return content
    return {}


def _training(path: Path) -> dict[str, Any]:
    """The section `training` of a run's config, without importing the components it names."""
    with suppress(OSError, ValueError, yaml.YAMLError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        section = content.get("training") if isinstance(content, dict) else None
        if isinstance(section, dict):
            return section
    return {}


def _age(folder: Path) -> float | None:
    times = []
    for path in (folder / METRICS, folder / STEPS, folder / "checkpoints"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(times)) if times else None


def _left(seconds: float | None, done: float | None, total: int | None) -> float | None:
    """Seconds to the end, if the rest takes as long per epoch or step as what is done."""
    if not (seconds and done and total):
        return None
    return seconds / done * max(0.0, total - done)
