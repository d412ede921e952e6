"""Whether a method that returned 0 has computed its iterations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import Numbers, empty_like, inner
from prdp_hpc.linalg.torch_petsc import placed

ROUNDING = 1e-12
"""A cosine that is attributed to rounding."""


def zero_is_no_iterate(
    comm: MPI.Comm, matrix: Any, vectors: tuple[Any, Any], preconditioned: Numbers
) -> bool:
    """Whether the iterates of a method that minimises the residual cannot be 0; collective.

    The first iterate is a multiple of `z = M⁻¹ b`, and 0 if `zᵀ A z` is; later ones are 0 only if
    it is. PETSc's MINRES compares with numbers that do not depend on the size of the matrix, and
    may end in its last iteration before it has computed the solution.

    Parameters
    ----------
    matrix, vectors : A, and two vectors without memory, for its result and its argument.
    preconditioned : z, shape `(n_local,)`.
    """
    product = empty_like(preconditioned)
    with placed((vectors[0], product), (vectors[1], preconditioned)):
        matrix.mult(vectors[1], vectors[0])
    pairs = (preconditioned, product), (preconditioned, preconditioned), (product, product)
    sums = np.array([inner(a, b) for a, b in pairs])
    private(comm).sums.Allreduce(MPI.IN_PLACE, sums)
    return bool(abs(sums[0]) > ROUNDING * math.sqrt(sums[1]) * math.sqrt(sums[2]))
