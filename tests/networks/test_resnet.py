"""The ResNet is the one made of torch's own parts, and looks across the boundary as the grid
does.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import ResNet

MODES = {"periodic": "circular", "dirichlet": "constant", "neumann": "replicate"}
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@settings(max_examples=15)
@given(SHAPES, st.sampled_from(sorted(MODES)), st.integers(0, 2))
def test_the_shape_of_the_field_stays(shape: list[int], boundary: str, batch: int) -> None:
    network = ResNet(Partition.whole(shape, boundary), 2, 3, channels=4, blocks=1)
    output = network(torch.zeros(batch, 2, *shape))
    assert output.shape == (batch, 3, *shape)
    assert output.is_contiguous()


def by_hand(network: ResNet, field: torch.Tensor, modes: list[str]) -> torch.Tensor:
    """The same network from torch's own parts: `x → relu(x + conv(relu(conv(x))))` between lifting
    and projection.
    """
    weights = iter(network.state_dict().values())
    dim = field.dim() - 2
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[dim]

    def wide(x: torch.Tensor) -> torch.Tensor:
        for axis, mode in enumerate(modes):
            moved = x.movedim(2 + axis, -1)
            padded = functional.pad(moved.flatten(1, -2), (1, 1), mode=mode)
            x = padded.reshape(*moved.shape[:-1], -1).movedim(-1, 2 + axis)
        return convolve(x, next(weights), next(weights))

    x = wide(field)
    for _ in network.blocks:
        x = torch.relu(x + wide(torch.relu(wide(x))))
    return convolve(x, next(weights), next(weights))


@pytest.mark.parametrize(
    "boundary", [["periodic"], ["dirichlet", "dirichlet"], ["periodic", "neumann"], ["neumann"] * 3]
)
def test_layers_and_their_gradients(boundary: list[str]) -> None:
    shape = (4, 5, 3)[: len(boundary)]
    network = ResNet(Partition.whole(shape, boundary), 2, 1, channels=5, blocks=2).double()
    names = list(network.state_dict())
    assert names[0].startswith("lift")
    assert names[-1].startswith("project")
    field = torch.randn(3, 2, *shape, dtype=torch.float64, requires_grad=True)
    ours, theirs = network(field), by_hand(network, field, [MODES[kind] for kind in boundary])
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours.square().sum(), field)
    (expected,) = torch.autograd.grad(theirs.square().sum(), field)
    torch.testing.assert_close(gradient, expected)


def test_a_periodic_network_does_not_know_where_it_is() -> None:
    network = ResNet(Partition.whole((6, 5), "periodic"), 1, 1, channels=4, blocks=2).double()
    field = torch.randn(1, 1, 6, 5, dtype=torch.float64)
    moved = torch.roll(network(field), (2, 3), (2, 3))
    torch.testing.assert_close(network(torch.roll(field, (2, 3), (2, 3))), moved)


@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 2, 4, 4, 4), (2, 3, 4, 4), (2, 2, 4, 5)])
def test_a_field_of_another_grid_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"the ResNet needs \(B, 2, 4, 4\); build it for this grid"
    ):
        ResNet(Partition.whole((4, 4), "periodic"), 2, 2)(torch.zeros(shape))
