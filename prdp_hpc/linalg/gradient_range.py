"""The check that the gradient of the values is within the range of double precision."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from prdp_hpc.autograd.batched_functions import is_transformed
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.solve_call import SolveCall
from prdp_hpc.linalg.torch_petsc import to_memory

LARGEST = 1e300
"""A product of the lengths of solution and adjoint solution below which no gradient overflows."""


def check_range(call: SolveCall, adjoint: SolveCall, values_grad: Any) -> None:
    """Raise SolveError if the products of the solution and the adjoint solution are beyond the
    range of double precision; collective.
    """
    # No product is larger, so that usually nothing has to be looked at.
    bound = math.sqrt(call.squares) * math.sqrt(adjoint.squares)
    if call.knows_squares and bound < LARGEST:
        return
    if not isinstance(values_grad, Tensor) or is_transformed(values_grad):
        return
    if anywhere(call.operator.comm, has_bad_numbers(to_memory(values_grad, call.operator.memory))):
        raise errors.too_large_gradient(call.method, call.level)
