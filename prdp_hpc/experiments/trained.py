"""Loading the networks of finished or active runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mpi4py import MPI
from torch import nn

from prdp_hpc.config import ExperimentConfig, SupervisedConfig, validate
from prdp_hpc.config.components import component_of, own_keys
from prdp_hpc.config.errors import strings
from prdp_hpc.config.slots import Imports
from prdp_hpc.config.yaml_files import read_yaml
from prdp_hpc.distributed.broadcast import broadcast
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.data_parallel import DataParallel, on_parts
from prdp_hpc.errors import InputError
from prdp_hpc.files import exists
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import build_network
from prdp_hpc.networks.normalised import NormalisedNetwork
from prdp_hpc.networks.precision import in_precision, precision_of
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.settings import CheckpointError

Checkpoint = Literal["last", "best"]


def load_network(
    folder: str | Path,
    components: Sequence[str] = (),
    *,
    partition: Partition | None = None,
    checkpoint: Checkpoint = "last",
) -> nn.Module:
    """Load the network of a run from a checkpoint.

    The network maps whole fields of shape `(B, C + E, *grid.shape)`, the state and the E fields of
    `network_inputs`, to fields of shape `(B, C, *grid.shape)`: the next state for an emulator, or
    the correction of a solver's time step for a corrector. With a `partition` it maps this rank's
    part of such fields, `(B, C + E, *partition.local_shape)`, to this rank's part of the result:
    a network on parts exchanges the points of neighbours, and for any other network the fields are
    gathered and the result is scattered. Both are differentiable. PETSc is not loaded. No user code
    is imported only because a file in the folder names it.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    components : sequence of str, default ()
        Names of user-defined networks, PDEs and tasks of the run that may be imported, e.g.
        `["my.py:Net"]`.
    partition : Partition, optional
        The division of the run's grid among ranks, e.g. `grid.partition` of a `Grid`. Loading and
        each call are then collective over its ranks. Default: one rank has the whole grid.
    checkpoint : {"last", "best"}, default "last"
        The checkpoint: the last one, or that with the smallest validation error.

    Returns
    -------
    torch.nn.Module
        The network on the CPU, in evaluation mode.

    Raises
    ------
    InputError
        If the folder has no config or readable checkpoint, if a user-defined component is not in
        `components`, if the task has no network, or if the partition is that of another grid; on
        all ranks of the partition.

    Examples
    --------
    >>> import torch
    >>> from pathlib import Path
    >>> from prdp_hpc import load_network, train
    >>> text = '''
    ... task: emulator
    ... name: tiny
    ... grid: {shape: [8]}
    ... physics: {pde: heat, diffusivity: 0.1, dt: 0.01}
    ... network: {kind: mlp, hidden: [8]}
    ... data: {train: 4, validation: 2}
    ... training: {epochs: 1, batch_size: 2}
    ... '''
    >>> _ = Path("tiny.yaml").write_text(text)
    >>> summary = train("tiny.yaml")
    >>> network = load_network("runs/tiny")
    >>> network(torch.zeros(3, 1, 8)).shape
    torch.Size([3, 1, 8])
    """
    if partition is None:
        return _network(folder, components, partition, checkpoint)
    return call_together(
        partition.comm, lambda: _network(folder, components, partition, checkpoint)
    )


def _network(
    folder: str | Path,
    components: Sequence[str],
    partition: Partition | None,
    checkpoint: Checkpoint,
) -> nn.Module:
    config = trained_config(folder, components, needed=("network.kind",))
    state = trained_state(folder, checkpoint)
    weights, kind = state["task"].get("network"), component_of(config.network)
    if weights is None:
        raise InputError(f"{folder}: the task {config.task_name} has no network")
    inside, outside = state["task"].get("channels") or _first_layer(kind, config, weights)
    whole = Partition.whole(config.grid.shape, config.grid.boundary)
    network = build_network(
        kind,
        whole if partition is None else _checked(partition, whole, folder),
        inside,
        outside,
        own_keys(config.network),
        seed=config.seed,
    )
    if getattr(config.data, "normalise", "none") != "none":
        # The numbers are loaded with the parameters.
        network = NormalisedNetwork(network, [0.0] * outside, [1.0] * outside)
    in_precision(network, precision_of(weights.values()))
    network.load_state_dict(weights)
    if partition is not None and not on_parts(network):
        network = DataParallel(network, torch.device("cpu"), 1, None, partition)
    return network.eval()


def _checked(partition: Partition, whole: Partition, folder: str | Path) -> Partition:
    given, own = ((part.shape, part.boundary) for part in (partition, whole))
    if given != own:
        raise InputError(
            f"partition: divides a grid of the shape {given[0]} with the boundary {given[1]}, but "
            f"the network of {folder} was trained on {own[0]} with {own[1]}: give a partition of "
            "that grid"
        )
    return partition


def trained_config(
    folder: str | Path, components: Sequence[str] = (), needed: tuple[str, ...] | None = None
) -> SupervisedConfig:
    """The config of a run with a network, with the components of the slots `needed` (default: all
    slots); raises the errors of `load_network`.
    """
    config = run_config(folder, components, needed)
    if not isinstance(config, SupervisedConfig):
        raise InputError(f"{folder}: the task {config.task_name} has no network")
    return config


def run_config(
    folder: str | Path, components: Sequence[str] = (), needed: tuple[str, ...] | None = None
) -> ExperimentConfig:
    """The config of a run of any task, see `trained_config`."""
    content, path = run_content(folder), Path(folder) / "config.yaml"
    data = content.get("data")
    # A run folder has every key of its version, and version 0.1 had one stream for all samples.
    if isinstance(data, dict) and "modes" in data:
        content["data"] = {"streams": "shared", **data}
    own = strings("components", components, "mine.py:MyNetwork")
    return validate(content, str(path), path.parent, Imports(own, needed))


def run_content(folder: str | Path) -> dict[str, Any]:
    """The content of a run's config, as it was written."""
    path = Path(folder) / "config.yaml"
    if not exists(Path(folder)):
        raise InputError(f"{folder}: no such folder; give the folder of a run, e.g. runs/heat_2d")
    return read_yaml(path)


def trained_state(folder: str | Path, checkpoint: Checkpoint = "last") -> dict[str, Any]:
    """The state of a run's checkpoint "last" or "best"; raises the errors of `load_network`."""
    if checkpoint not in ("last", "best"):
        raise InputError(f"checkpoint: must be last or best, not {checkpoint!r}")
    checkpoints = Checkpoints(Path(folder) / "checkpoints")
    state = checkpoints.load_latest() if checkpoint == "last" else checkpoints.load_best()
    if state is None and checkpoint == "best" and checkpoints.latest() is not None:
        raise CheckpointError(
            f"{checkpoints.folder}: has no best checkpoint, which runs with training.keep_best="
            "false and those of earlier versions do not write: use the checkpoint last"
        )
    if state is None:
        raise CheckpointError(
            f"{checkpoints.folder}: no checkpoint yet; wait for the first one, or start the run "
            "again"
        )
    return state


def shared_states(
    world: MPI.Comm,
    folders: Sequence[str | Path],
    checkpoint: Checkpoint,
    complete: bool = False,
) -> list[dict[str, Any]]:
    """The states of runs' checkpoints on all ranks; unless `complete`, without what is needed only
    to train further. Collective; raises the errors of `load_network` on all ranks.

    One rank reads them, because during a run other ranks might find a later checkpoint.
    """

    def read() -> list[dict[str, Any]] | None:
        if world.rank:
            return None
        states = [trained_state(folder, checkpoint) for folder in folders]
        return states if complete else [_without_training(state) for state in states]

    found: list[dict[str, Any]] = broadcast(world, call_together(world, read))
    return found


def _without_training(state: dict[str, Any]) -> dict[str, Any]:
    own = ("optimiser", "trained_network")
    task = {key: value for key, value in state["task"].items() if key not in own}
    return {"epoch": state["epoch"], "step": state["step"], "task": task}


def _first_layer(kind: Any, config: SupervisedConfig, weights: dict[str, Any]) -> tuple[int, int]:
    """The channels of a built-in network, for older checkpoints, which do not contain them."""
    channels = int(next(iter(weights.values())).shape[1])
    if not on_parts(kind):
        channels //= math.prod(config.grid.shape)
    return channels, channels
