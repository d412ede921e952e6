"""Multi-right-hand-side solves of a batch, for methods without inner products."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.torch_petsc import Array, is_aij
from prdp_hpc.petsc import PETSc

MOST_NUMBERS = 1_000_000
"""Largest average size of a batch on a rank, in numbers, for which several ranks solve it at once;
a solve stores five vectors of that length.
"""
MOST_ON_ONE_RANK = 25_000
"""The same on one rank, where no messages are saved: larger batches are faster one by one."""
MOST_SIZES = 4
"""Number of batch sizes whose KSPs are kept."""


class MultiRhsRichardson:
    """K steps of Richardson's method with Jacobi or no preconditioner, for all right-hand sides of
    a batch at once.

    B systems `A x = b` are written as one system `(A ⊗ I) X = B`, whose matrix refers to A (PETSc
    manual page: MatCreateMAIJ). K steps without inner products give the same numbers as separate
    solves, bit for bit, but need one pass over A, one message to each neighbour and one call of
    the KSP for the whole batch (docs/decisions/25_richardson_batches.md has the times).

    `matrix` is an AIJ matrix without a nullspace, `pmat` the matrix of the diagonal. Changes of
    their values take effect at the next solve.
    """

    def __init__(self, matrix: Any, pmat: Any, pc: str) -> None:
        self._matrix, self._pmat, self._pc = matrix, pmat, pc
        ranks = matrix.comm.size
        self._share = matrix.getSize()[0] / ranks
        self._most = MOST_ON_ONE_RANK if ranks == 1 else MOST_NUMBERS
        self._ksps: dict[int, _MultiRhsKsp] = {}

    def solves(self, level: Refinement, count: int) -> bool:
        """Whether a batch of `count` is to be solved at once, at this level; equal on all
        ranks. After a failure the right-hand sides are solved one by one.
        """
        return level.is_fixed and count > 1 and count * self._share <= self._most

    def solve(self, b: Array, x: Array, max_it: int, transposed: bool) -> bool:
        """Solve for each row of `b (B, n_local)` into `x`; returns whether it succeeded.

        Collective.
        """
        count = len(b)
        found = self._ksps.get(count)
        if found is None:
            while len(self._ksps) >= MOST_SIZES:
                self._ksps.pop(next(iter(self._ksps))).destroy()
            found = self._ksps[count] = _MultiRhsKsp(self._matrix, self._pmat, self._pc, count)
        return found.solve(b, x, max_it, transposed)


def multi_rhs_richardson(ksp: Any, matrix: Any, pmat: Any) -> MultiRhsRichardson | None:
    """The multi-right-hand-side solves that are equivalent to this KSP at a fixed number of
    iterations; None if there are none.
    """
    prefix, pc = ksp.getOptionsPrefix(), ksp.getPC().getType()
    plain = ksp.getType() == PETSc.KSP.Type.RICHARDSON and pc in (
        PETSc.PC.Type.JACOBI,
        PETSc.PC.Type.NONE,
    )
    # Options may change the method (its scale, or the diagonal that is used).
    if not plain or any(name.startswith(prefix) for name in PETSc.Options().getAll()):
        return None
    if _create_maij() is None or not is_aij(matrix) or matrix.getNullSpace():
        return None
    return MultiRhsRichardson(matrix, pmat, pc)


class _MultiRhsKsp:
    """The KSP for one batch size. Its vectors have the B numbers of a row of A side by side."""

    def __init__(self, matrix: Any, pmat: Any, pc: str, count: int) -> None:
        create = _create_maij()
        assert create is not None
        self._pmat, self._count, self._state = pmat, count, -1
        expanded = create(matrix, count)
        self._b, self._x = expanded.createVecs()
        # A MAIJ matrix cannot return its diagonal.
        self._own_diagonal, self._diagonal = matrix.createVecLeft(), expanded.createVecLeft()
        self._ksp = PETSc.KSP().create(comm=matrix.comm)
        self._ksp.setType(PETSc.KSP.Type.RICHARDSON)
        self._ksp.getPC().setType(pc)
        self._operators = expanded, PETSc.Mat().createDiagonal(self._diagonal)
        self._ksp.setNormType(PETSc.KSP.NormType.NONE)
        self._ksp.setConvergenceTest(None)

    def solve(self, b: Array, x: Array, max_it: int, transposed: bool) -> bool:
        self._take_diagonal()
        self._ksp.setTolerances(rtol=0.0, max_it=max_it)
        self._b.getArray().reshape(-1, self._count)[:] = b.T
        (self._ksp.solveTranspose if transposed else self._ksp.solve)(self._b, self._x)
        x[:] = self._x.getArray(readonly=True).reshape(-1, self._count).T
        return bool(self._ksp.getConvergedReason() > 0)

    def destroy(self) -> None:
        """Free all objects now, because PETSc delays it for parallel objects; collective."""
        vectors = self._b, self._x, self._own_diagonal, self._diagonal
        for each in (self._ksp, *self._operators, *vectors):
            each.destroy()

    def _take_diagonal(self) -> None:
        state = self._pmat.stateGet()
        if state == self._state:
            return
        self._pmat.getDiagonal(self._own_diagonal)
        own = self._own_diagonal.getArray(readonly=True)
        self._diagonal.setArray(np.repeat(own, self._count))
        self._operators[1].setDiagonal(self._diagonal)
        self._ksp.setOperators(*self._operators)
        self._state = state


def _create_maij() -> Callable[[Any, int], Any] | None:
    """MatCreateMAIJ, which petsc4py does not have; None if its library does not export it."""
    try:
        create = ctypes.CDLL(PETSc.__file__).MatCreateMAIJ
        wrap = _from_c("PyPetscMat_New")
    except (AttributeError, KeyError, OSError):
        return None
    create.argtypes = [ctypes.c_void_p, np.ctypeslib.as_ctypes_type(PETSc.IntType), ctypes.c_void_p]
    create.restype = ctypes.c_int

    def create_maij(matrix: Any, count: int) -> Any:
        handle = ctypes.c_void_p()
        code = create(matrix.handle, count, ctypes.byref(handle))
        if code:
            raise PETSc.Error(code)
        expanded = wrap(handle.value)
        # The wrapper holds another reference.
        PETSc.Object.decRef(expanded)
        return expanded

    return create_maij


def _from_c(name: str) -> Callable[[Any], Any]:
    """A function of petsc4py's C interface that makes a Python object of a PETSc handle."""
    capsule = PETSc.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)(
        pointer_of(capsule, name_of(capsule))
    )
