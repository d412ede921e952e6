"""`prdp-hpc generate`: generate trajectories for an emulator or a corrector."""

from __future__ import annotations

import argparse
from pathlib import Path

from mpi4py import MPI

from prdp_hpc.config import ConfigError, SupervisedConfig, load_config
from prdp_hpc.console import show
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.generation.generate import generate as make
from prdp_hpc.generation.generate import generated_path
from prdp_hpc.grid.structured import Grid


def generate(arguments: argparse.Namespace) -> None:
    """Compute the trajectories of a config and write them; all ranks share the grid."""
    config = load_config(arguments.config, arguments.overrides)
    if not isinstance(config, SupervisedConfig):
        raise ConfigError(
            f"{arguments.config}: an inverse problem is not trained on trajectories, so there is "
            "nothing to generate"
        )
    path = Path(arguments.out) if arguments.out else generated_path(config)
    mesh = ProcessMesh.from_world(MPI.COMM_WORLD.size)
    make(
        config,
        Grid(config.grid.shape, config.grid.boundary, mesh.grid_comm, config.grid.length),
        path,
    )
    if mesh.is_root:
        show(
            f"{config.data.train} training and {config.data.validation} validation trajectories: "
            f"{path}"
        )
    mesh.close()
