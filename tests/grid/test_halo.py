"""Halos on one rank equal torch's padding, forward and backward, and are differentiable to any
order.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.partition import Partition

MODES = {"periodic": "circular", "dirichlet": "constant", "neumann": "replicate"}
SIZES = st.lists(st.integers(2, 5), min_size=1, max_size=3)


def by_torch(field: torch.Tensor, boundary: list[str], lower: int, upper: int) -> torch.Tensor:
    """Pad one axis after the other, because torch's circular mode pads all axes equally."""
    for axis, kind in enumerate(boundary):
        moved = field.movedim(2 + axis, -1)
        padded = functional.pad(moved.flatten(1, -2), (lower, upper), mode=MODES[kind])
        field = padded.reshape(*moved.shape[:-1], -1).movedim(-1, 2 + axis)
    return field


@given(st.data(), SIZES, st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(0, 2))
def test_padding_is_that_of_torch(
    data: st.DataObject, shape: list[int], channels: int, batch: int, lower: int, upper: int
) -> None:
    boundary = [data.draw(st.sampled_from(sorted(MODES))) for _ in shape]
    field = torch.randn(batch, channels, *shape, dtype=torch.float64, requires_grad=True)
    ours = Halo(Partition.whole(shape, boundary), lower, upper, nearest=True)(field)
    theirs = by_torch(field, boundary, lower, upper)
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(theirs)
    (gradient,) = torch.autograd.grad(ours, field, weight)
    (expected,) = torch.autograd.grad(theirs, field, weight)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("boundary", MODES)
def test_first_and_second_derivatives(boundary: str) -> None:
    halo = Halo(Partition.whole((3, 4), boundary), (1, 2), (2, 0), nearest=True)
    field = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: halo(u).sin(), (field,))
    assert torch.autograd.gradgradcheck(lambda u: halo(u).sin(), (field,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
def test_any_type_no_samples_and_the_memory_format(dtype: torch.dtype) -> None:
    halo = Halo(Partition.whole((4, 3), "periodic"), 1, 1)
    assert halo(torch.ones(2, 5, 4, 3, dtype=dtype)).dtype == dtype
    assert halo(torch.ones(0, 5, 4, 3, dtype=dtype)).shape == (0, 5, 6, 5)
    last = torch.ones(2, 5, 4, 3).contiguous(memory_format=torch.channels_last)
    assert halo(last).is_contiguous(memory_format=torch.channels_last)
