"""Checks of the arguments of a solve."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together, share_or_end_job
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import Numbers, has_bad_numbers
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import is_real_tensor, kind_of_argument, to_memory

BLOCK = 16
TOGETHER = "every rank must make the same calls of solve, in the same order"


def is_batch(values: Any) -> bool:
    """Whether values are those of several matrices."""
    return isinstance(values, Tensor) and values.dim() == 2


def is_usual(operator: Any, values: Any, b: Any, solver: Any) -> bool:
    """Whether values and b are those of one matrix and right-hand sides as a KSP needs them, for
    which it starts at zero: `wrong_form` is None then, and nothing is to be converted. Without
    calls, which take as long as iterations with a small matrix.
    """
    shapes = getattr(operator, "usual_shapes", None)
    return (
        shapes is not None
        and isinstance(values, Tensor)
        and isinstance(b, Tensor)
        and values.shape == shapes[0]
        and b.shape[-1:] == shapes[1]
        and b.dim() <= 2
        and values.dtype is b.dtype is torch.float64
        and values.is_cpu
        and b.is_cpu
        and values.layout is b.layout is torch.strided
        and solver.batched is None
        and solver.differentiation == "implicit"
        and solver.initial_guess == "zero"
    )


def wrong_form(operator: Operator, values: Any, b: Any) -> Exception | None:
    """The error for invalid kinds and shapes on this rank, or None; not collective."""
    error = _validate_right_hand_side(operator, b) or operator.check_form(values)
    return error or (_validate_batch(operator, values, b) if is_batch(values) else None)


def sizes_of(operator: Operator, values: Any, b: Tensor) -> tuple[int, int]:
    """Sizes that must be equal on all ranks: numbers of matrices and of right-hand sides (−1: no
    batch).
    """
    several = is_batch(values) and isinstance(operator, SparseOperator)
    return len(values) if several else 1, b.shape[0] if b.dim() > 1 else -1


def wrong_guess(b: Any, guess: Any, is_missing: bool) -> Exception | None:
    """The error for an invalid kind or shape of a guess on this rank, or None; not collective."""
    if is_missing:
        return InputError(
            "a solver with initial_guess='state' starts at the state before the step: pass it as "
            "solve(..., guess=state); without a state use initial_guess='last' or 'zero'"
        )
    if guess is None or not isinstance(b, Tensor):
        return None
    if not is_real_tensor(guess):
        kind = kind_of_argument(guess)
        return InputError(f"guess must be a tensor of real floating-point numbers, not {kind}")
    if guess.shape != b.shape:
        return InputError(
            f"guess must have the shape {tuple(b.shape)} of b on this rank, not "
            f"{tuple(guess.shape)}"
        )
    return None


def bad_guess(guess: Tensor | None) -> Exception | None:
    """An error for NaN or infinity in a guess on this rank; not collective."""
    if guess is None or not has_bad_numbers(guess.detach()):
        return None
    return InputError("guess holds NaN or infinity: look at what produced it")


def prepare(
    operator: Operator,
    values: Any,
    b: Tensor,
    needs_grad: tuple[bool, ...],
    solver: Any,
    guess_error: Exception | None = None,
) -> Numbers | None:
    """Check the input and load the values of one matrix, with one reduction if there is no error.

    Those of several matrices are only checked. Returns the values in double precision in the
    operator's memory, or None for those that one matrix holds already.
    """
    error = wrong_form(operator, values, b) or guess_error
    sizes = (1, -1) if error is not None else sizes_of(operator, values, b)
    return check_and_load(operator, values, sizes, needs_grad, error, solver)


def check_and_load(
    operator: Operator,
    values: Any,
    sizes: tuple[int, int],
    needs_grad: Sequence[bool],
    error: Exception | None = None,
    solver: Any = None,
    before_load: Callable[[], None] | None = None,
) -> Numbers | None:
    """As `prepare`, for values and sizes of the right form, or with the error that was found;
    `solver` is that of a solve. `before_load` is called on all ranks if values will be loaded.
    Returns None for the values that one matrix holds already.
    """
    host, changed = None, False
    several = is_batch(values) and isinstance(operator, SparseOperator)
    if error is None and (several or not operator.is_loaded_with(values)):
        host = None if values is None else to_memory(values, operator.memory)
        changed = several or operator.differs(host)
    if changed:
        error = operator.check_numbers(host)
    pool = operator.matrices if isinstance(operator, SparseOperator) else None
    in_use = [] if pool is None else pool.in_use()
    if operator.comm.size == 1:
        if error is not None:
            raise error
    else:
        changed, in_use = agree(operator, error, changed, in_use, sizes, needs_grad, solver)
    if pool is not None and in_use:
        pool.reclaim(in_use)
    if changed and before_load is not None:
        before_load()
    if changed and not several:
        operator.load(host)
    return host


def agree(
    operator: Operator,
    error: Exception | None,
    changed: bool,
    in_use: list[bool],
    sizes: tuple[int, int],
    needs_grad: Sequence[bool],
    solver: Any,
) -> tuple[bool, list[bool]]:
    """Whether any rank's values changed, and which sets of matrices any rank uses; raises on all
    ranks if one rank has an error or the ranks disagree.
    """
    comm = operator.comm
    needed = sum(need << i for i, need in enumerate(needs_grad))
    settings = zlib.crc32(_settings(solver).encode())
    same = [*sizes, needed, operator.number, settings]
    # Of equal length for different operators too, so that these can be told.
    rest = [False] * (BLOCK - len(in_use) % BLOCK)
    mine = np.array(
        [error is not None, changed, *same, *(-n for n in same), *in_use, *rest], dtype=np.int64
    )
    most = np.empty_like(mine)
    try:
        private(comm).sums.Allreduce(mine, most, op=MPI.MAX)
    except MPI.Exception as failure:
        call = description(operator, sizes, solver)
        wrong = InputError(f"{call} met another call: {TOGETHER}")
        share_or_end_job(comm, wrong)
        raise wrong from failure
    if most[0]:
        raise_together(comm, error)
    matrices, batch, needs, *calls = zip(-most[7:12], most[2:7], strict=True)
    for (least, greatest), what in zip(calls, ("operators", "solvers"), strict=True):
        if least != greatest:
            raise different_calls(what, operator, sizes, solver)
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
            "some ranks need gradients of values or b, or have a guess, but others do not: "
            "requires_grad and guess must be the same on every rank"
        )
    return bool(most[1]), [bool(used) for used in most[12 : 12 + len(in_use)]]


def different_calls(
    what: str, operator: Operator, sizes: tuple[int, int], solver: Any
) -> InputError:
    """The error for ranks that solve with different operators, or with different solvers, at the
    same time; collective.
    """
    calls = private(operator.comm).agreement.allgather(description(operator, sizes, solver))
    other = next(rank for rank, call in enumerate(calls) if call != calls[0])
    return InputError(
        f"the ranks solve with different {what}: rank 0 calls {calls[0]}, but rank {other} "
        f"{calls[other]}: {TOGETHER}"
    )


def _settings(solver: Any) -> str:
    """Everything on which the messages of a solve depend, "" without a solver."""
    if solver is None:
        return ""
    others = f"differentiation={solver.differentiation!r}, precision={solver.precision!r}"
    options = f"petsc_options={dict(sorted(solver.petsc_options.items()))}"
    return f"{solver}, {others}, lag_preconditioner={solver.lag_preconditioner!r}, {options}"


def description(operator: Operator, sizes: tuple[int, int], solver: Any) -> str:
    """The call of `solve` on this rank, in a few words."""
    by = "" if solver is None else f" by {_settings(solver)}"
    batch = "" if sizes[1] < 0 else f" and {sizes[1]} right-hand sides"
    n_rows = operator.matrix.getSize()[0]
    return (
        f"solve with operator {operator.number} of its communicator, a "
        f"{type(operator).__name__} of {n_rows} rows{batch}{by}"
    )


def _validate_batch(operator: Operator, values: Any, b: Tensor) -> Exception | None:
    if not isinstance(operator, SparseOperator):
        return None
    if len(values) == 0:
        return InputError("values has 0 matrices: pass at least one")
    if b.dim() != 2 or len(b) % len(values):
        return InputError(
            f"with values of {len(values)} matrices b must have shape (M R, n_local), R right-hand "
            "sides for each matrix, "
            f"not {tuple(b.shape)}"
        )
    return None


def _validate_right_hand_side(operator: Operator, b: Any) -> Exception | None:
    if not is_real_tensor(b):
        kind = kind_of_argument(b)
        return InputError(f"b must be a tensor of real floating-point numbers, not {kind}")
    if b.dim() not in (1, 2) or b.shape[-1] != operator.n_local:
        return InputError(
            f"b must have shape ({operator.n_local},) or (B, {operator.n_local}) on this rank, "
            "which holds rows "
            f"{operator.row_range[0]} to {operator.row_range[1] - 1}, not {tuple(b.shape)}"
        )
    return None
