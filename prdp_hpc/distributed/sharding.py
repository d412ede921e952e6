"""Division of a network's parameters among ranks, for networks that do not fit into one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prdp_hpc.distributed.shards import is_shard
from prdp_hpc.errors import InputError

LEAST = 1 / 64
"""Smallest share of all parameters that are gathered separately from those around them."""


def shard(network: nn.Module, device: torch.device) -> None:
    """Divide the parameters of a network among the ranks of torch.distributed; collective.

    Afterwards each parameter is a `DTensor`, of which this rank has a part of the rows (the first
    axis), and so are its gradient and what an optimiser stores for it. `torch.distributed.fsdp`
    gathers the parameters of a block, see `blocks`, when its forward or backward pass begins, frees
    them after it, and averages its gradients over the ranks. Each call of the network, and of each
    of its blocks, is therefore collective. Buffers are not divided.

    Parameters
    ----------
    network : the network, with equal parameters on all ranks, on `device`.
    device : the device of this rank.

    Raises
    ------
    InputError
        For parameters that cannot be divided, and if ranks share a GPU.

    Source: torch documentation, torch.distributed.fsdp.fully_shard (FSDP2).
    """
    fully_shard = _fully_shard()
    _check_backend(device)
    _check_parameters(network)
    for parameter in network.parameters():
        # Memory formats other than torch's default cannot be divided.
        parameter.data = parameter.data.contiguous()
    from torch.distributed.device_mesh import DeviceMesh

    ranks: Any = dist.group.WORLD
    mesh = DeviceMesh.from_group(ranks, device.type)
    for module in (*blocks(network), network):
        # Before the hooks of `fully_shard`.
        module.register_forward_hook(_without_views)
        # Also for the network itself, so that its parameters are parts whenever it is not running.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The modules whose parameters are gathered together, innermost first.

    These are elements of `nn.Sequential`, `nn.ModuleList` and `nn.ModuleDict` with at least 1/64 of
    all parameters that no block inside of them has; the remaining parameters are gathered with the
    whole network. A module whose parameters are also used by a module outside of it is no block. A
    network with the attribute `sharded_modules`, a sequence of names as in `named_modules()`,
    chooses its blocks itself.
    """
    chosen: Sequence[str] | None = getattr(network, "sharded_modules", None)
    named = dict(network.named_modules())
    if chosen is not None:
        unknown = [name for name in chosen if name not in named or not name]
        if unknown:
            raise InputError(
                f"{type(network).__name__}.sharded_modules: {unknown[0]!r} is no module of the "
                "network: give names as in named_modules()"
            )
        return [named[name] for name in sorted(chosen, key=lambda name: -name.count("."))]
    least = LEAST * sum(p.numel() for p in network.parameters())
    found: list[nn.Module] = []
    done: set[int] = set()
    elements = [module for module in _elements(network) if not _shares_parameters(module, network)]
    # Modules are named before those inside of them.
    for module in reversed(elements):
        own = [p for p in module.parameters() if id(p) not in done]
        if own and sum(p.numel() for p in own) >= least:
            found.append(module)
            done |= {id(p) for p in own}
    return found


def explained(error: RuntimeError, network: nn.Module) -> Exception:
    """The error of a sharded network's call with what to do, if it is one of a parameter that was
    used outside of its block.
    """
    if "DTensor" not in str(error):
        return error
    name = type(network).__name__.removeprefix("FSDP")
    return InputError(
        f"parallel.shard_network: {name} uses a parameter of one of its blocks "
        "without calling the block, so it was not gathered: call the block, or name the modules "
        f"that are called in a class attribute `sharded_modules`; () names none ({error})"
    )


def _elements(network: nn.Module) -> list[nn.Module]:
    """The elements of lists, sequences and dictionaries of modules, without those containers that
    cannot be called.
    """
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return [
        module
        for name, module in network.named_modules()
        if name
        and isinstance(network.get_submodule(name.rpartition(".")[0]), containers)
        and type(module).forward is not nn.Module.forward
    ]


def _shares_parameters(module: nn.Module, network: nn.Module) -> bool:
    """Whether a module outside of `module` has one of its parameters too."""
    inside = {id(part) for part in module.modules()}
    own = {id(parameter) for parameter in module.parameters()}
    return any(
        id(parameter) in own
        for part in network.modules()
        if id(part) not in inside
        for parameter in part.parameters(recurse=False)
    )


def _fully_shard() -> Any:
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise InputError(
            f"parallel.shard_network: torch {torch.__version__} cannot divide parameters: install "
            "torch 2.6 or later"
        ) from None
    return fully_shard


def _check_backend(device: torch.device) -> None:
    if device.type == "cuda" and dist.get_backend() != "nccl":
        raise InputError(
            "parallel.shard_network: parameters on GPUs are gathered by NCCL, for which each rank "
            "needs a GPU for itself: start one rank per GPU, e.g. by --ntasks-per-node=GPUS"
        )


def _check_parameters(network: nn.Module) -> None:
    """Raise `InputError` for the first parameter that cannot be divided."""
    types = {p.dtype for p in network.parameters() if p.requires_grad}
    for name, parameter in network.named_parameters():
        problem = _problem(parameter)
        if problem is None and parameter.requires_grad and len(types) > 1:
            problem = (
                f"has the type {parameter.dtype}, and others have another one: convert the network "
                "to one type, e.g. by network.to(torch.float32)"
            )
        if problem is not None:
            raise InputError(f"parallel.shard_network: the parameter {name} {problem}")


def _problem(parameter: Tensor) -> str | None:
    if is_shard(parameter):
        return "is divided already: divide it only once"
    if parameter.is_complex():
        return (
            "is complex, and only real numbers can be divided: store it as torch.view_as_real(w), "
            "and use torch.view_as_complex(self.w) in forward"
        )
    if parameter.dim() == 0:
        return "has no axis that could be divided: give it the shape (1,)"
    return None


def _without_views(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Copies of results that are views: an in-place operation on a view would remove the hook of
    FSDP, and gradients would be wrong.
    """
    return tree_map_only(Tensor, lambda x: x if x._base is None else x.clone(), output)
