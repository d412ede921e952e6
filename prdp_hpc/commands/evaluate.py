"""`prdp-hpc evaluate`: the validation errors of a trained network on other data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.config import SupervisedConfig
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_task
from prdp_hpc.experiments.run import process_mesh
from prdp_hpc.experiments.trained import trained_config, trained_state
from prdp_hpc.files import write_json
from prdp_hpc.linalg import Solver


def evaluate(arguments: argparse.Namespace) -> None:
    """Validate the network of a run's last checkpoint on the group `validation` of a data file;
    print the errors.
    """
    world = MPI.COMM_WORLD
    # Read by one rank: of a run that goes on, others might find a newer checkpoint.
    state = world.bcast(
        call_together(world, lambda: trained_state(arguments.run) if world.rank == 0 else None)
    )
    config = call_together(world, lambda: trained_config(arguments.run, arguments.component))
    if arguments.data is not None:
        config = config.model_copy(
            update={"data": config.data.model_copy(update={"file": arguments.data})}
        )
    mesh = _mesh(config)
    solver = Solver(config.solver.ksp, config.solver.pc, petsc_options=config.solver.petsc_options)
    task = build_task(config, mesh, solver, groups=("validation",))
    call_together(mesh.world, lambda: _load(task, state["task"]["network"], arguments))
    errors = task.validate()
    task.close()
    data = arguments.data or config.data.file or "its own validation data"
    if mesh.is_root:
        print(f"{arguments.run}, epoch {state['epoch']}, on {data}")
        width = max(map(len, errors))
        for name, error in errors.items():
            print(f"  {name:<{width}}  {error:.4e}")
    content = {"run": str(arguments.run), "epoch": state["epoch"], "data": data, **errors}
    if arguments.out:
        call_together(
            mesh.world,
            lambda: write_json(Path(arguments.out), content) if mesh.is_root else None,
        )
    mesh.close()


def _mesh(config: SupervisedConfig) -> ProcessMesh:
    """The ranks as in training; where that does not go, as on a login node, all of them share the
    grid.
    """
    ranks = MPI.COMM_WORLD.size
    return (
        ProcessMesh.from_world(ranks)
        if ranks % (config.parallel.grid_ranks or 1)
        else process_mesh(config)
    )


def _load(task: Any, parameters: dict[str, Any], arguments: argparse.Namespace) -> None:
    try:
        task.load_network(parameters)
    except RuntimeError:
        raise InputError(
            f"{arguments.data}: its fields have other channels than those the network of "
            f"{arguments.run} was trained on"
        ) from None
