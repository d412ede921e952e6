"""Train according to a config and write a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prdp_hpc.config import ExperimentConfig, components, load_config, write_resolved
from prdp_hpc.console import note
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.distributed.preemption import leave_if_stopped, stop_requested
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.distributed.signals import StoppedError, stoppable_loading
from prdp_hpc.errors import FileError, InputError
from prdp_hpc.experiments.build import ConfigParts, task_from
from prdp_hpc.experiments.build import process_mesh as process_mesh
from prdp_hpc.experiments.initial import initialise
from prdp_hpc.experiments.showing import write_sample
from prdp_hpc.experiments.training import build_trainer, planned
from prdp_hpc.files import atomic_path, file_errors, write_json
from prdp_hpc.locks import locked
from prdp_hpc.logs import log_file
from prdp_hpc.metric_names import FIELDS
from prdp_hpc.networks.normalised import NormalisedNetwork
from prdp_hpc.tasks.random_states import random_state
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.requeue import note_stop_while_loading
from prdp_hpc.training.trainer import Trainer

CODE = "components.json"
"""File with the components of a run: names, files of user code and their SHA-256."""

Config = ExperimentConfig


class RunFolderError(InputError):
    """The run folder contains another run, or cannot be written."""


def train(
    config: ExperimentConfig | str | Path, overrides: Sequence[str] = (), resume: bool = False
) -> dict[str, Any]:
    """Train according to a config; collective.

    This is `prdp-hpc run` without the table and the figure. It writes the run folder
    `<output>/<name>`.

    Parameters
    ----------
    config : str, Path or config
        Path of a YAML file, or the result of `load_config`.
    overrides : sequence of str, default ()
        Changes to the file, e.g. `["training.epochs=10"]`.
    resume : bool, default False
        Whether to continue from the last checkpoint, if there is one.

    Returns
    -------
    dict
        The content of `summary.json` in the run folder, on every rank.

    Raises
    ------
    InputError
        For an invalid config, data file or folder; on all ranks.
    SolveError
        If a solve fails.

    See Also
    --------
    load_config : Read and validate a config.
    evaluate : Compute validation errors of a run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from prdp_hpc import train
    >>> text = '''
    ... task: inverse
    ... name: source
    ... grid: {shape: [16]}
    ... physics: {pde: poisson}
    ... training: {epochs: 3}
    ... '''
    >>> _ = Path("source.yaml").write_text(text)
    >>> summary = train("source.yaml", ["training.epochs=2"])
    >>> summary["epochs"], summary["task"]
    (2, 'inverse')
    """
    if isinstance(config, str | Path):
        config = load_config(config, overrides)
    elif overrides:
        raise InputError("overrides apply to the file of a config: give its path")
    mesh = process_mesh(config)
    try:
        return run_experiment(config, mesh, run_folder(config), resume)
    finally:
        mesh.close()


def run_folder(config: Config) -> Path:
    """`<output>/<name>`."""
    return Path(config.output) / config.name


def run_experiment(
    config: Config, mesh: ProcessMesh, folder: Path, resume: bool = False
) -> dict[str, Any]:
    """Train one run and return its summary; collective.

    Writes `config.yaml`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `summary.json` into
    `folder`.

    Raises
    ------
    InputError
        For an invalid config, data file, grid or folder; on all ranks.
    LockedError
        If another job writes to `folder`.
    SolveError
        If a solve fails.
    """
    with run_lock(mesh, folder):
        return run_locked(config, mesh, folder, resume)


def run_locked(
    config: Config, mesh: ProcessMesh, folder: Path, resume: bool = False
) -> dict[str, Any]:
    """As `run_experiment`, in a folder whose lock this job has."""
    with run_log(config, mesh, folder):
        run = prepare(config, mesh, folder, resume)
        run.trainer.run()
        return run.finish()


def run_log(config: Config, mesh: ProcessMesh, folder: Path) -> AbstractContextManager[None]:
    """The log file of this rank, if the config has one."""
    level, rank = config.logging.least, mesh.world.rank
    if level is None or not (mesh.is_root or config.logging.per_rank):
        return nullcontext()
    return log_file(folder / "logs" / f"rank_{rank:04d}.log", level, quiet=rank > 0)


@contextmanager
def run_lock(
    mesh: ProcessMesh, folder: Path, shared: bool = False, patience: float | None = None
) -> Iterator[None]:
    """Create the folder of a run or comparison and lock it against other jobs; collective. For
    `shared` and `patience` see `prdp_hpc.locks.locked`.
    """
    advice = "wait until it ends or end it, or choose another name=… or output=…"
    lock = locked(mesh.world, folder, advice, folder=True, shared=shared, patience=patience)
    with ExitStack() as held:
        try:
            held.enter_context(lock)
        except FileError as error:
            raise _unwritable(folder, error) from None
        yield


@dataclass(frozen=True)
class PreparedRun:
    """A run whose data are loaded and whose trainer is ready, in a folder that this job locked.

    `random` are the states of the random generators with which training begins.
    """

    config: Config
    mesh: ProcessMesh
    folder: Path
    parts: ConfigParts
    trainer: Trainer
    random: dict[str, Any] = field(default_factory=random_state)

    def finish(self) -> dict[str, Any]:
        """Write what training has found, and return its summary; collective."""
        task, last = self.trainer.task, self.trainer.metrics
        _write_fields(task, self.mesh, self.folder)
        write_sample(self.config, self.parts, task, self.folder, last["epoch"])
        summary = summarise(self.config, self.mesh, last) | {
            "ended": self.trainer.ended,
            "best": self.trainer.best,
            "test": self.trainer.tested,
        }
        on_root(self.mesh.world, lambda: write_json(self.folder / "summary.json", summary))
        return summary


def prepare(config: Config, mesh: ProcessMesh, folder: Path, resume: bool) -> PreparedRun:
    """Load the data and the last checkpoint of a run, and write what describes it; collective."""
    on_root(mesh.world, lambda: _check_folder(folder, resume))
    parts = ConfigParts(config, mesh)
    with _stoppable_loading(mesh, folder):
        task = task_from(config, parts)
        content = parts.content_id
    source = getattr(config.training, "init_from", None)
    if source is not None:
        initialise(task, source, folder, resume)
    trainer = build_trainer(config, task, folder, content)
    if resume:
        trainer.restore()
        _leave_if_stopped(mesh, folder)
    # Written only after the checkpoint was accepted, so that a rejected resume changes no file.
    on_root(mesh.world, lambda: _write_config(config, folder))
    _write_code(mesh, config, folder, resume, content)
    _write_normalisation(task, mesh, folder)
    return PreparedRun(config, mesh, folder, parts, trainer)


def _write_normalisation(task: Any, mesh: ProcessMesh, folder: Path) -> None:
    """Write the means and standard deviations with which a network's states are normalised, for
    people: the checkpoint has them too; collective.
    """
    network = getattr(task, "network", None)
    if isinstance(network, NormalisedNetwork):
        found = network.as_dict(task.channels)
        on_root(mesh.world, lambda: write_json(folder / "normalisation.json", found))


@contextmanager
def _stoppable_loading(mesh: ProcessMesh, folder: Path) -> Iterator[None]:
    """Exit with code 85 for a signal in this block, in which data are read; collective."""
    try:
        with stoppable_loading():
            yield
    except StoppedError:
        # The error is on all ranks, the signal on at least one.
        _leave_if_stopped(mesh, folder)
        raise
    _leave_if_stopped(mesh, folder)


def _leave_if_stopped(mesh: ProcessMesh, folder: Path) -> None:
    """Exit with code 85 if a signal has arrived while the run was loading; collective."""
    if stop_requested(mesh.world):
        on_root(mesh.world, lambda: note_stop_while_loading(folder))
        leave_if_stopped(mesh.world, "while loading: continue with --resume")


def _write_fields(task: Task, mesh: ProcessMesh, folder: Path) -> None:
    """Write the fields of a task with a method `fields()`; collective."""
    own: Any = getattr(task, "fields", None)
    if own is None:
        return
    found = own()

    def write() -> None:
        with atomic_path(folder / FIELDS) as temporary:
            np.savez(temporary, **found)

    on_root(mesh.world, write)


def _write_code(
    mesh: ProcessMesh, config: Config, folder: Path, resume: bool, content: str | None
) -> None:
    """Record the user code of the run's components and the content id of its data, and report
    changes of code since the start of the run on stderr; collective.
    """

    def write() -> None:
        now = {key: found.record() for key, found in components(config).items()}
        if content is not None:
            now["data"] = {"content": content}
        path = folder / CODE
        if resume and path.exists():
            for line in _changed_code(path, now):
                note(f"{config.name}  {line}")
        write_json(path, now)

    on_root(mesh.world, write)


def _changed_code(path: Path, now: dict[str, dict[str, str]]) -> Iterator[str]:
    with file_errors(path, "cannot be read", "remove it; it is written again"):
        before = json.loads(path.read_text(encoding="utf-8"))
    for key, record in now.items():
        was = before.get(key, {})
        if "sha256" in record and was.get("sha256") != record["sha256"]:
            yield (
                f"{key}: the code of {record['name']} ({record['file']}) has changed since the "
                "start of the run: earlier and later epochs may not be comparable"
            )


def summarise(config: Config, mesh: ProcessMesh, last: dict[str, Any]) -> dict[str, Any]:
    """The content of `summary.json`, from the metrics of the last epoch."""
    return {
        "name": config.name,
        "task": config.task_name,
        "measure": config.error_name,
        "schedule": config.refinement.schedule_name,
        "seed": config.seed,
        "epochs": last["epoch"],
        "planned": planned(config),
        "ranks": mesh.world.size,
        "grid_ranks": mesh.grid_ranks,
        **{key: value for key, value in last.items() if key not in ("epoch", "loss")},
        "inner_iterations": last["forward_iterations"] + last["adjoint_iterations"],
        "savings": {"inner_iterations": _saved_iterations(config, last)},
    }


def _saved_iterations(config: Config, last: dict[str, Any]) -> float | None:
    """The share of inner iterations saved against solves at the full level; None for tolerances,
    and if a level counts something else, e.g. Newton iterations.
    """
    if not getattr(config.physics, "levels_count_inner_iterations", True):
        return None
    forward, adjoint = config.refinement.full_level, config.refinement.full_adjoint_level
    if not (isinstance(forward, int) and isinstance(adjoint, int) and last["solves"]):
        return None
    # Full refinement would have needed the solves of training, but not those of probes.
    adjoint_solves = last["adjoint_solves"] - last.get("probe_adjoint_solves", 0)
    forward_solves = last["solves"] - last.get("probe_solves", 0) - adjoint_solves
    full = forward * forward_solves + adjoint * adjoint_solves
    return float(1.0 - (last["forward_iterations"] + last["adjoint_iterations"]) / full)


def _check_folder(folder: Path, resume: bool) -> None:
    if not resume and (folder / "metrics.jsonl").exists():
        raise RunFolderError(
            f"{folder} already contains a run: continue it with --resume, start again with "
            "--overwrite, or choose another name=…"
        )


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
