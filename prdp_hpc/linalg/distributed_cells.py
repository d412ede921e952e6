"""The division of a mesh's cells and nodes among ranks by PETSc's partitioners."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.array_types import IntegerArray
from prdp_hpc.linalg.mesh_checks import check_cells, check_numbers, require_equal
from prdp_hpc.petsc import PETSc

GRAPH_PARTITIONERS = ("ptscotch", "parmetis")
"""PETSc's partitioners of graphs that read the whole graph on several ranks, best first."""
Numbers = NDArray[np.int64]


class DistributedCells:
    """A mesh whose cells are divided among the ranks, with nodes renumbered to match.

    Neighbouring cells come to one rank, so that few nodes are shared, and each rank owns
    consecutive numbers of nodes that its cells touch, as the rows of a PETSc matrix require.

    The cells are divided by one of PETSc's partitioners, as the graph in which two cells are
    neighbours if they share a node. A shared node belongs to the rank with most of its cells.

    Parameters
    ----------
    cells : array_like of int, shape (n_cells, k)
        The nodes of this rank's share of the cells, numbered from 0 to `n − 1`; each cell is on one
        rank, in any division, e.g. `numpy.array_split(cells, comm.size)[comm.rank]`.
    n : int
        Number of nodes of the whole mesh.
    comm : mpi4py.MPI.Comm, optional
        The ranks. Default: all ranks.
    kind : str, optional
        PETSc's name of a partitioner: "ptscotch" or "parmetis" if PETSc was built with it;
        "average" divides the cells in the order of their numbers into equal parts; "current" keeps
        each cell on its rank. Default: the first of ptscotch, parmetis and average that PETSc has.

    Attributes
    ----------
    cells : ndarray
        The cells that this rank owns, by the new numbers of their nodes, shape `(m, k)`.
    cell_numbers : ndarray
        The numbers of these cells in the given order, in which the cells of rank 0 come first;
        shape `(m,)`.
    node_numbers : ndarray
        The given numbers of the nodes that this rank owns, shape `(n_local,)`; their new numbers
        are consecutive.
    first_node : int
        The new number of the first of these nodes.
    kind : str
        The partitioner that was used.

    Raises
    ------
    InputError
        On all ranks together: for cells of a wrong kind or range, different `n`, and a partitioner
        that PETSc does not have or that fails.

    Notes
    -----
    PETSc manual pages: MatPartitioningType, MatPartitioningApply, AOCreateMemoryScalable.
    Collective. With "average" and "current" the quality depends on the order of the cells: number
    them along the longest side of the domain, or use a PETSc with PT-SCOTCH, e.g. the binary
    package `dolfinx-solver-real` for Python from 3.12 on.

    Examples
    --------
    A rod of three elements with 1 at its right end, on any number of ranks:

    >>> import numpy, torch
    >>> from mpi4py import MPI
    >>> from prdp_hpc import DistributedCells, ElementOperator, Solver, solve
    >>> comm = MPI.COMM_WORLD
    >>> cells = numpy.array_split([[0, 1], [1, 2], [2, 3]], comm.size)[comm.rank]
    >>> mesh = DistributedCells(cells, 4, comm)
    >>> ends = mesh.renumbered([0, 3])
    >>> operator = ElementOperator(
    ...     mesh.cells, 4, comm, n_local=len(mesh.node_numbers), dirichlet=ends, symmetric=True
    ... )
    >>> K = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double().expand(len(mesh.cells), 2, 2)
    >>> at_end = torch.tensor([0.0, 0.0, 0.0, 1.0]).double()[mesh.node_numbers]
    >>> b = operator.right_hand_side(K, torch.zeros_like(at_end), at_end)
    >>> solve(operator, K, b, Solver("cg", "jacobi", 1e-12))
    tensor([0.0000, 0.3333, 0.6667, 1.0000], dtype=torch.float64)
    """

    def __init__(
        self, cells: IntegerArray, n: int, comm: MPI.Comm | None = None, kind: str | None = None
    ) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        given, self.kind = np.asarray(cells), kind or _default_kind()
        call_together(comm, lambda: check_cells(given, n, "node"))
        agreed = (int(n), given.shape[1], self.kind)
        require_equal(comm, "numbers of nodes or nodes per cell, or partitioners", agreed)
        self._comm, self._n = comm, int(n)
        own = given.astype(np.int64)
        first = cast("MPI.Intracomm", comm).exscan(len(own)) or 0
        rows = np.column_stack([np.arange(first, first + len(own)), own])
        mine = _exchanged(comm, rows, call_together(comm, lambda: self._owners(own)))
        mine = mine[np.argsort(mine[:, 0])]
        self.cell_numbers, touched = mine[:, 0], mine[:, 1:]
        self.node_numbers = self._owned_nodes(touched)
        self.first_node = int(cast("MPI.Intracomm", comm).exscan(len(self.node_numbers)) or 0)
        self.cells = self.renumbered(touched)

    def renumbered(self, nodes: IntegerArray) -> Numbers:
        """Return the new numbers of nodes, e.g. of those with a Dirichlet condition; collective.

        Parameters
        ----------
        nodes : array_like of int
            Given numbers, of any shape; those of this rank, or of any.

        Returns
        -------
        ndarray
            The new numbers, of the same shape.

        Raises
        ------
        InputError
            On all ranks, for a number outside of 0 to `n − 1`.
        """
        given = np.asarray(nodes)
        call_together(self._comm, lambda: check_numbers("nodes", given, self._n, "node"))
        end = self.first_node + len(self.node_numbers)
        new = np.arange(self.first_node, end, dtype=PETSc.IntType)
        numbering = PETSc.AO().createMemoryScalable(
            self.node_numbers.astype(PETSc.IntType), new, comm=self._comm
        )
        found = numbering.app2petsc(given.reshape(-1).astype(PETSc.IntType))
        numbering.destroy()
        return np.asarray(found).astype(np.int64).reshape(given.shape)

    def _owners(self, cells: Numbers) -> Numbers:
        """The rank that each of this rank's given cells is to belong to."""
        partitioning, found = PETSc.MatPartitioning().create(comm=self._comm), PETSc.IS()
        try:
            partitioning.setType(self.kind)
            if self._comm.size == 1:
                return np.zeros(len(cells), dtype=np.int64)
            partitioning.setAdjacency(self._neighbours(cells))
            partitioning.apply(found)
        except PETSc.Error as error:
            raise _unusable(self.kind, error) from error
        return np.asarray(found.getIndices(), dtype=np.int64)

    def _neighbours(self, cells: Numbers) -> Any:
        """The matrix of the graph: the entry of two cells is the number of nodes they share."""
        first = cast("MPI.Intracomm", self._comm).exscan(len(cells)) or 0
        rows = np.repeat(np.arange(first, first + len(cells)), cells.shape[1])
        touches = self._counted((len(cells), None), (None, self._n), rows, cells.reshape(-1))
        return touches.matTransposeMult(touches)

    def _owned_nodes(self, touched: Numbers) -> Numbers:
        """The given numbers of the nodes that this rank owns; `touched` are those of its cells."""
        comm = self._comm
        nodes = touched.reshape(-1)
        ranks = np.full(len(nodes), comm.rank)
        votes = self._counted((None, self._n), (None, comm.size), nodes, ranks)
        start, end = votes.getOwnershipRange()
        ends, candidates, counts = votes.getValuesCSR()
        # Nodes without cells stay where they are.
        owners = np.full(end - start, comm.rank)
        for node in np.flatnonzero(np.diff(ends)):
            row = slice(ends[node], ends[node + 1])
            most = candidates[row][counts[row] == counts[row].max()]
            # Not always the lowest rank, which would own more nodes than the others.
            owners[node] = most[(start + node) % len(most)]
        return np.sort(_exchanged(comm, np.arange(start, end)[:, None], owners)[:, 0])

    def _counted(self, rows: Any, cols: Any, i: Numbers, j: Numbers) -> Any:
        """A matrix with the number of times that each place (i, j) is given; the sizes of rows and
        columns are (local, global), None: PETSc's choice.
        """
        matrix = PETSc.Mat().create(comm=self._comm)
        matrix.setSizes((rows, cols))
        matrix.setType(PETSc.Mat.Type.AIJ)
        matrix.setPreallocationCOO(i.astype(PETSc.IntType), j.astype(PETSc.IntType))
        matrix.setValuesCOO(np.ones(len(i)))
        return matrix


def _exchanged(comm: MPI.Comm, rows: Numbers, ranks: NDArray[Any]) -> Numbers:
    """The rows that all ranks send to this one, if row i goes to rank `ranks[i]`; collective."""
    order = np.argsort(ranks, kind="stable")
    starts = np.cumsum(np.bincount(ranks, minlength=comm.size))[:-1]
    parts = np.split(rows[order], starts)
    return np.concatenate(private(comm).agreement.alltoall(parts))


def _default_kind() -> str:
    has = (kind for kind in GRAPH_PARTITIONERS if PETSc.Sys.hasExternalPackage(kind))
    return next(has, "average")


def _unusable(kind: str, error: PETSc.Error) -> InputError:
    there = [one for one in GRAPH_PARTITIONERS if PETSc.Sys.hasExternalPackage(one)]
    why = str(error).strip().splitlines()[-1].strip()
    return InputError(
        f"PETSc cannot divide the cells by the partitioner {kind!r} ({why}): of those for graphs "
        f"this PETSc has {', '.join(there) or 'neither ptscotch nor parmetis'}; use "
        f"{(there or ['average'])[0]!r}, or build PETSc with --download-ptscotch, or install "
        "the binary package dolfinx-solver-real, which has ptscotch"
    )
