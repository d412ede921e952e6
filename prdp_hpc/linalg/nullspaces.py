"""The nullspaces of a singular matrix and of its transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.array_types import RealArray
from prdp_hpc.linalg.arrays import (
    Numbers,
    array_of,
    as_tensor,
    copied,
    in_memory_of,
    on_host,
    set_rows,
    squares_of_rows,
    times_power_of_two,
)
from prdp_hpc.linalg.scaling import exponents_of
from prdp_hpc.linalg.torch_petsc import HOST, Array, Memory, to_memory
from prdp_hpc.petsc import PETSc

DEPENDENT = 1e-10
"""Length of the orthogonal part of a unit vector below which it depends on the vectors before."""
MOSTLY = 1e-6
"""A relative squared length of the remainder below which the remainder is checked again."""
ROUNDING = 1e-14
"""A relative length of the remainder below which it is rounding."""
SMALLEST_SQUARE = 1e-200
"""A squared length below which products of components underflow."""


class Nullspace:
    """The span of a few vectors, divided among the ranks of `comm`.

    Parameters
    ----------
    comm : the ranks that share the vectors.
    basis : this rank's part `(k, n_local)` of k orthonormal vectors.
    is_constant : whether it is the constant only, for which PETSc needs no vector.
    """

    def __init__(
        self, comm: MPI.Comm, basis: Array, is_constant: bool = False, memory: Memory = HOST
    ) -> None:
        self.comm, self.basis, self.is_constant = comm, basis, is_constant
        self._own = to_memory(basis, memory)
        vectors = [] if is_constant else [_vector(z, comm, memory) for z in basis]
        self.petsc = PETSc.NullSpace().create(constant=is_constant, vectors=vectors, comm=comm)

    def __len__(self) -> int:
        return len(self.basis)

    def in_memory(self, memory: Memory) -> Nullspace:
        """The same span for vectors in another memory."""
        return Nullspace(self.comm, self.basis, self.is_constant, memory)

    def removed_from(self, vectors: Numbers) -> Numbers:
        """`(B, n_local)` without their parts in the span, a new array; collective.

        A vector inside the span becomes exactly 0, so that no solve is done for rounding errors.
        """
        rest, whole, along = self._split(vectors)
        if not ((whole > SMALLEST_SQUARE) & np.isfinite(whole)).all():
            exponents = exponents_of(self.comm, vectors)
            if exponents is not None:
                scaled = self.removed_from(times_power_of_two(vectors, exponents, -1))
                return times_power_of_two(scaled, exponents)
        mostly = whole - (along**2).sum(axis=1) <= MOSTLY * whole
        if not mostly.any():
            return rest
        rest, left, along = self._split(rest)
        left -= (along**2).sum(axis=1)
        set_rows(rest, mostly & (left <= ROUNDING**2 * whole), 0.0)
        return rest

    def _split(self, vectors: Numbers) -> tuple[Numbers, Array, Array]:
        """The remainder, the squared lengths `(B,)` and the components `(B, k)` in the span."""
        sums = np.empty((len(vectors), len(self) + 1))
        sums[:, :-1] = on_host(vectors @ self._own.T)
        sums[:, -1] = squares_of_rows(vectors)
        if self.comm.size > 1:
            private(self.comm).sums.Allreduce(MPI.IN_PLACE, sums)
        along = sums[:, :-1]
        return vectors - in_memory_of(along, vectors) @ self._own, sums[:, -1], along

    @property
    def tensor(self) -> Tensor:
        """The basis as a tensor `(k, n_local)`, a copy, in the memory of the vectors."""
        return as_tensor(copied(self._own))


class Nullspaces:
    """The right nullspace, `A z = 0`, and the left one, `Aᵀ w = 0`, of one matrix.

    Parameters
    ----------
    right, left : the two nullspaces; the same object if they are equal.
    left_is_given : whether the left one was given, or is assumed to equal the right one.
    """

    def __init__(self, right: Nullspace, left: Nullspace, left_is_given: bool) -> None:
        self.right, self.left, self.left_is_given = right, left, left_is_given

    def in_memory(self, memory: Memory) -> Nullspaces:
        """The same for vectors in another memory."""
        right = self.right.in_memory(memory)
        left = right if self.left is self.right else self.left.in_memory(memory)
        return Nullspaces(right, left, self.left_is_given)

    def attach(self, matrix: Any) -> None:
        """Attach them to a PETSc matrix, for its KSPs and PCs; PETSc manual pages:
        MatSetNullSpace, MatSetTransposeNullSpace.
        """
        matrix.setNullSpace(self.right.petsc)
        matrix.setTransposeNullSpace(self.left.petsc)

    def of_result(self, transposed: bool) -> Nullspace:
        """The nullspace to which the solution with A, or with Aᵀ, is orthogonal."""
        return self.left if transposed else self.right

    def of_right_hand_side(self, transposed: bool) -> Nullspace:
        """The span that is removed from the right-hand side for A, or for Aᵀ."""
        return self.right if transposed else self.left


def create_nullspaces(
    comm: MPI.Comm,
    n_local: int,
    constant: bool,
    right: RealArray | None,
    left: RealArray | None,
) -> Nullspaces | None:
    """The nullspaces of an operator's arguments, None without any; collective.

    Raises
    ------
    ValueError
        On all ranks: for vectors of a wrong shape, zero, not finite or linearly dependent, or
        different numbers of right and left ones.
    """
    raise_together(comm, _validate_nullspaces(n_local, constant, right, left))
    if right is None and not constant:
        return None
    if right is None:
        n = private(comm).sums.allreduce(n_local)
        own = Nullspace(comm, np.full((1, n_local), n**-0.5), is_constant=True)
    else:
        own = Nullspace(comm, _orthonormal(comm, right, "nullspace"))
    if left is None:
        return Nullspaces(own, own, left_is_given=False)
    other = Nullspace(comm, _orthonormal(comm, left, "left_nullspace"))
    if len(other) != len(own):
        raise InputError(
            f"nullspace has {len(own)} vectors and left_nullspace {len(other)}: a square matrix "
            "has as many on the right as on the left"
        )
    return Nullspaces(own, other, left_is_given=True)


def nullspaces_of(comm: MPI.Comm, matrix: Any) -> Nullspaces | None:
    """Those that a user attached to a PETSc matrix, made orthonormal and attached; None if there
    are none; collective.
    """
    right, left = matrix.getNullSpace(), matrix.getTransposeNullSpace()
    if not right.handle and not left.handle:
        return None
    n_local = matrix.getLocalSize()[0]
    found = create_nullspaces(
        comm,
        n_local,
        False,
        vectors_of(right, n_local) if right.handle else None,
        vectors_of(left, n_local) if left.handle else None,
    )
    assert found is not None
    found.attach(matrix)
    return found


def vectors_of(nullspace: Any, n_local: int) -> Array:
    """The vectors of a PETSc nullspace, the constant first, `(k, n_local)`."""
    vectors = [np.array(vector.getArray(readonly=True)) for vector in nullspace.getVecs()]
    constant = [np.ones(n_local)] if nullspace.hasConstant() else []
    return np.array([*constant, *vectors]).reshape(len(constant) + len(vectors), n_local)


def create_near_nullspace(
    comm: MPI.Comm, n_local: int, vectors: RealArray | None
) -> Nullspace | None:
    """The span of an operator's near-nullspace, None if it was not given; collective.

    Raises
    ------
    ValueError
        As for `create_nullspaces`.
    """
    raise_together(comm, _validate_vectors(n_local, vectors, "near_nullspace"))
    if vectors is None:
        return None
    return Nullspace(comm, _orthonormal(comm, vectors, "near_nullspace"))


def _orthonormal(comm: MPI.Comm, vectors: RealArray, name: str) -> Array:
    """An orthonormal basis `(k, n_local)` of the span of `(k, n_local)` or `(n_local,)`;
    collective.
    """
    basis = np.array(array_of(vectors), dtype=np.float64, ndmin=2)
    counts = private(comm).sums.allgather(len(basis))
    if len(set(counts)) > 1:
        raise InputError(f"the ranks gave {min(counts)} … {max(counts)} vectors of {name}")
    # Scaled by their maxima first, so that no square overflows or underflows; NaN has no maximum.
    sizes = np.where(np.isfinite(basis), np.abs(basis), np.inf).max(axis=1, initial=0.0)
    private(comm).sums.Allreduce(MPI.IN_PLACE, sizes, op=MPI.MAX)
    if not (np.isfinite(sizes).all() and (sizes > 0.0).all()):
        raise InputError(f"a vector of {name} must be finite, and not zero")
    basis /= sizes[:, None]
    for index, vector in enumerate(basis):
        vector /= _length(comm, vector)
        before = basis[:index]
        # Two passes are enough: the second removes the rounding errors of the first.
        for _ in range(2 if index else 0):
            vector -= private(comm).sums.allreduce(before @ vector) @ before
        length = _length(comm, vector)
        if length < DEPENDENT:
            raise InputError(
                f"vector {index} of {name} is a combination of those before it: pass linearly "
                "independent vectors"
            )
        vector /= length
    return basis


def _vector(z: Array, comm: MPI.Comm, memory: Memory) -> Any:
    """A PETSc vector of these numbers."""
    vector = PETSc.Vec().createWithArray(z, comm=comm)
    if not memory.kind:
        return vector
    own = PETSc.Vec().create(comm=comm)
    own.setSizes(vector.getSizes())
    own.setType(memory.kind.lower())
    vector.copy(own)
    return own


def _length(comm: MPI.Comm, vector: Array) -> float:
    return float(np.sqrt(private(comm).sums.allreduce(float(vector @ vector))))


def _validate_nullspaces(
    n_local: int, constant: bool, right: RealArray | None, left: RealArray | None
) -> ValueError | None:
    if right is not None and constant:
        return InputError(
            "constant_nullspace and nullspace both specify the whole nullspace: pass one of them; "
            "with further vectors, include the constant in nullspace"
        )
    if left is not None and right is None and not constant:
        return InputError(
            "left_nullspace without nullspace: a square matrix has as many vectors on the right as "
            "on the left, so pass both"
        )
    return _validate_vectors(n_local, right, "nullspace") or _validate_vectors(
        n_local, left, "left_nullspace"
    )


def _validate_vectors(n_local: int, vectors: RealArray | None, name: str) -> ValueError | None:
    if vectors is None:
        return None
    array = array_of(vectors)
    if array.ndim not in (1, 2) or array.shape[-1] != n_local or array.shape[0] == 0 < n_local:
        return InputError(
            f"{name} must have one number per row of this rank, shape ({n_local},), or for k "
            f"vectors (k, {n_local}), not {array.shape}"
        )
    if array.dtype.kind not in "fiub":
        return InputError(f"{name} must hold real numbers, not {array.dtype}")
    return None
