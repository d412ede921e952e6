"""The process meshes of configs."""

from __future__ import annotations

from mpi4py import MPI

from prdp_hpc.config import ExperimentConfig
from prdp_hpc.distributed.process_mesh import ProcessMesh


def process_mesh(config: ExperimentConfig) -> ProcessMesh:
    """Create the process mesh of a config; collective over all ranks."""
    all_ranks = MPI.COMM_WORLD.size
    return ProcessMesh.from_world(
        config.parallel.grid_ranks or (1 if config.divides_samples else all_ranks),
        gradients=config.parallel.gradients,
        shard_network=config.parallel.shard_network,
    )


def any_mesh(config: ExperimentConfig) -> ProcessMesh:
    """The mesh of the config; if the number of ranks does not allow it, e.g. on a login node, all
    ranks share the grid.
    """
    ranks = MPI.COMM_WORLD.size
    if ranks % (config.parallel.grid_ranks or 1):
        return ProcessMesh.from_world(ranks)
    return process_mesh(config)
