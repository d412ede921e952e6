"""Property: a mesh whose cells are divided in any way has the solution and derivatives of the whole
one.
"""

import math

import numpy as np
import pytest
import torch
from elements import Slab, dense_solve, random_mesh, reference, same_on_all
from mpi4py import MPI

from prdp_hpc import ElementOperator, Solver, solve

WORLD = MPI.COMM_WORLD
N = 7
CELLS, K = random_mesh(N)
SOLVER = Solver("gmres", "jacobi", 1e-13)


def shares(kind):
    """The cells of this rank: dealt out one by one, or all on the last rank."""
    last = np.full(len(CELLS), WORLD.size - 1)
    owners = np.arange(len(CELLS)) % WORLD.size if kind == "dealt" else last
    return np.flatnonzero(owners == WORLD.rank)


def check_derivatives(kind):
    mine, fixed = shares(kind), [1, 5]
    # named by one rank, which need not own them or touch them
    operator = ElementOperator(CELLS[mine], N, dirichlet=fixed if WORLD.rank == 0 else None)
    part = slice(*operator.row_range)
    load, prescribed, direction = (same_on_all(2, N, seed=seed) for seed in range(3))

    def hessian_product(function, matrices, load, prescribed, direction):
        inputs = [t.clone().requires_grad_() for t in (matrices, load, prescribed)]
        x = function(*inputs)
        first = torch.autograd.grad((x**3).sum(), inputs, create_graph=True)
        along = (first[1] * direction).sum() + (first[0] ** 2).sum()
        return [x.detach(), *first, *torch.autograd.grad(along, inputs)]

    def divided(matrices, load, prescribed):
        b = operator.right_hand_side(matrices, load, prescribed)
        return solve(operator, matrices, b, SOLVER)

    # one system for all: g − K g moves prescribed values to the right
    def whole(matrices, load, prescribed):
        is_fixed = torch.zeros(N, dtype=torch.bool)
        is_fixed[fixed] = True
        given = torch.where(is_fixed, prescribed, 0.0)
        moved = torch.einsum("cij,rcj->rci", matrices, given[:, CELLS])
        flat = torch.zeros(2, N, dtype=torch.float64)
        flat = flat.index_add(1, torch.as_tensor(CELLS).flatten(), moved.flatten(1))
        b = torch.where(is_fixed, prescribed, load - flat)
        return dense_solve(CELLS, N, matrices, b, fixed)

    found = hessian_product(divided, K[mine], *(t[:, part] for t in (load, prescribed, direction)))
    wanted = hessian_product(whole, K, load, prescribed, direction)
    for index, (own, all_of_it) in enumerate(zip(found, wanted, strict=True)):
        expected = all_of_it[mine] if index in (1, 4) else all_of_it[:, part]
        torch.testing.assert_close(own, expected, rtol=1e-7, atol=1e-9)


def check_the_slab():
    for nx, compliance in reference()["random_density"].items():
        slab = Slab(int(nx))
        mine = np.array_split(np.arange(len(slab.cells)), WORLD.size)[WORLD.rank]
        operator = ElementOperator(slab.cells[mine], slab.n, dirichlet=slab.fixed, symmetric=True)
        part, solver = slice(*operator.row_range), Solver("cg", "jacobi", 1e-12)

        def total_compliance(density, slab=slab, operator=operator, part=part, solver=solver):
            x = solve(operator, slab.matrices(density), slab.load[part], solver)
            return x @ slab.load[part]

        density = slab.density[mine].requires_grad_()
        own = total_compliance(density)
        own.backward()
        assert math.isclose(WORLD.allreduce(own.item()), compliance, rel_tol=1e-6)
    direction = same_on_all(len(slab.cells))[mine]
    step = 1e-5
    ends = [
        WORLD.allreduce(total_compliance((density + sign * step * direction).detach()).item())
        for sign in (1, -1)
    ]
    slope = WORLD.allreduce((density.grad @ direction).item())
    assert math.isclose(slope, (ends[0] - ends[1]) / (2 * step), rel_tol=1e-6)


def check_mistakes_on_one_rank():
    last = WORLD.rank == WORLD.size - 1
    mine = shares("dealt")
    operator = ElementOperator(CELLS[mine], N, dirichlet=[0])
    b = torch.ones(operator.n_local)
    wrong = [
        ("cells must hold", lambda: ElementOperator(CELLS[mine] + (N if last else 0), N)),
        ("different numbers of dofs", lambda: ElementOperator(CELLS[mine], N + last)),
        ("element matrices", lambda: solve(operator, K[mine][last:], b, SOLVER)),
        ("b must have shape", lambda: operator.right_hand_side(K[mine], b[last:])),
        ("different .* loads", lambda: operator.right_hand_side(K[mine], b.expand(2 + last, -1))),
        ("prescribed", lambda: operator.right_hand_side(K[mine], b, "0" if last else 0.0)),
    ]
    for message, call in wrong:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_divided_meshes():
    check_derivatives("dealt")
    check_derivatives("on one rank")
    check_mistakes_on_one_rank()
    check_the_slab()
