"""Compilation of a network, and recomputation of its activations in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.errors import InputError
from prdp_hpc.tasks.recipe import Recipe


def prepare_forward(network: nn.Module, recipe: Recipe) -> None:
    """Compile the network's forward pass and recompute its activations, as the recipe states.

    The module itself and the names of its parameters are not changed.

    Raises
    ------
    InputError
        For an unknown backend, and for recomputation of a network with running statistics.
    """
    forward: Callable[..., Any] = network.forward
    if recipe.compile:
        forward = _compiled(forward, "inductor" if recipe.compile is True else recipe.compile)
    if recipe.checkpoint_activations:
        forward = _recomputed(forward, network)
    if forward is not network.forward:
        network.forward = forward


def _compiled(forward: Callable[..., Any], backend: str) -> Callable[..., Any]:
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(
            f"training.compile: {backend!r} is no backend of torch.compile; choose true or one of "
            f"{', '.join(known)}"
        )
    _exclude_communication()
    training: Callable[..., Any] = torch.compile(forward, backend=backend)

    def compiled(*inputs: Any) -> Any:
        # Not for validation, which has other sizes of batches and would be compiled separately.
        return training(*inputs) if torch.is_grad_enabled() else forward(*inputs)

    return compiled


@cache
def _exclude_communication() -> None:
    """Let compiled networks call the exchange of halos and all-reduces without tracing them.

    Not at the import of `LinearMap`, because this imports torch's compiler.
    """
    untraced = torch.compiler.disable(LinearMap.__call__)
    LinearMap.__call__ = untraced  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any], network: nn.Module) -> Callable[..., Any]:
    for name, module in network.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            raise InputError(
                f"training.checkpoint_activations: the network's layer {name} has running "
                "statistics, to which the second forward pass would add the batch again: use a "
                "normalisation without them, or leave the key out"
            )

    def recomputed(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False)

    return recomputed
