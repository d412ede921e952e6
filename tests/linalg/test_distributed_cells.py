"""Properties of the division of a mesh's cells among ranks: each cell is on one rank, the parts are
balanced and share few nodes, and a system has the same solution and gradients as undivided.
"""

import numpy as np
import pytest
import torch
from elements import dense_solve
from mpi4py import MPI

from prdp_hpc import DistributedCells, ElementOperator, Solver, solve
from prdp_hpc.errors import InputError
from prdp_hpc.petsc import PETSc

WORLD = MPI.COMM_WORLD
NX, NY = 24, 10
N = (NX + 1) * (NY + 1)
KINDS = [None, "average", "current"]
KINDS += [kind for kind in ("ptscotch", "parmetis") if PETSc.Sys.hasExternalPackage(kind)]
STIFFNESS = torch.tensor(
    [[4, -1, -1, -2], [-1, 4, -2, -1], [-1, -2, 4, -1], [-2, -1, -1, 4]], dtype=torch.float64
).div(6)


def squares(shuffled=False):
    """The cells of a grid of squares, in x-major order or with cells and nodes numbered at random;
    and the numbers of the nodes at one end.
    """
    nodes = np.arange(N).reshape(NX + 1, NY + 1)
    draw = np.random.default_rng(3)
    if shuffled:
        nodes = draw.permutation(N)[nodes]
    corners = nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, :-1], nodes[1:, 1:]
    cells = np.stack([corner.ravel() for corner in corners], axis=1)
    return (draw.permutation(cells) if shuffled else cells), nodes[0]


def shared_nodes(parts):
    """Number of nodes that cells of several ranks touch."""
    touching = np.zeros(N, dtype=int)
    for part in parts:
        touching[np.unique(part)] += 1
    return int((touching > 1).sum())


def check_division(kind, shuffled):
    cells, _ = squares(shuffled)
    share = np.arange(len(cells)) % WORLD.size == WORLD.rank
    given = np.concatenate(WORLD.allgather(cells[share]))
    mesh = DistributedCells(cells[share], N, kind=kind)

    numbers, nodes = (WORLD.allgather(one) for one in (mesh.cell_numbers, mesh.node_numbers))
    assert sorted(np.concatenate(numbers)) == list(range(len(cells)))
    assert sorted(np.concatenate(nodes)) == list(range(N))
    # consecutive new numbers, by which the cells are the given ones
    back = np.concatenate(nodes)
    assert (back[mesh.cells] == given[mesh.cell_numbers]).all()
    assert mesh.first_node == sum(map(len, nodes[: WORLD.rank]))
    assert (back[mesh.renumbered(np.arange(N).reshape(5, -1))].ravel() == np.arange(N)).all()
    # a rank owns nodes of its own cells only
    assert np.isin(mesh.node_numbers, given[mesh.cell_numbers]).all()

    largest, mean = max(map(len, numbers)), len(cells) / WORLD.size
    assert largest <= 1.1 * mean + 1
    parts = [given[own] for own in numbers]
    random = np.array_split(np.random.default_rng(0).permutation(given), WORLD.size)
    if mesh.kind in ("ptscotch", "parmetis"):
        assert max(map(len, nodes)) <= 1.2 * N / WORLD.size + 2
        if WORLD.size > 1:
            assert shared_nodes(parts) < shared_nodes(random) / 3
            assert shared_nodes(parts) <= 1.5 * (NY + 1) * (WORLD.size - 1)


def check_solution(kind, shuffled):
    cells, fixed = squares(shuffled)
    share = np.array_split(np.arange(len(cells)), WORLD.size)[WORLD.rank]
    draw = torch.Generator().manual_seed(0)
    density = (0.1 + torch.rand(len(cells), generator=draw, dtype=torch.float64)).requires_grad_()
    load = torch.rand(N, generator=draw, dtype=torch.float64)
    load[fixed] = 0.0
    whole = dense_solve(cells, N, density[:, None, None] * STIFFNESS, load, fixed)
    (gradient,) = torch.autograd.grad(whole @ load, density)

    mesh = DistributedCells(cells[share], N, kind=kind)
    operator = ElementOperator(
        mesh.cells,
        N,
        dirichlet=mesh.renumbered(fixed),
        n_local=len(mesh.node_numbers),
        symmetric=True,
    )
    own = density.detach()[mesh.cell_numbers].requires_grad_()
    b = load[mesh.node_numbers]
    x = solve(operator, own[:, None, None] * STIFFNESS, b, Solver("cg", "jacobi", 1e-12))
    torch.testing.assert_close(x.detach(), whole.detach()[mesh.node_numbers], rtol=1e-8, atol=1e-9)
    (found,) = torch.autograd.grad(x @ b, own)
    torch.testing.assert_close(found, gradient[mesh.cell_numbers], rtol=1e-7, atol=1e-8)


def check_errors():
    cells, _ = squares()
    last = WORLD.rank == WORLD.size - 1
    bad = np.where(cells == 0, N, cells) if last else cells
    with pytest.raises(InputError, match=f"node numbers in 0 … {N - 1}"):
        DistributedCells(bad, N)
    with pytest.raises(InputError, match="shape"):
        DistributedCells(cells.ravel() if last else cells, N)
    with pytest.raises(InputError, match="nodes must hold integers"):
        DistributedCells(np.array_split(cells, WORLD.size)[WORLD.rank], N).renumbered(
            [0.5] if last else [0]
        )
    if WORLD.size > 1:
        with pytest.raises(InputError, match="the ranks gave different numbers"):
            DistributedCells(cells, N + last)
    with pytest.raises(InputError, match=r"'metis' .*; use '(average|ptscotch|parmetis)'"):
        DistributedCells(np.array_split(cells, WORLD.size)[WORLD.rank], N, kind="metis")


def check_all():
    for kind in KINDS:
        for shuffled in (False, True):
            check_division(kind, shuffled)
        check_solution(kind, shuffled=kind != "average")
    check_errors()


def test_on_one_rank():
    check_all()


@pytest.mark.parallel([2, 3, 4])
def test_on_several_ranks():
    check_all()
