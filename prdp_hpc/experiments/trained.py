"""Networks of finished or running runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prdp_hpc.config import ExperimentConfig, SupervisedConfig, load_config
from prdp_hpc.config.components import component_of
from prdp_hpc.config.slots import Imports, own_keys
from prdp_hpc.distributed.data_parallel import on_parts
from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import build_network
from prdp_hpc.training.checkpoint import CheckpointError, Checkpoints


def load_network(folder: str | Path, components: Sequence[str] = ()) -> nn.Module:
    """The network of a run folder with the parameters of its last checkpoint, on the CPU, in
    evaluation mode.

    It maps whole fields `(B, C + E, *grid.shape)`, the state and the E fields of
    `network_inputs`, to fields `(B, C, *grid.shape)`: an emulator's next state, or what a corrector
    adds to a step of the solver. `components` are the names of networks, PDEs and tasks of your own
    that the run uses, e.g. `["my.py:Net"]`: nothing is imported or executed only because a file in
    the folder names it.

    Raises
    ------
    ValueError
        For a folder without a config or a readable checkpoint, for a component that `components`
        does not name, and for a task without a network.
    """
    config = trained_config(folder, components, needed=("network.kind",))
    state = trained_state(folder)
    weights, kind = state["task"]["network"], component_of(config.network)
    inside, outside = state["task"].get("channels") or _first_layer(kind, config, weights)
    network = build_network(
        kind,
        Partition.whole(config.grid.shape, config.grid.boundary),
        inside,
        outside,
        own_keys(config.network),
        seed=config.seed,
    )
    network.to(next(iter(weights.values())).dtype)
    network.load_state_dict(weights)
    return network.eval()


def trained_config(
    folder: str | Path, components: Sequence[str] = (), needed: tuple[str, ...] | None = None
) -> SupervisedConfig:
    """The config of a run folder, with the components of the slots `needed` (default: of all);
    raises as `load_network`.
    """
    config = run_config(folder, components, needed)
    if not isinstance(config, SupervisedConfig):
        raise InputError(f"{folder}: the task {config.task_name} has no network")
    return config


def run_config(
    folder: str | Path, components: Sequence[str] = (), needed: tuple[str, ...] | None = None
) -> ExperimentConfig:
    """The same of a run of any task."""
    imports = Imports(tuple(components), needed)
    return load_config(Path(folder) / "config.yaml", imports=imports)


def trained_state(folder: str | Path) -> dict[str, Any]:
    """The state of a run folder's last checkpoint; raises as `load_network`."""
    place = Path(folder) / "checkpoints"
    state = Checkpoints(place).load_latest()
    if state is None:
        raise CheckpointError(
            f"{place}: no checkpoint yet; wait for the first one, or start the run again"
        )
    return state


def _first_layer(kind: Any, config: SupervisedConfig, weights: dict[str, Any]) -> tuple[int, int]:
    """The channels of a built-in network, of a checkpoint from before they were kept."""
    channels = int(next(iter(weights.values())).shape[1])
    if not on_parts(kind):
        channels //= math.prod(config.grid.shape)
    return channels, channels
