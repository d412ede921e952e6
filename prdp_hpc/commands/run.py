"""`prdp-hpc run`: one training run."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from prdp_hpc.config import load_config
from prdp_hpc.console import show
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.run import (
    RunFolderError,
    process_mesh,
    run_folder,
    run_lock,
    run_locked,
)
from prdp_hpc.files import file_errors
from prdp_hpc.locks import FOLDER_LOCK, LockedError, is_locked
from prdp_hpc.report import (
    has_fields,
    has_sample,
    load_run,
    load_sample,
    plot_fields,
    plot_inversion,
    plot_run,
    run_table,
)


def run(arguments: argparse.Namespace) -> None:
    """Train, print the table and draw the figure of the run."""
    config = load_config(arguments.config, arguments.overrides)
    mesh = process_mesh(config)
    folder = run_folder(config)
    with run_lock(mesh, folder):
        if arguments.overwrite:
            remove(mesh, folder)
        run_locked(config, mesh, folder, arguments.resume)
        on_root(mesh.world, lambda: draw(folder))
    if mesh.is_root:
        places = f"run folder: {folder}\nfigure:     {figure_of(folder)}"
        if has_fields(folder) or has_sample(folder):
            places += f"\nfields:     {fields_figure_of(folder)}"
        show(run_table([load_run(folder)]), places)
    mesh.close()


def draw(folder: Path, figure: Path | None = None) -> None:
    """Draw the figure of a run, and that of its fields if it has any."""
    record = load_run(folder)
    plot_run(record, figure or figure_of(folder))
    if has_fields(folder):
        plot_inversion({record.name: record}, fields_figure_of(folder), record.name)
    if has_sample(folder):
        plot_fields(load_sample(folder), fields_figure_of(folder))


def fields_figure_of(folder: Path) -> Path:
    """Path of the figure of a run's or a comparison's fields."""
    return folder / "figures" / "fields.png"


def figure_of(folder: Path) -> Path:
    """Path of a run's figure."""
    return folder / "figures" / "error_and_level.png"


def remove(mesh: ProcessMesh, folder: Path) -> None:
    """Remove an earlier run or comparison from its folder, whose lock this job has. Collective.

    Raises `RunFolderError` for a folder with other content.
    """
    on_root(mesh.world, lambda: _remove(folder))


def _remove(folder: Path) -> None:
    with file_errors(folder, "cannot be removed", "choose another name=… or output=…"):
        content = [path for path in folder.iterdir() if path.name != FOLDER_LOCK]
        if content:
            _check_removable(folder)
        for path in content:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _check_removable(folder: Path) -> None:
    if not any(
        (folder / "config.yaml").is_file()
        for folder in (folder, *folder.glob("prdp"), *folder.glob("seed_*/prdp"))
    ):
        raise RunFolderError(
            f"{folder} has no run in it, so --overwrite does not remove it: choose another name=… "
            "or output=…"
        )
    used = next((lock.parent for lock in folder.rglob(FOLDER_LOCK) if is_locked(lock)), None)
    if used is not None:
        raise LockedError(
            f"{used} is being written by another job, so --overwrite does not remove {folder}: "
            "wait until it ends or end it, or choose another name=… or output=…"
        )
