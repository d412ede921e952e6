"""Property: where PETSc applies a transposed preconditioner, it is the transpose, or is refused."""

import numpy as np
import pytest
from mpi4py import MPI

from prdp_hpc.linalg.method_types import NO_TRANSPOSE_PCS
from prdp_hpc.petsc import PETSc

PCS = (
    *("none", "jacobi", "bjacobi", "ilu", "lu", "sor", "asm", "gasm", "gamg", "cholesky", "icc"),
    *("redundant", "ksp", "pbjacobi", "kaczmarz", "svd", "telescope", "mat", "cp", "lmvm"),
)


@pytest.mark.parametrize("name", PCS)
def test_the_transposed_application_is_the_transpose(name):
    n = 7
    A = np.random.default_rng(0).normal(size=(n, n)) + 5.0 * np.eye(n)
    matrix = PETSc.Mat().createDense((n, n), array=A, comm=MPI.COMM_SELF).convert("aij")
    pc = PETSc.PC().create(MPI.COMM_SELF)
    pc.setType(name)
    pc.setOperators(matrix)
    pc.setUp()
    try:
        found = columns(pc.applyTranspose, matrix, n)
    except PETSc.Error:
        return  # a solve raises it, too
    is_transpose = np.allclose(found, columns(pc.apply, matrix, n).T)
    assert is_transpose == (name not in NO_TRANSPOSE_PCS)


def columns(apply, matrix, n):
    """The results for the unit vectors, as columns."""
    x, y = matrix.createVecs()
    found = np.zeros((n, n))
    for column in range(n):
        x.setArray(np.eye(n)[column])
        apply(x, y)
        found[:, column] = y.getArray()
    return found
