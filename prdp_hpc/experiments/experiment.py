"""From a config to a finished run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.config import (
    CorrectorConfig,
    ExperimentConfig,
    InverseConfig,
    SupervisedConfig,
    write_resolved,
)
from prdp_hpc.data import GROUPS, TrajectoryFile
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors, write_json
from prdp_hpc.generation.generate import generate, generated_path
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.locks import locked
from prdp_hpc.tasks.corrector import CorrectorTask
from prdp_hpc.tasks.emulator import EmulatorTask
from prdp_hpc.tasks.inverse import InverseTask
from prdp_hpc.tasks.stepper import coefficient
from prdp_hpc.tasks.supervised import SupervisedTask
from prdp_hpc.tasks.task import Task
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.trainer import Trainer

Config = ExperimentConfig


class RunFolderError(InputError):
    """The run's folder holds another run already."""


def run_folder(config: Config) -> Path:
    """`<output>/<name>`."""
    return Path(config.output) / config.name


def process_mesh(config: Config) -> ProcessMesh:
    """The ranks as the config divides them; collective over all."""
    all_ranks = MPI.COMM_WORLD.size
    return ProcessMesh.from_world(
        config.parallel.grid_ranks or (all_ranks if isinstance(config, InverseConfig) else 1)
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
    solver = build_solver(config)
    task = build_task(config, mesh, solver)
    checkpoints = Checkpoints(
        folder / "checkpoints", config.training.keep_checkpoints, _settings(config)
    )
    schedule = config.refinement.build()
    training = config.training
    trainer = Trainer(
        task,
        schedule,
        mesh,
        folder,
        config.name,
        training.epochs,
        checkpoints,
        training.checkpoint_every,
    )
    if resume:
        trainer.restore()
    # Not before the checkpoint was found to fit: a refused resume must leave the run as it is.
    _on_root(mesh, lambda: _write_config(config, folder))
    last = trainer.run()
    summary = summarise(config, mesh, last)
    _on_root(mesh, lambda: write_json(folder / "summary.json", summary))
    return summary


def build_solver(config: Config) -> Solver:
    """The solver of a config, without a level."""
    section = config.solver
    return Solver(
        section.ksp,
        section.pc,
        petsc_options=section.petsc_options,
        differentiation=section.differentiation,
    )


def build_task(config: Config, mesh: ProcessMesh, solver: Solver) -> Task:
    """The grid, the data and the task of a config; collective."""
    if isinstance(config, InverseConfig):
        return InverseTask(config, mesh, _grid(config, mesh), solver)
    return build_supervised(config, mesh, solver)


def build_supervised(
    config: SupervisedConfig, mesh: ProcessMesh, solver: Solver, groups: Sequence[str] = GROUPS
) -> SupervisedTask:
    """As `build_task`, on those groups of the data; without `train` it can only validate.
    Collective.
    """
    grid = _grid(config, mesh)
    data = open_data(config, mesh, grid, groups)
    if isinstance(config, CorrectorConfig):
        return CorrectorTask(config, mesh, grid, data, solver)
    return EmulatorTask(config, mesh, grid, data, solver)


def _grid(config: Config, mesh: ProcessMesh) -> Grid:
    return Grid(
        config.grid.shape, config.grid.boundary, mesh.grid_comm, config.grid.length, mesh.grid_group
    )


def open_data(
    config: SupervisedConfig, mesh: ProcessMesh, grid: Grid, groups: Sequence[str] = GROUPS
) -> TrajectoryFile:
    """The config's data file, generated first if it names none and the generated one is not there;
    collective.
    """
    path = Path(config.data.file) if config.data.file else generated_path(config)
    if config.data.file is None and _is_missing(mesh, path):
        # Another job that generates the same data is waited for; then they are there.
        with locked(mesh.world, path, "wait until it ends", wait=True):
            if _is_missing(mesh, path):
                call_together(
                    mesh.world, lambda: generate(config, grid, path) if mesh.replica == 0 else None
                )
    return call_together(mesh.world, lambda: _fitting_file(path, config, groups))


def _is_missing(mesh: ProcessMesh, path: Path) -> bool:
    def missing() -> bool:
        with file_errors(path, "cannot be read", "choose another output=…"):
            return not path.exists()

    return bool(mesh.world.bcast(call_together(mesh.world, missing)))


def _fitting_file(path: Path, config: SupervisedConfig, groups: Sequence[str]) -> TrajectoryFile:
    """The file, if what it says about its physics is what the config says."""
    file = TrajectoryFile(path, config.grid.shape, groups)
    name, value = coefficient(config.physics)
    file.check_made_with("physics.dt", "dt", config.physics.dt)
    # Files of the authors name the same things in other ways.
    others = {"viscosity": ("nu", 1.0), "diffusivity": ("diffusivity_times_dt", config.physics.dt)}
    file.check_made_with(f"physics.{name}", name, value)
    file.check_made_with(f"physics.{name}", others[name][0], value, others[name][1])
    return file


def summarise(config: Config, mesh: ProcessMesh, last: dict[str, Any]) -> dict[str, Any]:
    """What `summary.json` says, from the last epoch's metrics."""
    return {
        "name": config.name,
        "task": config.task,
        "schedule": config.refinement.schedule,
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
    tolerances.
    """
    forward, adjoint = config.refinement.full_level, config.refinement.full_adjoint_level
    if not (isinstance(forward, int) and isinstance(adjoint, int) and last["solves"]):
        return None
    full = forward * (last["solves"] - last["adjoint_solves"]) + adjoint * last["adjoint_solves"]
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
    return settings
