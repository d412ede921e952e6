"""Fine-tuning: a run that starts from the weights of another run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.distributed.broadcast import broadcast
from prdp_hpc.distributed.collective import call_together, on_root
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.trained import trained_state
from prdp_hpc.files import write_json
from prdp_hpc.training.checkpoint import Checkpoints

RECORD = "init_from.json"
"""File in a run folder with the origin of the initial weights."""


def initialise(task: Any, source: str, folder: Path, resume: bool) -> None:
    """Load the weights of the last checkpoint of the run folder `source` into a task's network, and
    record their origin in the run folder; collective.

    Nothing is read if the run folder has a checkpoint from which the run continues.

    Raises
    ------
    InputError
        On all ranks, if the folder has no readable checkpoint, or if its network has other
        parameters.
    """
    world = task.mesh.world
    if not hasattr(task, "load_network"):
        raise InputError(
            f"training.init_from: the task {type(task).__name__} has no method load_network(), see "
            "SupervisedTask: leave the key out"
        )

    def read() -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if not task.mesh.is_root or (resume and _has_checkpoint(folder)):
            return None
        state = trained_state(source)
        weights = state["task"].get("network")
        if weights is None:
            raise InputError(f"training.init_from: the task of {source} has no network")
        problems = _differences(weights, task.network.state_dict())
        if problems:
            raise InputError(
                f"training.init_from: the network of {source} does not fit: {problems}; choose the "
                "same network section and grid, or another run"
            )
        record = {"folder": str(source), "epoch": state["epoch"], "sha256": _digest(weights)}
        return record, weights

    keep: Any = getattr(task, "kept_part", lambda _, tensor: tensor)
    found = broadcast(
        world,
        call_together(world, read),
        lambda path, tensor: keep(("network", *path[1:]), tensor),
    )
    if found is None:
        return
    record, weights = found
    task.load_network(weights)
    on_root(world, lambda: write_json(folder / RECORD, record))


def _has_checkpoint(folder: Path) -> bool:
    return Checkpoints(folder / "checkpoints").latest() is not None


def _differences(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What differs between the parameters of two networks, up to three of them."""
    found = []
    for name in dict.fromkeys([*own, *given]):
        there, here = (tuple(w[name].shape) if name in w else None for w in (given, own))
        if there != here:
            found.append(f"{name} is {_shown(there)} there and {_shown(here)} here")
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of the shape {shape}"


def _digest(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, types and numbers."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
