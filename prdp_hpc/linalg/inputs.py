"""What a solve is given, checked before it starts."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.bridge import is_real_tensor
from prdp_hpc.linalg.operator import Operator, SparseOperator


def is_batch(values: Any) -> bool:
    """Whether values are those of several matrices."""
    return isinstance(values, Tensor) and values.dim() == 2


def anywhere(comm: MPI.Comm, condition: bool) -> bool:
    """Whether a condition holds on any rank; collective."""
    return condition if comm.size == 1 else bool(comm.allreduce(condition, op=MPI.LOR))


def prepare(operator: Operator, values: Any, b: Tensor, needs_grad: tuple[bool, ...]) -> None:
    """Check the input and load the values, with one reduction when all is well."""
    error = (
        _wrong_right_hand_side(operator, b)
        or operator.check_form(values)
        or _wrong_batch(operator, values, b)
    )
    several = isinstance(operator, SparseOperator) and is_batch(values)
    changed = error is None and (several or operator.differs(values))
    if changed:
        error = operator.check_numbers(values)
    if operator.comm.size == 1:
        if error is not None:
            raise error
    else:
        batch = b.shape[0] if error is None and b.dim() > 1 else -1
        matrices = len(values) if error is None and several else 1
        changed = _agree(operator.comm, error, changed, (matrices, batch), needs_grad)
    if changed and not several:
        operator.load(values)


def _agree(
    comm: MPI.Comm,
    error: Exception | None,
    changed: bool,
    sizes: tuple[int, int],
    needs_grad: tuple[bool, ...],
) -> bool:
    """Whether any rank's values changed; raises on all ranks if one has an error or they
    disagree.
    """
    flags = sum(need << i for i, need in enumerate(needs_grad))
    same = [*sizes, flags]
    mine = np.array([error is not None, changed, *same, *(-n for n in same)], dtype=np.int64)
    most = np.empty_like(mine)
    comm.Allreduce(mine, most, op=MPI.MAX)
    if most[0]:
        raise_together(comm, error)
    matrices, batch, needs = zip(-most[5:], most[2:5], strict=True)
    if matrices[0] != matrices[1]:
        raise InputError(
            f"the ranks gave values of {matrices[0]} … {matrices[1]} matrices: every rank must "
            "give the same number"
        )
    if batch[0] != batch[1]:
        raise InputError(
            f"the ranks gave batches of different sizes ({batch[0]} … {batch[1]}; -1 means none): "
            "every rank must give the same"
        )
    if needs[0] != needs[1]:
        raise InputError(
            "some ranks ask for gradients of values or b and others do not: requires_grad must be "
            "the same on every rank"
        )
    return bool(most[1])


def _wrong_batch(operator: Operator, values: Any, b: Tensor) -> Exception | None:
    if not (isinstance(operator, SparseOperator) and is_batch(values)):
        return None
    if len(values) == 0:
        return InputError("values of 0 matrices came: give at least one")
    if b.dim() != 2 or len(b) % len(values):
        return InputError(
            f"with values of {len(values)} matrices b must have shape (M R, n_local), R right-hand "
            "sides for each matrix, "
            f"not {tuple(b.shape)}"
        )
    return None


def _wrong_right_hand_side(operator: Operator, b: Any) -> Exception | None:
    if not is_real_tensor(b):
        kind = b.dtype if isinstance(b, Tensor) else type(b).__name__
        return InputError(f"b must be a tensor of real floating-point numbers, not {kind}")
    if b.dim() not in (1, 2) or b.shape[-1] != operator.n_local:
        return InputError(
            f"b must have shape ({operator.n_local},) or (B, {operator.n_local}) on this rank, "
            "which holds rows "
            f"{operator.row_range[0]} to {operator.row_range[1] - 1}, not {tuple(b.shape)}"
        )
    return None
