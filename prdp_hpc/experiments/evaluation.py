"""The validation errors of a trained network, or of a field that was found, on other data too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.config import ExperimentConfig, FieldInversionConfig, SupervisedConfig
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_solver, build_task
from prdp_hpc.experiments.run import process_mesh
from prdp_hpc.experiments.trained import run_config, trained_config, trained_state
from prdp_hpc.tasks.inversion.task import FieldInversion

NEEDED = ("task", "physics.pde", "network.kind", "data.format")
"""Components without which a network cannot be validated."""


def evaluate(
    folder: str | Path, data: str | Path | None = None, components: Sequence[str] = ()
) -> dict[str, Any]:
    """Validate the network of a run's last checkpoint on the group "validation" of a data file, or
    the field of an inversion on the experiments for validation; collective.

    Parameters
    ----------
    folder : the run folder.
    data : the file: of trajectories, or of experiments; default: the run's own.
    components : names of networks, PDEs and tasks of your own that the run uses, as
        `["my.py:Net"]`, see `load_network`.

    Returns
    -------
    `epoch` of the checkpoint, `data`, and the errors by name, the coordinator's as `error`.

    Raises
    ------
    ValueError
        As `load_network`, and for data that do not fit.

    Example
    -------
        print(evaluate("runs/heat_1d", "other.h5")["error"])
    """
    world = MPI.COMM_WORLD
    config = call_together(world, lambda: _config(folder, components))
    # Read by one rank: of a run that goes on, others might find a newer checkpoint.
    state = world.bcast(
        call_together(world, lambda: trained_state(folder) if world.rank == 0 else None)
    )
    if data is not None:
        section = "data" if isinstance(config, SupervisedConfig) else "experiments"
        changed = getattr(config, section).model_copy(update={"file": str(data)})
        config = config.model_copy(update={section: changed})
    mesh = _mesh(config)
    try:
        task: Any = build_task(config, mesh, build_solver(config), groups=("validation",))
        call_together(mesh.world, lambda: _load(task, state["task"], folder, data))
        errors = {
            name: error
            for name, error in task.validate().items()
            if name.startswith("error") or not isinstance(task, FieldInversion)
        }
        task.close()
    finally:
        mesh.close()
    own = config.data if isinstance(config, SupervisedConfig) else config.experiments
    name = str(data or getattr(own, "file", None) or "its own validation data")
    return {"epoch": state["epoch"], "data": name, **errors}


def _config(
    folder: str | Path, components: Sequence[str]
) -> SupervisedConfig | FieldInversionConfig:
    config = run_config(folder, components, NEEDED)
    if isinstance(config, FieldInversionConfig):
        return config
    return trained_config(folder, components, NEEDED)


def _mesh(config: ExperimentConfig) -> ProcessMesh:
    """The ranks as in training; where that does not go, as on a login node, all of them share the
    grid.
    """
    ranks = MPI.COMM_WORLD.size
    if ranks % (config.parallel.grid_ranks or 1):
        return ProcessMesh.from_world(ranks)
    return process_mesh(config)


def _load(task: Any, state: dict[str, Any], folder: Any, data: Any) -> None:
    if isinstance(task, FieldInversion):
        task.load_parameters(state)
        return
    try:
        task.load_network(state["network"])
    except RuntimeError:
        raise InputError(
            f"{data}: its fields have other channels than those the network of {folder} was "
            "trained on"
        ) from None
