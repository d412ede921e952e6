"""Convolutions, pooling and normalisation on one rank are torch's own. On several:
tests/parallel/test_network_ranks.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import Convolution, GroupNorm, Pooling, TransposedConvolution, UNet

FIELD = {"dtype": torch.float64, "requires_grad": True}
CONVOLVE: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSE: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def same(ours: torch.Tensor, theirs: torch.Tensor, field: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, field, weight), torch.autograd.grad(theirs, field, weight)
    )


@given(
    st.lists(st.integers(4, 7), min_size=1, max_size=3),
    st.sampled_from([1, 2, 3, 4, 5]),
    st.integers(1, 3),
)
def test_convolutions_with_zeros_outside(shape: list[int], kernel: int, stride: int) -> None:
    layer = Convolution(Partition.whole(shape, "dirichlet"), 2, 3, kernel, stride).double()
    field = torch.randn(2, 2, *shape, **FIELD)
    before = (kernel - 1) // 2
    wide = functional.pad(field, (before, kernel - 1 - before) * len(shape))
    theirs = CONVOLVE[len(shape)](wide, layer.convolution.weight, layer.convolution.bias, stride)
    assert layer.output.shape == tuple(theirs.shape[2:])
    same(layer(field), theirs, field)


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize(("boundary", "mode"), [("periodic", "circular"), ("neumann", "replicate")])
def test_convolutions_across_other_boundaries(boundary: str, mode: str, kernel: int) -> None:
    layer = Convolution(Partition.whole((6, 8), boundary), 2, 3, kernel, 2).double()
    field = torch.randn(2, 2, 6, 8, **FIELD)
    before = (kernel - 1) // 2
    wide = functional.pad(field, (before, kernel - 1 - before) * 2, mode=mode)
    same(
        layer(field),
        functional.conv2d(wide, layer.convolution.weight, layer.convolution.bias, 2),
        field,
    )


@given(st.lists(st.integers(4, 7), min_size=1, max_size=3), st.sampled_from([2, 3, 4]))
def test_transposed_convolutions_with_zeros_outside(shape: list[int], kernel: int) -> None:
    fine = Partition.whole(shape, "dirichlet")
    layer = TransposedConvolution(fine, 2, 3, kernel).double()
    field = torch.randn(2, 2, *fine.coarsen(2).shape, **FIELD)
    weight, bias = layer.convolution.weight, layer.convolution.bias
    theirs = TRANSPOSE[len(shape)](field, weight, bias, 2, output_padding=1)
    first = (kernel - 1) // 2
    theirs = theirs[(..., *(slice(first, first + n) for n in shape))]
    if theirs.shape[2:] == torch.Size(shape):
        same(layer(field), theirs, field)
    else:
        assert layer(field).shape[2:] == torch.Size(shape)


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_a_periodic_transposed_convolution_is_the_adjoint_of_the_convolution(kernel: int) -> None:
    fine = Partition.whole((8, 6), "periodic")
    down, up = (
        Convolution(fine, 1, 1, kernel, 2).double(),
        TransposedConvolution(fine, 1, 1, kernel).double(),
    )
    with torch.no_grad():
        up.convolution.weight.copy_(down.convolution.weight)
        up.convolution.bias.zero_()
        down.convolution.bias.zero_()
    x, y = (
        torch.randn(1, 1, 8, 6, dtype=torch.float64),
        torch.randn(1, 1, 4, 3, dtype=torch.float64),
    )
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


@pytest.mark.parametrize(
    ("kind", "pool"), [("average", functional.avg_pool2d), ("max", functional.max_pool2d)]
)
def test_pooling(kind: str, pool: Any) -> None:
    field = torch.randn(2, 3, 6, 4, **FIELD)
    same(Pooling(Partition.whole((6, 4), "neumann"), kind)(field), pool(field, 2), field)
    odd = torch.randn(2, 3, 5, 4, **FIELD)
    same(
        Pooling(Partition.whole((5, 4), "dirichlet"), kind)(odd),
        pool(functional.pad(odd, (0, 0, 0, 1)), 2),
        odd,
    )


def test_what_layers_refuse() -> None:
    whole = Partition.whole((5, 4), "periodic")
    with pytest.raises(
        ValueError,
        match=r"axis 0 of the periodic grid .* cannot be coarsened: 5 is not a multiple of 2",
    ):
        Convolution(whole, 1, 1, stride=2)
    with pytest.raises(ValueError, match="a halo of 6 points does not fit"):
        Convolution(whole, 1, 1, kernel=13)
    with pytest.raises(ValueError, match="6 channels cannot be divided into 4 groups"):
        GroupNorm(whole, 4, 6)
    with pytest.raises(ValueError, match="pooling must be 'average' or 'max', not 'sum'"):
        Pooling(Partition.whole((4,), "dirichlet"), "sum")


@pytest.mark.parametrize("boundary", ["periodic", "dirichlet", "neumann"])
def test_a_unet_keeps_the_shape_and_sees_far(boundary: str) -> None:
    network = UNet(
        Partition.whole((8, 16), boundary), 2, 3, channels=4, depth=2, activation="tanh"
    ).double()
    field = torch.randn(1, 2, 8, 16, **FIELD)
    output = network(field)
    assert output.shape == (1, 3, 8, 16)
    (gradient,) = torch.autograd.grad(output[0, 0, 0, 0], field)
    assert (gradient != 0).all()


def test_a_unet_of_odd_sizes_learns() -> None:
    network = UNet(Partition.whole((7, 5), "dirichlet"), 1, 1, channels=8, depth=1)
    field = torch.randn(4, 1, 7, 5)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (network(field) - field.roll(1, -1)).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
