"""The ResNet looks across the boundary as the grid does, and its padding is torch's, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from prdp_hpc.networks import ResNet
from prdp_hpc.networks.padding import pad_boundary

MODES = {"periodic": "circular", "dirichlet": "constant", "neumann": "replicate"}
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@pytest.mark.parametrize("boundary", MODES)
@given(shape=SHAPES, channels=st.integers(1, 3), batch=st.integers(0, 2))
def test_padding_is_that_of_torch(boundary: str, shape: list[int], channels: int, batch: int) -> None:
    field = torch.randn(batch, channels, *shape, dtype=torch.float64, requires_grad=True)
    ours = pad_boundary(field, (boundary,) * len(shape))
    # An axis after the other: torch's circular mode refuses empty batches, and pads all axes alike.
    theirs = functional.pad(field, (1, 1) * len(shape), mode=MODES[boundary]) if batch else ours.detach() + 0 * field.sum()
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(theirs)
    (gradient,) = torch.autograd.grad(ours, field, weight)
    if batch:
        (expected,) = torch.autograd.grad(theirs, field, weight)
        torch.testing.assert_close(gradient, expected)


@given(st.permutations(sorted(MODES)))
def test_each_axis_has_its_own_boundary(boundary: list[str]) -> None:
    field = torch.randn(2, 1, 3, 4, 2, dtype=torch.float64)
    expected = field
    for axis, kind in enumerate(boundary):
        # torch pads from the last axis on
        moved = expected.movedim(2 + axis, -1)
        padded = functional.pad(moved.flatten(1, -2), (1, 1), mode=MODES[kind])
        expected = padded.reshape(*moved.shape[:-1], -1).movedim(-1, 2 + axis)
    assert torch.equal(pad_boundary(field, boundary), expected)


@settings(max_examples=15)
@given(SHAPES, st.sampled_from(sorted(MODES)), st.integers(0, 2))
def test_the_shape_of_the_field_stays(shape: list[int], boundary: str, batch: int) -> None:
    network = ResNet(len(shape), 2, 3, channels=4, blocks=1, boundary=boundary)
    output = network(torch.zeros(batch, 2, *shape))
    assert output.shape == (batch, 3, *shape)
    assert output.is_contiguous()


def by_hand(network: ResNet, field: torch.Tensor, modes: list[str]) -> torch.Tensor:
    """The same network from torch's own parts: `x → relu(x + conv(relu(conv(x))))` between lifting and projection."""
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


@pytest.mark.parametrize("boundary", [["periodic"], ["dirichlet", "dirichlet"], ["periodic", "neumann"], ["neumann"] * 3])
def test_layers_and_their_gradients(boundary: list[str]) -> None:
    network = ResNet(len(boundary), 2, 1, channels=5, blocks=2, boundary=boundary).double()
    names = list(network.state_dict())
    assert names[0].startswith("lift")
    assert names[-1].startswith("project")
    field = torch.randn(3, 2, *(4, 5, 3)[: len(boundary)], dtype=torch.float64, requires_grad=True)
    ours, theirs = network(field), by_hand(network, field, [MODES[kind] for kind in boundary])
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours.square().sum(), field)
    (expected,) = torch.autograd.grad(theirs.square().sum(), field)
    torch.testing.assert_close(gradient, expected)


def test_a_periodic_network_does_not_know_where_it_is() -> None:
    network = ResNet(2, 1, 1, channels=4, blocks=2, boundary="periodic").double()
    field = torch.randn(1, 1, 6, 5, dtype=torch.float64)
    moved = torch.roll(network(field), (2, 3), (2, 3))
    torch.testing.assert_close(network(torch.roll(field, (2, 3), (2, 3))), moved)


@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 2, 4, 4, 4), (2, 3, 4, 4)])
def test_a_field_of_another_grid_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the ResNet needs \(B, 2, \*shape\) with 2 axes; build it for this grid"):
        ResNet(2, 2, 2)(torch.zeros(shape))
