"""The workload of components that do not declare it, measured by running them on a small grid."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from prdp_hpc.config import SupervisedConfig
from prdp_hpc.config.components import component_of, own_keys
from prdp_hpc.distributed.data_parallel import on_parts
from prdp_hpc.grid.structured import Grid
from prdp_hpc.networks import build_network
from prdp_hpc.physics.stepper import initial_states, made_stepper, stepped

MOST_POINTS = 2**15
"""Maximum size of the grid for measurements: that of the config, halved along all axes."""


def measured_physics(config: SupervisedConfig) -> dict[str, int]:
    """Count the solves of one time step of the config's PDE on a small grid, on this rank only;
    return the entries of `prdp_hpc.planning.PhysicsWorkload`.
    """
    grid = _small_grid(config)
    stepper: Any = made_stepper(config.physics, grid)
    states = initial_states(stepper, np.random.default_rng(0), 2, config.data.modes)
    with torch.no_grad():
        stepped(stepper, states)
    channels = len(stepper.channels)
    found = {"channels": channels, "entries": channels * (2 * grid.dim + 1), "rows": channels}
    operator: Any = getattr(stepper, "operator", None)
    if hasattr(operator, "nnz_local") and hasattr(operator, "n_local"):
        found["rows"] = math.ceil(operator.n_local / grid.n_local)
        found["entries"] = math.ceil(operator.nnz_local / grid.n_local)
    found["solves"] = max(1, math.ceil(stepper.solver.report.forward.solves / states.shape[0]))
    offered = getattr(stepper, "network_inputs", None)
    found["network_inputs"] = 0 if offered is None else len(offered())
    return found


def _flop_counter() -> Any:
    # It warns that it does not count Triton's kernels if Triton is missing; then there are none.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)


def measured_layer(config: SupervisedConfig, inside: int, outside: int) -> dict[str, Any]:
    """Count the operations in a forward pass of the config's network on a small grid, and its
    parameters; return them as one `prdp_hpc.planning.Layer`.
    """
    grid, kind = _small_grid(config), component_of(config.network)
    network = build_network(
        kind, grid.partition, inside, outside, own_keys(config.network), seed=config.seed
    )
    with _flop_counter() as counter, torch.no_grad():
        network(torch.zeros(1, inside, *grid.shape))
    per_point = float(counter.get_total_flops()) / grid.size
    layer = {
        "flops": per_point,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "channels_in": inside,
        "channels_out": outside,
    }
    if on_parts(network):
        return layer | {"width": 1}
    return layer | {"flops": per_point * math.prod(config.grid.shape), "dense": True}


def _small_grid(config: SupervisedConfig) -> Grid:
    shape = list(config.grid.shape)
    while math.prod(shape) > MOST_POINTS and all(n % 2 == 0 and n >= 16 for n in shape):
        shape = [n // 2 for n in shape]
    return Grid(shape, config.grid.boundary, MPI.COMM_SELF, config.grid.length)
