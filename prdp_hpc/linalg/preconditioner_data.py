"""Data that preconditioners use besides the matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.array_types import IntegerArray, RealArray
from prdp_hpc.linalg.nullspaces import Nullspace, create_near_nullspace
from prdp_hpc.linalg.torch_petsc import Array, Memory
from prdp_hpc.petsc import PETSc

Fields = Mapping[str, IntegerArray]


@dataclass(frozen=True)
class PreconditionerData:
    """The near-nullspace, coordinates and fields of one operator's rows.

    Attributes
    ----------
    near_nullspace : vectors that algebraic multigrid interpolates exactly; None: constants.
    coordinates : of this rank's nodes, `(n_local / block_size, dim)`, if they were given.
    fields : an index set per field of "fieldsplit", by name.
    """

    near_nullspace: Nullspace | None = None
    coordinates: Array | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def in_memory(self, memory: Memory) -> PreconditionerData:
        """The same for a matrix in another memory."""
        near = self.near_nullspace
        return replace(self, near_nullspace=None if near is None else near.in_memory(memory))

    def attach_to_matrix(self, matrix: Any) -> None:
        """Attach the near-nullspace to a matrix, for its PCs; PETSc manual page:
        MatSetNearNullSpace.
        """
        if self.near_nullspace is not None:
            matrix.setNearNullSpace(self.near_nullspace.petsc)

    def attach_to_preconditioner(self, pc: Any) -> None:
        """Set coordinates and fields of a PC with type and matrix; PETSc manual pages:
        PCSetCoordinates, PCFieldSplitSetIS.
        """
        if self.coordinates is not None:
            pc.setCoordinates(self.coordinates)
        if self.fields and pc.getType() == PETSc.PC.Type.FIELDSPLIT:
            pc.setFieldSplitIS(*self.fields.items())


def create_preconditioner_data(
    comm: MPI.Comm,
    matrix: Any,
    near_nullspace: RealArray | None = None,
    coordinates: RealArray | None = None,
    fields: Fields | None = None,
) -> PreconditionerData:
    """The data of an operator's arguments, checked and attached to its matrix; collective.

    Sizes and block size of the matrix must be set.

    Raises
    ------
    ValueError
        On all ranks: for near-nullspace vectors that are not a basis, coordinates of a wrong shape
        or besides a near-nullspace, or fields that are not a division of this rank's rows.
    """
    start, end = matrix.getOwnershipRange()
    block_size = matrix.getBlockSize()
    given = near_nullspace is None, coordinates is None, None if fields is None else tuple(fields)
    wrong = _validate_coordinates(coordinates, end - start, block_size, near_nullspace is not None)
    raise_together(comm, wrong or _validate_fields(fields, start, end))
    if len(set(private(comm).agreement.allgather(given))) > 1:
        raise InputError(
            "the ranks gave one operator different data for its preconditioner: "
            "near_nullspace, coordinates and the names of fields must be the same on every rank"
        )
    data = PreconditionerData(
        create_near_nullspace(comm, end - start, near_nullspace),
        None if coordinates is None else np.array(coordinates, dtype=np.float64, order="C"),
        {name: _index_set(comm, rows) for name, rows in (fields or {}).items()},
    )
    data.attach_to_matrix(matrix)
    return data


def _index_set(comm: MPI.Comm, rows: IntegerArray) -> Any:
    return PETSc.IS().createGeneral(np.sort(np.asarray(rows)).astype(PETSc.IntType), comm=comm)


def _validate_coordinates(
    coordinates: RealArray | None, n_local: int, block_size: int, besides: bool
) -> InputError | None:
    if coordinates is None:
        return None
    if besides:
        return InputError(
            "near_nullspace and coordinates both specify what multigrid interpolates exactly "
            "(coordinates: the rigid-body modes): pass one of them"
        )
    array, nodes = np.asarray(coordinates), n_local // block_size
    wanted = (1, 2, 3) if block_size == 1 else (block_size,)
    if array.ndim != 2 or len(array) != nodes or array.shape[1] not in wanted:
        return InputError(
            f"coordinates must have one row per node of this rank, shape ({nodes}, dim) with dim "
            f"{' or '.join(map(str, wanted))} for block_size={block_size}, not {array.shape}; for "
            "other unknowns per node pass near_nullspace"
        )
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        return InputError("coordinates must be finite real numbers")
    return None


def _validate_fields(fields: Fields | None, start: int, end: int) -> InputError | None:
    if fields is None:
        return None
    if not fields or not all(isinstance(name, str) and name.isidentifier() for name in fields):
        return InputError(
            f"fields must name each field, e.g. {{'velocity': rows, 'pressure': rows}}, "
            f"not {list(fields)}"
        )
    parts = [np.asarray(rows) for rows in fields.values()]
    if not all(part.ndim == 1 and (part.dtype.kind in "iu" or not part.size) for part in parts):
        return InputError("each of fields must be a list of global row numbers (integers)")
    if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(start, end)):
        return InputError(
            f"fields must hold each of this rank's rows {start} to {end - 1} exactly once, by "
            "their global numbers"
        )
    return None
