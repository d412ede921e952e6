"""The runs of a comparison, which several jobs may train at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from prdp_hpc.commands.run import draw, figure_of
from prdp_hpc.config import ExperimentConfig, components
from prdp_hpc.config.variants import variants
from prdp_hpc.console import note
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.distributed.preemption import leave_if_stopped
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError, PrdpError
from prdp_hpc.experiments.run import PreparedRun, prepare, run_lock, run_log
from prdp_hpc.experiments.trained import run_config
from prdp_hpc.experiments.training import planned
from prdp_hpc.experiments.turns import train_in_turns
from prdp_hpc.locks import LockedError
from prdp_hpc.report import load_run, seed_folders

POLL = 2.0
"""Seconds between two looks at runs that other jobs train."""

_WITHOUT_EFFECT = {"name", "output", "parallel", "comparison", "tracking", "logging"}
"""Keys of the config that have no effect on the numerical results of a run."""


@dataclass(frozen=True)
class Run:
    """One variant of a comparison from one seed."""

    config: ExperimentConfig
    folder: Path


def runs_of(config: ExperimentConfig, folder: Path) -> list[Run]:
    """The runs of a comparison in the order of their training.

    The variants of one seed are trained one after another, and their order is rotated by one with
    each seed, so that other load on the machine affects all variants equally.
    """
    configs = variants(config)
    names, runs = list(configs), []
    folders = seed_folders(folder, config.seeds)
    for turn, (seed, seed_folder) in enumerate(zip(config.seeds, folders, strict=True)):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            changes = {"seed": seed, "name": f"{config.name}-{name}"}
            runs.append(Run(configs[name].model_copy(update=changes), seed_folder / name))
    return runs


def chosen_run(runs: Sequence[Run], number: int) -> Run:
    """The run with a number; `InputError` if there is none."""
    if not 0 <= number < len(runs):
        raise InputError(f"--only {number}: the runs of this comparison are 0 to {len(runs) - 1}")
    return runs[number]


def train_all(runs: Sequence[Run], mesh: ProcessMesh, resume: bool, in_turns: bool = False) -> None:
    """Train the missing runs; returns when all are finished. Collective.

    With `resume`, finished runs of the same config are kept, others continue from their
    checkpoints, and a run that another job trains is left to that job: this one continues with the
    others and then waits. With `in_turns`, the runs of each seed train in turns.

    Raises
    ------
    LockedError
        If another job trains one of the runs and `resume` is not set.
    Preempted
        If a signal arrives while it waits.
    """
    left, noted = list(runs), set[Path]()
    while True:
        before, left = len(left), _left_of(left, mesh, resume, in_turns, noted)
        if not left:
            return
        if len(left) == before:
            leave_if_stopped(
                mesh.world,
                f"while waiting for {len(left)} run(s) of other jobs: continue with --resume",
            )
            time.sleep(POLL)


def _left_of(
    runs: Sequence[Run], mesh: ProcessMesh, resume: bool, in_turns: bool, noted: set[Path]
) -> list[Run]:
    """Train runs, all or those of a seed together if `in_turns`; returns those of other jobs."""
    found: list[Run] = []
    for _, together in groupby(runs, key=lambda run: run.folder.parent if in_turns else run.folder):
        found += _train(list(together), mesh, resume, noted)
    return found


def _train(runs: Sequence[Run], mesh: ProcessMesh, resume: bool, noted: set[Path]) -> list[Run]:
    """Train unfinished runs, in turns; returns those that other jobs train. Collective."""
    missing, others = [], []
    with ExitStack() as locks:
        for run in runs:
            if resume and _has_finished(run, mesh):
                continue
            if not _is_mine(run, mesh, resume, locks, noted):
                others.append(run)
            # Another job may have finished it between the first look and the lock.
            elif not (resume and _has_finished(run, mesh)):
                missing.append(run)
        if missing:
            train_in_turns([_prepared(run, mesh, resume) for run in missing], _finish)
    return others


def _is_mine(run: Run, mesh: ProcessMesh, resume: bool, locks: ExitStack, noted: set[Path]) -> bool:
    """Lock a run; False if another job trains it. Collective."""
    try:
        locks.enter_context(run_lock(mesh, run.folder, patience=0.0 if resume else None))
    except LockedError as error:
        if not resume:
            raise
        if mesh.is_root and run.folder not in noted:
            note(f"prdp-hpc: left to another job: {str(error).rpartition(': ')[0]}")
        noted.add(run.folder)
        return False
    return True


def _prepared(run: Run, mesh: ProcessMesh, resume: bool) -> PreparedRun:
    with run_log(run.config, mesh, run.folder):
        return prepare(run.config, mesh, run.folder, resume)


def _finish(run: PreparedRun) -> None:
    run.finish()
    on_root(run.mesh.world, lambda: draw(run.folder))


def _has_finished(run: Run, mesh: ProcessMesh) -> bool:
    """Whether the folder has a finished run of the same config; collective."""
    return bool(mesh.world.bcast(_is_finished(run) if mesh.is_root else None))


def _is_finished(run: Run) -> bool:
    """Whether the folder has a finished run of the same config. Only the components of this config
    are imported, not those that the config in the folder names.
    """
    own = [component.name for component in components(run.config).values()]
    try:
        record, before = load_run(run.folder), run_config(run.folder, own)
    except PrdpError:
        return False
    if record.summary is None or not figure_of(run.folder).exists():
        return False
    # The summary may be from an earlier run of fewer epochs, since the config is written first.
    finished = record.summary.get("planned", f"{record.summary['epochs']} epochs")
    same_length = finished == planned(run.config)
    return same_length and _decisive(before) == _decisive(run.config)


def _decisive(config: ExperimentConfig) -> dict[str, Any]:
    """The keys of a config that affect the numerical results."""
    return config.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
