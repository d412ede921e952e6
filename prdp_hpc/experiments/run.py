"""From a config to a finished run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.config import ExperimentConfig, components, load_config, write_resolved
from prdp_hpc.console import note
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_task
from prdp_hpc.files import atomic_path, file_errors, write_json
from prdp_hpc.locks import locked
from prdp_hpc.metric_names import FIELDS
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.trainer import Trainer

CODE = "components.json"
"""Which code a run's components are: names, files and their SHA-256."""

_ADDED = {
    "training": {"optimizer": "adam", "loss": "squared"},
    "solver": {"lag_preconditioner": None, "initial_guess": "zero"},
    "data": {"format": "hdf5", "test": 0},
    "refinement": {"theta": 0.35, "theta_noise": 1.0, "probe_share": 0.1},
    "network_inputs": [],
}
"""Defaults of settings that came later: checkpoints from before have none of them."""

Config = ExperimentConfig


class RunFolderError(InputError):
    """The run's folder holds another run already."""


def train(
    config: ExperimentConfig | str | Path, overrides: Sequence[str] = (), resume: bool = False
) -> dict[str, Any]:
    """Train what a config describes, as `prdp-hpc run` does without table and figure; collective.

    Parameters
    ----------
    config : a config, or the path of one.
    overrides : changes to the file, as `["training.epochs=10"]`.
    resume : continue from the last checkpoint, if there is one.

    Returns
    -------
    What is in `summary.json` of the run folder `<output>/<name>`, on every rank.

    Raises
    ------
    ValueError
        For a config, data or folder that does not fit, with what to do; the same on all ranks.
    SolveError
        When a solve fails.

    Example
    -------
        summary = train("configs/heat_1d.yaml", ["training.epochs=5"])
        print(summary["error"], summary["level"])
    """
    if isinstance(config, str | Path):
        config = load_config(config, overrides)
    elif overrides:
        raise InputError("overrides change a config's file: give its path")
    mesh = process_mesh(config)
    try:
        return run_experiment(config, mesh, run_folder(config), resume)
    finally:
        mesh.close()


def run_folder(config: Config) -> Path:
    """`<output>/<name>`."""
    return Path(config.output) / config.name


def process_mesh(config: Config) -> ProcessMesh:
    """The ranks as the config divides them; collective over all."""
    all_ranks = MPI.COMM_WORLD.size
    return ProcessMesh.from_world(
        config.parallel.grid_ranks or (1 if config.divides_samples else all_ranks)
    )


def run_experiment(
    config: Config, mesh: ProcessMesh, folder: Path, resume: bool = False
) -> dict[str, Any]:
    """Build, train, and write down one run; returns its summary. Collective.

    Writes `config.yaml`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `summary.json` into
    `folder`.

    Raises
    ------
    ValueError
        For a config, data file, grid or folder that does not do; the same on all ranks.
    LockedError
        When another job trains in `folder`.
    SolveError
        When a solve fails.
    """
    with run_lock(mesh, folder):
        return _run(config, mesh, folder, resume)


@contextmanager
def run_lock(mesh: ProcessMesh, folder: Path) -> Iterator[None]:
    """Keep other jobs from writing to a run's or comparison's folder, which is made; collective."""
    _on_root(mesh, lambda: _make_folder(folder))
    advice = "wait until it ends or end it, or choose another name=… or output=…"
    with locked(mesh.world, folder, advice, folder=True):
        yield


def _run(config: Config, mesh: ProcessMesh, folder: Path, resume: bool) -> dict[str, Any]:
    _on_root(mesh, lambda: _check_folder(folder, resume))
    task = build_task(config, mesh)
    checkpoints = Checkpoints(
        folder / "checkpoints", config.training.keep_checkpoints, _settings(config)
    )
    schedule = config.refinement.build()
    training = config.training
    trainer = Trainer(
        task,
        schedule,
        folder,
        training.epochs,
        config.name,
        checkpoints,
        training.checkpoint_every,
    )
    if resume:
        trainer.restore()
    # Not before the checkpoint was found to fit: a refused resume must leave the run as it is.
    _on_root(mesh, lambda: _write_config(config, folder))
    _write_code(mesh, config, folder, resume)
    last = trainer.run()
    _write_fields(task, mesh, folder)
    summary = summarise(config, mesh, last) | {"test": trainer.tested}
    _on_root(mesh, lambda: write_json(folder / "summary.json", summary))
    return summary


def _write_fields(task: Task, mesh: ProcessMesh, folder: Path) -> None:
    """Keep the fields that a task has found, if it has a method `fields()`; collective."""
    own: Any = getattr(task, "fields", None)
    if own is None:
        return
    found = own()

    def write() -> None:
        with atomic_path(folder / FIELDS) as temporary:
            np.savez(temporary, **found)

    _on_root(mesh, write)


def _write_code(mesh: ProcessMesh, config: Config, folder: Path, resume: bool) -> None:
    """Record which code the run's own components are, and say on stderr what has changed since the
    run began; collective.
    """

    def write() -> None:
        now = {key: found.record() for key, found in components(config).items()}
        path = folder / CODE
        if resume and path.exists():
            for line in _changed_code(path, now):
                note(f"{config.name}  {line}")
        write_json(path, now)

    _on_root(mesh, write)


def _changed_code(path: Path, now: dict[str, dict[str, str]]) -> Iterator[str]:
    with file_errors(path, "cannot be read", "remove it: it is written anew"):
        before = json.loads(path.read_text(encoding="utf-8"))
    for key, record in now.items():
        was = before.get(key, {})
        if "sha256" in record and was.get("sha256") != record["sha256"]:
            yield (
                f"{key}: the code of {record['name']} ({record['file']}) is not what the run began "
                "with: its first part and what follows may not be one experiment"
            )


def summarise(config: Config, mesh: ProcessMesh, last: dict[str, Any]) -> dict[str, Any]:
    """What `summary.json` says, from the last epoch's metrics."""
    return {
        "name": config.name,
        "task": config.task_name,
        "schedule": config.refinement.schedule_name,
        "seed": config.seed,
        "epochs": config.training.epochs,
        "ranks": mesh.world.size,
        "grid_ranks": mesh.grid_ranks,
        **{key: value for key, value in last.items() if key not in ("epoch", "loss")},
        "inner_iterations": last["forward_iterations"] + last["adjoint_iterations"],
        "savings": {"inner_iterations": _saved_iterations(config, last)},
    }


def _saved_iterations(config: Config, last: dict[str, Any]) -> float | None:
    """Share of the inner iterations that every solve at the full level would have taken; None for
    tolerances, and where a level counts something else, as Newton iterations.
    """
    if not getattr(config.physics, "levels_count_inner_iterations", True):
        return None
    forward, adjoint = config.refinement.full_level, config.refinement.full_adjoint_level
    if not (isinstance(forward, int) and isinstance(adjoint, int) and last["solves"]):
        return None
    # Full refinement would have solved what was trained on, and measured nothing.
    adjoint_solves = last["adjoint_solves"] - last.get("probe_adjoint_solves", 0)
    forward_solves = last["solves"] - last.get("probe_solves", 0) - adjoint_solves
    full = forward * forward_solves + adjoint * adjoint_solves
    return float(1.0 - (last["forward_iterations"] + last["adjoint_iterations"]) / full)


def _on_root(mesh: ProcessMesh, action: Callable[[], None]) -> None:
    """Do something on rank 0; if it fails, every rank raises. Collective."""
    call_together(mesh.world, action if mesh.is_root else lambda: None)


def _check_folder(folder: Path, resume: bool) -> None:
    if not resume and (folder / "metrics.jsonl").exists():
        raise RunFolderError(
            f"{folder} holds a run already: continue it with --resume, start anew with "
            "--overwrite, or choose another name=…"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _write_config(config: Config, folder: Path) -> None:
    try:
        write_resolved(config, folder / "config.yaml")
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"cannot write to the run folder {folder}: {error.strerror or error}; choose another "
        "output=…"
    )


def _settings(config: Config) -> dict[str, Any]:
    """What must be the same for a checkpoint to fit; more epochs, another folder or split may
    follow a resume.
    """
    settings = config.model_dump(mode="json", exclude={"output", "parallel", "name", "comparison"})
    settings["training"] = {
        k: v
        for k, v in settings["training"].items()
        if k not in ("epochs", "checkpoint_every", "keep_checkpoints")
    }
    return dict(_without_folders(_without_added(settings)))


def _without_added(settings: dict[str, Any]) -> dict[str, Any]:
    for key, default in _ADDED.items():
        if isinstance(default, dict) and isinstance(settings.get(key), dict):
            settings[key] = {
                k: v for k, v in settings[key].items() if k not in default or v != default[k]
            }
        elif settings.get(key) == default:
            del settings[key]
    return settings


def _without_folders(value: Any) -> Any:
    """Settings that stay the same when the user's files move: `/a/my.py:Name` is `my.py:Name`."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, str) and ".py:" in value:
        where, _, name = value.rpartition(":")
        return f"{Path(where).name}:{name}"
    return value
