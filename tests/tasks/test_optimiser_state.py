"""Property: an optimiser continues from its state with the same numbers, wherever the state has
been: in a file, or broadcast to other ranks, which receive it in the order of its axes.
"""

import copy

import pytest
import torch
from torch import nn

from prdp_hpc.tasks.optimisers import load_optimiser

KINDS = {
    "Adam": {"fused": True},
    "AdamW": {"fused": True, "amsgrad": True},
    "SGD": {"fused": True, "momentum": 0.9},
    "RMSprop": {"momentum": 0.5},
    "Adagrad": {"fused": True},
    "NAdam": {},
}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def network(dim):
    torch.manual_seed(0)
    kind = CONVOLUTIONS[dim]
    made = nn.Sequential(kind(2, 3, 3), nn.Tanh(), kind(3, 2, 3)).double()
    return made.to(memory_format=LAST[dim]) if dim in LAST else made


def train(module, optimiser, steps, first):
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        shape = (2, 2, *[6] * (next(module.parameters()).dim() - 2))
        batch = torch.randn(shape, dtype=torch.float64, generator=draw)
        optimiser.zero_grad()
        module(batch).square().sum().backward()
        optimiser.step()


def rearranged(value, place):
    """A nested state whose tensors lie in memory as the place names."""
    if isinstance(value, torch.Tensor):
        if place == "last" and value.dim() - 2 in LAST:
            return value.clone(memory_format=LAST[value.dim() - 2])
        return value.clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: rearranged(one, place) for key, one in value.items()}
    return [rearranged(one, place) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("place", ["in the order of the axes", "last"])
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_after_a_load_are_those_without_one(kind, dim, place):
    module, make = network(dim), getattr(torch.optim, kind)
    optimiser = make(module.parameters(), lr=1e-2, **KINDS[kind])
    train(module, optimiser, 3, first=0)
    other = copy.deepcopy(module)
    again = make(other.parameters(), lr=1e-2, **KINDS[kind])
    load_optimiser(again, rearranged(optimiser.state_dict(), place))
    train(module, optimiser, 3, first=3)
    train(other, again, 3, first=3)
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
