"""Detection of jobs that are requeued repeatedly without progress."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from prdp_hpc.console import note
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.files import write_json
from prdp_hpc.logs import LOGGER

WITHOUT_PROGRESS = 2
"""Number of restarts at the same step after which a requeued job stops with an error."""


class RestartError(InputError):
    """A requeued run makes no progress."""


def note_start(folder: Path, epoch: int, step: int, resumed: bool) -> str | None:
    """Record in `folder/starts.json` the step at which training starts; return a message for the
    log of a requeued job. On one rank only.

    `epoch` epochs and `step` steps of the next one are completed. Raises `RestartError` for a job
    that SLURM has restarted (SLURM_RESTART_COUNT) if the two previous restarts began at the same
    step, since the reason of its end would end it again.
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
            "then submit it again with --resume"
        )
    write_json(path, [*earlier, place])
    if count == 0:
        return None
    job = os.environ.get("SLURM_JOB_ID", "?")
    return f"restart {count} of SLURM job {job}: continuing after epoch {epoch}, step {step}"


def note_start_together(
    mesh: ProcessMesh, folder: str | Path, label: str, place: tuple[int, int], resumed: bool
) -> None:
    """Record the start of a run after `place`, epoch and step, and log it; collective.

    Raises `RestartError` on all ranks as `note_start` does.
    """
    epoch, step = place
    start = partial(note_start, Path(folder), epoch, step, resumed)
    message = on_root(mesh.world, start)
    if message is not None:
        note(f"{label}  {message}")
    where = f"continues after epoch {epoch}, step {step}" if any(place) else "starts"
    LOGGER.info("%s: %s (ranks: %d)", label, message or where, mesh.world.size)


def note_stop_while_loading(folder: Path) -> None:
    """Record a start that a signal ended before training, as one at the same step as the start
    before it. On one rank only; raises `RestartError` as `note_start` does.
    """
    epoch, step = (_read(folder / "starts.json") or [[0, 0]])[-1]
    note_start(folder, epoch, step, resumed=True)


def _read(path: Path) -> list[list[int]]:
    """The recorded starts; none if the file is missing or invalid."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    starts = content if isinstance(content, list) else []
    return [start for start in starts if isinstance(start, list) and len(start) == 2]
