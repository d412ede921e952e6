# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-not-found"
"""Kernels for GPUs: the product with a stencil, and the vector updates of conjugate gradients.

Both are limited by memory bandwidth, so each number is read once. Sums over a vector are computed
by blocks, in double precision, so that results do not depend on the order in which blocks run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from prdp_hpc.linalg.batched.stencil import Term

BLOCK = 1024
"""Number of values per program."""
GROUPS = (8, 4, 2, 1)
"""Right-hand sides per program, which share the coefficients in the cache; the first number that
divides the batch is used.
"""


@dataclass(frozen=True)
class Terms:
    """A stencil's terms on a device, sorted by their target field.

    Attributes
    ----------
    table : for each term its coefficient's number, the source's field and the offset along three
        axes, int32.
    bounds : the start of the terms of each field, and the end.
    fields : the number of fields.
    """

    table: Tensor
    bounds: Tensor
    fields: int

    @classmethod
    def of(cls, terms: Sequence[Term], fields: int, device: torch.device) -> Terms:
        """The terms of a matrix."""
        order = sorted(range(len(terms)), key=lambda number: terms[number].target)
        table = [
            [n, terms[n].source, *(0,) * (3 - len(terms[n].offset)), *terms[n].offset]
            for n in order
        ]
        counts = [sum(term.target < field for term in terms) for field in range(fields + 1)]
        kind: Any = {"dtype": torch.int32, "device": device}
        return cls(torch.tensor(table, **kind), torch.tensor(counts, **kind), fields)


def stencil(
    x: Tensor,
    source: Tensor,
    coefficients: Tensor,
    terms: Terms,
    shape: tuple[int, ...],
    width: int,
    periodic: tuple[bool, ...],
    with_dot: bool,
) -> tuple[Tensor, Tensor]:
    """`A x (B, n_local)` and, if `with_dot` is set, `⟨x, A x⟩ (B, 1)`.

    Parameters
    ----------
    x : `(B, n_local)`.
    source : x itself, or its fields with `width` ghost points around, `(B, fields, *padded)`.
    coefficients : `(M, terms, *shape)`.
    shape : this rank's points.
    periodic : for each axis; not used with ghost points.
    """
    n0, n1, n2 = (1,) * (3 - len(shape)) + shape
    wraps = (False,) * (3 - len(shape)) + periodic
    pads = [0 if len(shape) + axis < 3 else width for axis in range(3)]
    p0, p1, p2 = (n + 2 * pad for n, pad in zip((n0, n1, n2), pads, strict=True))
    count, fields = len(coefficients), terms.fields
    n, each = n0 * n1 * n2, len(x) // count
    group = next(size for size in GROUPS if each % size == 0)
    blocks = triton.cdiv(n, BLOCK)
    result = torch.empty_like(x)
    rows = len(x) if with_dot else 0
    sums = torch.empty(rows, fields * blocks, dtype=torch.float64, device=x.device)
    _stencil[(blocks, count * fields * (each // group))](
        x, source, coefficients, result, sums, terms.table, terms.bounds,
        n0, n1, n2, p1 * p2, p2, p0 * p1 * p2,
        pads[0] * p1 * p2 + pads[1] * p2 + pads[2],
        each, coefficients.shape[1], blocks,
        fields=fields, group=group, is_padded=width > 0,
        wrap0=wraps[0], wrap1=wraps[1], wrap2=wraps[2], with_dot=with_dot, block=BLOCK,
    )  # fmt: skip
    return result, sums.sum(dim=1, keepdim=True).to(x.dtype) if with_dot else x.new_empty(0)


def descend(
    x: Tensor, r: Tensor, alpha: Tensor, p: Tensor, ap: Tensor, inverse: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`x + α p`, `r − α A p`, and `⟨z, r⟩`, `⟨z, z⟩` `(B, 2)` for `z = r · inverse`, where the
    inverse is `(M, n_local)`, or z = r.
    """
    rows, n = x.shape
    blocks = triton.cdiv(n, BLOCK)
    x_out, r_out = torch.empty_like(x), torch.empty_like(r)
    sums = torch.empty(rows, 2, blocks, dtype=torch.float64, device=x.device)
    _descend[(blocks, rows)](
        x, r, alpha.contiguous(), p, ap, r if inverse is None else inverse, x_out, r_out, sums,
        n, _each(rows, inverse), blocks, has_inverse=inverse is not None, block=BLOCK,
    )  # fmt: skip
    return x_out, r_out, sums.sum(dim=2).to(x.dtype)


def turn(r: Tensor, beta: Tensor, p: Tensor, inverse: Tensor | None) -> Tensor:
    """`r · inverse + β p`."""
    rows, n = r.shape
    result = torch.empty_like(p)
    _turn[(triton.cdiv(n, BLOCK), rows)](
        r, beta.contiguous(), p, r if inverse is None else inverse, result,
        n, _each(rows, inverse), has_inverse=inverse is not None, block=BLOCK,
    )  # fmt: skip
    return result


def _each(rows: int, inverse: Tensor | None) -> int:
    """Number of right-hand sides per matrix."""
    return rows if inverse is None else rows // len(inverse)


@triton.jit
def _stencil(
    x, source, coefficients, result, sums, table, bounds,
    n0, n1, n2, stride0, stride1, row_stride, shift,
    each, terms, blocks,
    fields: tl.constexpr, group: tl.constexpr, is_padded: tl.constexpr,
    wrap0: tl.constexpr, wrap1: tl.constexpr, wrap2: tl.constexpr,
    with_dot: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    n = n0 * n1 * n2
    number = tl.program_id(0)
    groups = each // group
    which = tl.program_id(1)
    chunk = which % groups
    field = (which // groups) % fields
    matrix = (which // groups) // fields
    i = number * block + tl.arange(0, block)
    inside = i < n
    i2 = i % n2
    i1 = (i // n2) % n1
    i0 = i // (n1 * n2)
    first = tl.load(bounds + field)
    last = tl.load(bounds + field + 1)
    own_coefficients = coefficients + matrix.to(tl.int64) * terms * n
    for member in range(group):
        row = (matrix * each + chunk * group + member).to(tl.int64) * fields
        total = tl.zeros([block], dtype=x.dtype.element_ty)
        for term in range(first, last):
            entry = table + term * 5
            j0 = i0 + tl.load(entry + 2)
            j1 = i1 + tl.load(entry + 3)
            j2 = i2 + tl.load(entry + 4)
            there = inside
            if not is_padded:
                if wrap0:
                    j0 = tl.where(j0 < 0, j0 + n0, tl.where(j0 >= n0, j0 - n0, j0))
                else:
                    there = there & (j0 >= 0) & (j0 < n0)
                if wrap1:
                    j1 = tl.where(j1 < 0, j1 + n1, tl.where(j1 >= n1, j1 - n1, j1))
                else:
                    there = there & (j1 >= 0) & (j1 < n1)
                if wrap2:
                    j2 = tl.where(j2 < 0, j2 + n2, tl.where(j2 >= n2, j2 - n2, j2))
                else:
                    there = there & (j2 >= 0) & (j2 < n2)
            near = source + (row + tl.load(entry + 1)) * row_stride
            value = tl.load(near + j0 * stride0 + j1 * stride1 + j2 + shift, mask=there, other=0.0)
            here = own_coefficients + tl.load(entry).to(tl.int64) * n
            total += tl.load(here + i, mask=inside, other=0.0) * value
        place = (row + field) * n + i
        tl.store(result + place, total, mask=inside)
        if with_dot:
            own = tl.load(x + place, mask=inside, other=0.0)
            part = tl.sum(own.to(tl.float64) * total.to(tl.float64), axis=0)
            tl.store(sums + (row + field) * blocks + number, part)


@triton.jit
def _descend(
    x, r, alpha, p, ap, inverse, x_out, r_out, sums,
    n, each, blocks, has_inverse: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    i = number * block + tl.arange(0, block)
    inside = i < n
    place = row * n + i
    step = tl.load(alpha + row)
    x_new = tl.load(x + place, mask=inside) + step * tl.load(p + place, mask=inside)
    tl.store(x_out + place, x_new, mask=inside)
    r_new = tl.load(r + place, mask=inside, other=0.0)
    r_new -= step * tl.load(ap + place, mask=inside, other=0.0)
    tl.store(r_out + place, r_new, mask=inside)
    wide = r_new.to(tl.float64)
    z = wide
    if has_inverse:
        z = (r_new * tl.load(inverse + (row // each) * n + i, mask=inside, other=0.0)).to(
            tl.float64
        )
    tl.store(sums + row * 2 * blocks + number, tl.sum(z * wide, axis=0))
    tl.store(sums + (row * 2 + 1) * blocks + number, tl.sum(z * z, axis=0))


@triton.jit
def _turn(
    r, beta, p, inverse, result,
    n, each, has_inverse: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * block + tl.arange(0, block)
    inside = i < n
    place = row * n + i
    z = tl.load(r + place, mask=inside)
    if has_inverse:
        z *= tl.load(inverse + (row // each) * n + i, mask=inside)
    tl.store(result + place, z + tl.load(beta + row) * tl.load(p + place, mask=inside), mask=inside)
