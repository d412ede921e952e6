"""`prdp-hpc status`: runs and jobs with their progress. This module does not load MPI, which may be
unusable on login nodes.
"""

from __future__ import annotations

import argparse
import getpass
import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prdp_hpc.commands.run_progress import RunProgress, progress_of, run_folders
from prdp_hpc.commands.submit import FOLDER, JOBS
from prdp_hpc.console import Table, show
from prdp_hpc.errors import InputError

_RUNS = ("run", "state", "progress", "error", "level", "updated", "left", "by")
_JOBS = ("job", "name", "state", "time left", "run folder")


def status(arguments: argparse.Namespace) -> None:
    """Print a table of the runs in a folder, and one of its jobs that are in SLURM's queue.

    Raises
    ------
    InputError
        If the folder does not exist.
    """
    root = Path(arguments.folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder output of the configs")
    runs = [progress_of(folder) for folder in run_folders(root)]
    parts: list[str] = []
    if runs:
        rows = [_RUNS, *(_run_row(run, root) for run in runs)]
        parts.append(Table(rows, "<<<>>>><"))
    queued = _queued(root)
    if queued:
        parts.append(Table([_JOBS, *queued], "<<<><"))
    show(*(parts or [f"no runs in {root}"]))


def _run_row(run: RunProgress, root: Path) -> tuple[str, ...]:
    name = str(run.folder.relative_to(root)) if run.folder != root else run.folder.name
    progress = ""
    if run.done is not None:
        progress = f"{run.unit} {run.done:g}" + ("" if run.total is None else f"/{run.total}")
    return (
        name,
        run.state,
        progress,
        _number(run.row.get("error"), "{:.2e}"),
        _number(run.row.get("level"), "{:g}"),
        "" if run.updated is None else f"{_duration(run.updated)} ago",
        "" if run.left is None else _duration(run.left),
        "" if run.owner is None else _owner(run.owner),
    )


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _owner(owner: dict[str, Any]) -> str:
    """The SLURM job, or the process and its host, that holds a lock."""
    if owner.get("job"):
        return f"job {owner['job']} on {owner.get('host')}"
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}"


def _duration(seconds: float) -> str:
    """A duration with two units at most, e.g. `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _queued(root: Path) -> list[tuple[str, ...]]:
    """Jobs that `submit` has recorded in this folder and that are in SLURM's queue."""
    recorded = _recorded(root / FOLDER / JOBS)
    if not recorded:
        return []
    rows: list[tuple[str, ...]] = []
    for number, state, reason, left in _squeue():
        job = recorded.get(number.partition("_")[0])
        if job is not None:
            state = state if reason in ("None", "") else f"{state} ({reason})"
            rows.append((number, str(job["name"]), state, left, str(job.get("results") or "")))
    return rows


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    """The recorded jobs by their id."""
    found: dict[str, dict[str, Any]] = {}
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                job = json.loads(line)
                found[str(job["job"])] = {"name": job["name"], "results": job.get("results")}
    return found


def _squeue() -> Sequence[tuple[str, str, str, str]]:
    """Id, state, reason and remaining time of the user's jobs; empty without SLURM."""
    words = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%T|%r|%L"]
    try:
        listed = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = (line.split("|") for line in listed.stdout.splitlines())
    return [(row[0], row[1], row[2], row[3]) for row in rows if len(row) == 4]
