"""One layer of points around fields, as the boundary of the grid says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CHANNELS_LAST: dict[int, torch.memory_format] = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The memory format in which convolutions are fastest, by the number of a field's axes."""

Index = tuple[slice, ...]


def pad_boundary(field: Tensor, boundary: Sequence[str]) -> Tensor:
    """A field `(B, C, *shape)` with one more point on each side of each axis: `(B, C, *(n + 2))`.

    `boundary` holds one of "periodic" (the field goes on from its other end), "dirichlet" (0) and "neumann" (the outermost
    point again) per axis; a corner takes the rules of all axes that meet there. Differentiable. 2-D and 3-D fields come
    out in torch's channels-last format, the fastest for convolutions.

    The values are those of `torch.nn.functional.pad`, whose backward pass takes several times as long as this one: it adds
    the strips to a copy of the inner part instead of making whole fields of each.
    """
    padded: Tensor = _Pad.apply(field, tuple(boundary))  # type: ignore[no-untyped-call]
    return padded


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Tensor, boundary: tuple[str, ...]) -> Tensor:
        shape = tuple(field.shape[2:])
        ctx.shape, ctx.boundary = shape, boundary
        padded = torch.empty(
            (*field.shape[:2], *(n + 2 for n in shape)), dtype=field.dtype, device=field.device, memory_format=_format(field)
        )
        padded[_inner(len(shape))] = field
        for ghost, source in _strips(shape, boundary):
            padded[ghost] = 0.0 if source is None else field[source]
        return padded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        inner = grad[_inner(len(ctx.shape))].clone(memory_format=_format(grad))
        for ghost, source in _strips(ctx.shape, ctx.boundary):
            if source is not None:
                inner[source] += grad[ghost]
        return inner, None


def _format(field: Tensor) -> torch.memory_format:
    return CHANNELS_LAST.get(field.dim(), torch.contiguous_format)


def _inner(dim: int) -> Index:
    return _all_fields((slice(1, -1),) * dim)


@lru_cache(maxsize=64)
def _strips(shape: tuple[int, ...], boundary: tuple[str, ...]) -> tuple[tuple[Index, Index | None], ...]:
    """The parts of the added layer (edges, corners, …), each with the part of the field it repeats; None for zeros."""
    strips = []
    for sides in itertools.product((-1, 0, 1), repeat=len(shape)):
        if not any(sides):
            continue
        axes = list(zip(sides, shape, boundary, strict=True))
        sources = [source for side, n, kind in axes if (source := _source(side, n, kind)) is not None]
        ghost = _all_fields([_ghost(side, n) for side, n, _ in axes])
        strips.append((ghost, _all_fields(sources) if len(sources) == len(axes) else None))
    return tuple(strips)


def _all_fields(part: Sequence[slice]) -> Index:
    return (slice(None), slice(None), *part)


def _ghost(side: int, n: int) -> slice:
    return {-1: slice(0, 1), 0: slice(1, n + 1), 1: slice(n + 1, n + 2)}[side]


def _source(side: int, n: int, kind: str) -> slice | None:
    """What lies beyond one side of an axis of n points; None for zeros. Side 0 is the axis itself."""
    if side == 0:
        return slice(0, n)
    if kind == "dirichlet":
        return None
    return slice(0, 1) if (side == 1) == (kind == "periodic") else slice(n - 1, n)
