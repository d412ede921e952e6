"""Whole tensors of the parts that ranks have, and back: parameters and states of sharded networks.

A part is a `torch.distributed.tensor.DTensor` whose first axis is divided among all ranks of its
device mesh; it is recognised by its methods, because importing that module takes long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.distributed.containers import KeyPath, mapped


def is_shard(value: object) -> bool:
    """Whether a tensor is this rank's part of a larger one."""
    return hasattr(value, "full_tensor")


def local(tensor: Any) -> Tensor:
    """This rank's numbers of a tensor, in the same memory, without a gradient."""
    tensor = tensor.detach()
    with torch.no_grad():
        own: Tensor = tensor.to_local() if is_shard(tensor) else tensor
    return own


def whole(tensor: Any) -> Tensor:
    """The whole tensor on every rank; collective if it is divided."""
    found: Tensor = tensor.detach().full_tensor() if is_shard(tensor) else tensor
    return found


def collected(value: Any, keep: bool) -> Any:
    """A copy of nested dicts, lists and tuples with whole tensors on the CPU instead of parts, if
    this rank is to `keep` them; otherwise with None in their place. Collective.

    Tensors are gathered one after the other, so that the other ranks need memory for one of them.
    """

    def leaf(_: KeyPath, item: Any) -> Any:
        if not is_shard(item):
            return item
        found = whole(item)
        return found.cpu() if keep else None

    return mapped(value, leaf)


def part_like(tensor: Tensor, shard: Any) -> Any:
    """A whole tensor divided as `shard` is; the memory of the whole tensor is not kept."""
    if is_shard(tensor):
        return tensor
    from torch.distributed.tensor import DTensor

    mesh, own = shard.device_mesh, local(shard)
    parts, rank = tensor.chunk(mesh.size()), mesh.get_local_rank()
    part = parts[rank] if rank < len(parts) else tensor[:0]
    return DTensor.from_local(
        part.to(own.device, copy=True).contiguous(),
        mesh,
        shard.placements,
        run_check=False,
        shape=shard.shape,
        stride=shard.stride(),
    )


def divided(state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a network's state that are whole, divided as those of `like` are.

    Entries that `like` does not have, or with another shape, are not changed.
    """
    return {
        name: part_like(value, like[name])
        if is_shard(like.get(name)) and value.shape == like[name].shape
        else value
        for name, value in state.items()
    }
