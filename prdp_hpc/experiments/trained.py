"""Networks of finished or running runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from prdp_hpc.config import InverseConfig, SupervisedConfig, load_config
from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import build_network, works_on_parts
from prdp_hpc.training.checkpoint import CheckpointError, Checkpoints


def load_network(folder: str | Path) -> nn.Module:
    """The network of a run folder with the parameters of its last checkpoint, on the CPU, in
    evaluation mode.

    It maps whole fields `(B, C, *grid.shape)` to fields of the same shape: an emulator's next
    state, or what a corrector adds to a step of the solver. Nothing in the folder is executed.

    Raises
    ------
    ValueError
        For a folder without a config or a readable checkpoint, and for an inverse problem.
    """
    config, state = trained_state(folder)
    weights = state["task"]["network"]
    network = build_network(
        config.network.kind,
        Partition.whole(config.grid.shape, config.grid.boundary),
        _channels(config, weights),
        config.network.model_dump(exclude={"kind"}),
        seed=config.seed,
    )
    network.to(next(iter(weights.values())).dtype)
    network.load_state_dict(weights)
    return network.eval()


def trained_state(folder: str | Path) -> tuple[SupervisedConfig, dict[str, Any]]:
    """The config of a run folder and the state of its last checkpoint; raises as `load_network`."""
    path = Path(folder)
    config = load_config(path / "config.yaml")
    if isinstance(config, InverseConfig):
        raise InputError(f"{path}: an inverse problem has no network")
    state = Checkpoints(path / "checkpoints").load_latest()
    if state is None:
        raise CheckpointError(
            f"{path / 'checkpoints'}: no checkpoint yet; wait for the first one, or start the run "
            "again"
        )
    return config, state


def _channels(config: SupervisedConfig, weights: dict[str, Any]) -> int:
    """Channels of the fields that the network was made for, from its first layer."""
    first = next(iter(weights.values()))
    if works_on_parts(config.network.kind):
        return int(first.shape[1])
    return int(first.shape[1]) // math.prod(config.grid.shape)
