"""PETSc matrices as other code would assemble them."""

import numpy as np
from petsc4py import PETSc


def assembled(dense, comm, kind="aij", block_size=1, n_local=PETSc.DECIDE):
    """A Mat of the type `kind` with the nonzero entries of a dense matrix."""
    n = len(dense)
    matrix = PETSc.Mat().create(comm=comm)
    matrix.setSizes(((n_local, n), (n_local, n)), bsize=block_size)
    matrix.setType(kind)
    matrix.setUp()
    fill(matrix, dense)
    return matrix


def fill(matrix, dense):
    """Set the rows of this rank and assemble."""
    matrix.setOption(PETSc.Mat.Option.NEW_NONZERO_ALLOCATION_ERR, False)
    start, end = matrix.getOwnershipRange()
    lower = str(matrix.getType()).endswith("sbaij")
    for i in range(start, end):
        for j in np.flatnonzero(dense[i]):
            if not (lower and j < i):
                matrix.setValue(i, j, dense[i, j])
    matrix.assemble()
