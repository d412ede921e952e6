"""One sample of trained runs over time, for the figures of `prdp-hpc show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.collective import call_together
from prdp_hpc.experiments.build import ConfigParts
from prdp_hpc.experiments.field_series import collect
from prdp_hpc.experiments.members import Members, Trained, load_runs, make_members
from prdp_hpc.experiments.prediction import Request, request
from prdp_hpc.experiments.run_folders import member_folders
from prdp_hpc.experiments.trained import Checkpoint
from prdp_hpc.metric_names import SAMPLE_FIELDS
from prdp_hpc.report.field_series import FieldSeries, save_series
from prdp_hpc.tasks.supervised import SupervisedTask

STEPS, COLUMNS = 8, 5
"""Most time steps that are predicted for the figure of a run, unless its task needs further ones,
and most that are drawn.
"""


def sample_series(
    folders: Sequence[str | Path],
    sample: int = 0,
    steps: int | None = None,
    data: str | Path | None = None,
    group: str = "validation",
    checkpoint: Checkpoint = "last",
    components: Sequence[str] = (),
) -> tuple[Path, FieldSeries | None]:
    """Predict one sample with one or several runs, see `prdp_hpc.predict`; collective.

    Returns the folder for the results, and on rank 0 the fields, spectra and errors.
    """
    where, paths = call_together(MPI.COMM_WORLD, lambda: member_folders(folders))
    runs = load_runs(paths, data, components, checkpoint)
    members = make_members(runs, group)
    try:
        about = call_together(
            members.mesh.world, lambda: request(members, group, steps, [sample], data)
        )
        return where, collect(members, about, title_of(members, about))
    finally:
        members.close()


def write_sample(config: Any, parts: ConfigParts, task: Any, folder: Path, epoch: int) -> None:
    """Predict a validation sample with the task of a run that has ended, and write what its figure
    shows into the run folder; collective.
    """
    run = Trained(folder, config, {"epoch": epoch})
    if isinstance(task, SupervisedTask) and task.predicts:
        series = _first_steps(Members([run], [task], task.mesh, parts.data))
    elif hasattr(task, "recovered"):  # the field of each sample
        members = Members([run], [task], task.mesh, None)
        about = request(members, "validation", None, [0])
        series = collect(members, about, title_of(members, about), spectra=False)
    else:
        return

    def write() -> None:
        if series is not None:
            save_series(folder / SAMPLE_FIELDS, series)

    call_together(task.mesh.world, write)


def _first_steps(members: Members) -> FieldSeries | None:
    """The first sample over as many steps as the figure of a run has; collective."""
    task, data = members.tasks[0], members.trajectories
    assert data is not None
    steps = min(data.steps, max(task.steps, STEPS))
    about = Request("validation", [0], steps, steps)
    places = np.linspace(1, steps, min(steps, COLUMNS)).round().astype(int)
    # In one dimension all states are drawn.
    kept = None if members.grid.dim == 1 else [0, *np.unique(places).tolist()]
    title = title_of(members, about)
    if steps < data.steps:
        title += f", first {steps} of {data.steps} steps"
    return collect(members, about, title, kept, spectra=False)


def title_of(members: Members, about: Request) -> str:
    """The heading of figures: the run and its epoch, and the sample."""
    first = members.runs[0]
    name = f"{first.config.name}, epoch {first.state['epoch']}"
    if len(members.runs) > 1:
        name = f"{first.config.name}, {len(members.runs)} runs"
    return f"{name}: {about.group} sample {about.samples[0]}"
