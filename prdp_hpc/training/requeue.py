"""A run that is requeued again and again without getting further."""

from __future__ import annotations

import json
import os
from pathlib import Path

from prdp_hpc.errors import InputError
from prdp_hpc.files import write_json

WITHOUT_PROGRESS = 2
"""Restarts from the same place after which a requeued job gives up."""


class RestartError(InputError):
    """The run makes no progress."""


def note_start(folder: Path, epoch: int, step: int, resumed: bool) -> str | None:
    """Note in `folder/starts.json` where training starts; what to log of a requeued job. On one
    rank only.

    `epoch` epochs and `step` steps of the next one are done. Raises `RestartError` for a job that
    SLURM has started again (SLURM_RESTART_COUNT) when the two restarts before began at the same
    place: whatever ends it would end it again.
    """
    path, place = folder / "starts.json", [epoch, step]
    earlier = _read(path) if resumed else []
    count = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    stuck = earlier[-1 - WITHOUT_PROGRESS :]
    if count > 0 and len(stuck) > WITHOUT_PROGRESS and all(start == place for start in stuck):
        raise RestartError(
            f"{folder}: was restarted {WITHOUT_PROGRESS} times and ended each time before it got "
            f"beyond epoch {epoch}, "
            f"step {step}: look for the reason in the log (time limit too short? not enough "
            "memory?), "
            "then start it by hand with --resume"
        )
    write_json(path, [*earlier, place])
    if count == 0:
        return None
    job = os.environ.get("SLURM_JOB_ID", "?")
    return f"restart {count} of SLURM job {job}: going on after epoch {epoch}, step {step}"


def _read(path: Path) -> list[list[int]]:
    """Where earlier starts began; none if the file is not there or says something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    starts = content if isinstance(content, list) else []
    return [start for start in starts if isinstance(start, list) and len(start) == 2]
