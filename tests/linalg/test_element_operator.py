"""Property: a solve with element matrices is one with their sum, and so are its derivatives."""

import math
import re

import numpy as np
import pytest
import torch
from elements import Slab, assembled, dense_solve, random_mesh, reference, same_on_all
from mpi4py import MPI

from prdp_hpc import ElementOperator, Refinement, Solver, SparseOperator, solve
from prdp_hpc.linalg.ghosts import GhostedIndex

SELF = MPI.COMM_SELF
N = 7
CELLS, K = random_mesh(N)
EXACT = Solver("preonly", "lu")
FIXED = [pytest.param([], id="free"), pytest.param([1, 5], id="constrained")]


def derivatives_of(function, inputs, directions):
    """First derivatives, second ones along the directions, and third ones of both."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    first = torch.autograd.grad((function(*inputs) ** 3).sum(), inputs, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
    second = torch.autograd.grad(along, inputs, create_graph=True)
    third = torch.autograd.grad(sum((g**2).sum() for g in second), inputs)
    return [*first, *second, *third]


def assert_all_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_derivatives_of_any_order_are_those_of_the_sum(fixed, shape):
    operator = ElementOperator(CELLS, N, SELF, dirichlet=fixed)
    inputs = K, same_on_all(*shape, N)
    directions = same_on_all(*K.shape, seed=3), same_on_all(*shape, N, seed=4)
    assert_all_close(
        derivatives_of(lambda k, b: solve(operator, k, b, EXACT), inputs, directions),
        derivatives_of(lambda k, b: dense_solve(CELLS, N, k, b, fixed), inputs, directions),
    )
    _, tangent = torch.func.jvp(lambda k, b: solve(operator, k, b, EXACT), inputs, directions)
    _, wanted = torch.func.jvp(lambda k, b: dense_solve(CELLS, N, k, b, fixed), inputs, directions)
    torch.testing.assert_close(tangent, wanted)


@pytest.mark.parametrize("fixed", FIXED)
def test_batches_of_matrices(fixed):
    operator = ElementOperator(CELLS, N, SELF, dirichlet=fixed)
    matrices = torch.stack([K, 2.0 * K + 0.1])
    inputs, directions = (matrices, same_on_all(6, N)), (0.1 * matrices**2, same_on_all(6, N))
    assert_all_close(
        derivatives_of(lambda k, b: solve(operator, k, b, EXACT), inputs, directions),
        derivatives_of(lambda k, b: dense_solve(CELLS, N, k, b, fixed), inputs, directions),
    )
    b = same_on_all(N)
    found = torch.func.vmap(lambda k: solve(operator, k, b, EXACT))(matrices)
    wanted = torch.stack([dense_solve(CELLS, N, k, b, fixed) for k in matrices])
    torch.testing.assert_close(found, wanted)


def test_prescribed_values_act_on_the_others():
    fixed = [1, 5]
    operator = ElementOperator(CELLS, N, SELF, dirichlet=fixed)
    free = [i for i in range(N) if i not in fixed]

    def dense(matrices, load, prescribed):
        whole, rights = assembled(CELLS, N, matrices), load.reshape(*matrices.shape[:-3], -1, N)
        given = prescribed.reshape(rights.shape)[..., fixed]
        moved = rights[..., free] - given @ whole[..., free, :][..., fixed].mT
        x = torch.empty(rights.shape, dtype=torch.float64)
        inner = whole[..., free, :][..., free]
        x[..., free], x[..., fixed] = torch.linalg.solve(inner, moved.mT).mT, given
        return x.reshape(load.shape)

    def found(matrices, load, prescribed):
        b = operator.right_hand_side(matrices, load, prescribed)
        return solve(operator, matrices, b, EXACT)

    for matrices, shape in ((K, (N,)), (K, (2, N)), (torch.stack([K, 2.0 * K]), (4, N))):
        inputs = matrices, same_on_all(*shape, seed=5), same_on_all(*shape, seed=6)
        directions = 0.1 * matrices, *(same_on_all(*shape, seed=seed) for seed in (7, 8))
        assert_all_close(
            derivatives_of(found, inputs, directions), derivatives_of(dense, inputs, directions)
        )
    load = same_on_all(2, N)
    torch.testing.assert_close(
        operator.right_hand_side(K, load, 2.0),
        operator.right_hand_side(K, load, torch.full((N,), 2.0)),
    )


@pytest.mark.parametrize("ksp", ["richardson", "gmres"])
def test_unrolled_gradients_are_those_of_the_assembled_matrix(ksp):
    fixed = [1, 5]
    cells = torch.as_tensor(CELLS)
    rows, cols = (c.flatten() for c in torch.broadcast_tensors(cells[:, :, None], cells[:, None]))
    kept = ~(torch.isin(rows, torch.tensor(fixed)) | torch.isin(cols, torch.tensor(fixed)))
    ends = torch.tensor(fixed)
    sparse = SparseOperator(
        torch.cat([rows[kept], ends]), torch.cat([cols[kept], ends]), (N, N), SELF
    )
    operator = ElementOperator(CELLS, N, SELF, dirichlet=fixed)
    solver = Solver(ksp, "jacobi", Refinement(max_it=3), differentiation="unrolled")

    def by_entries(k, b):
        entries = torch.cat([k.flatten()[kept], torch.ones(2, dtype=torch.float64)])
        return solve(sparse, entries, b, solver)

    b, gradients = same_on_all(N), []
    for function in (by_entries, lambda k, b: solve(operator, k, b, solver)):
        inputs = K.clone().requires_grad_(), b.clone().requires_grad_()
        gradients.append(torch.autograd.grad((function(*inputs) ** 2).sum(), inputs))
    assert_all_close(*gradients)


def test_vectors_are_looked_up_once_per_dof_of_a_cell(monkeypatch):
    operator, looked_up = ElementOperator(CELLS, N, SELF), []
    gather = GhostedIndex.gather

    def counted(index, local):
        looked_up.append(index.position.numel())
        return gather(index, local)

    monkeypatch.setattr(GhostedIndex, "gather", counted)
    solve(operator, K.clone().requires_grad_(), same_on_all(N), EXACT).sum().backward()
    # λ and x; not two numbers for each entry of an element matrix
    assert looked_up == [CELLS.size, CELLS.size]


def test_nullspaces_and_single_precision():
    # a ring of springs, free to turn
    cells = np.stack([np.arange(N), np.roll(np.arange(N), -1)], axis=1)
    spring = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    operator = ElementOperator(cells, N, SELF, symmetric=True, constant_nullspace=True)
    b = same_on_all(N)
    x = solve(operator, spring.expand(N, 2, 2), b.float(), Solver("cg", "jacobi", 1e-10))
    whole = assembled(cells, N, spring.double().expand(N, 2, 2))
    assert x.dtype is torch.float32
    torch.testing.assert_close(x.double(), torch.linalg.pinv(whole) @ b, rtol=1e-5, atol=1e-6)


def test_the_slab_has_its_published_compliance():
    published = reference()
    for nx, compliance in published["random_density"].items():
        slab = Slab(int(nx))
        operator = ElementOperator(slab.cells, slab.n, SELF, dirichlet=slab.fixed, symmetric=True)
        x = solve(operator, slab.matrices(slab.density), slab.load, Solver("cg", "icc", 1e-12))
        assert math.isclose(x @ slab.load, compliance, rel_tol=1e-6)
    uniform = published["uniform_density"]
    nx = uniform.pop("nx")
    del uniform["exact"]
    for density, compliance in uniform.items():
        # that of the last slab
        matrices = slab.matrices(torch.full((len(slab.cells),), float(density)).double())
        x = solve(operator, matrices, slab.load, Solver("cg", "icc", 1e-12))
        assert math.isclose(x @ slab.load, compliance, rel_tol=1e-6)
        exact = nx / (1e-3 + (1 - 1e-3) * float(density) ** 3)
        assert math.isclose(x @ slab.load, exact, rel_tol=1e-6)


def test_wrong_meshes_and_values_are_named():
    wrong_meshes = [
        ({"cells": [0, 1, 2]}, "shape (n_cells, k)"),
        ({"cells": [[0.5, 1.5]]}, "integers"),
        ({"cells": [[0, N]]}, f"0 … {N - 1}"),
        ({"dirichlet": [-1]}, f"0 … {N - 1}"),
        ({"dirichlet": 3}, "list of dof numbers"),
        ({"n": 0}, "number of dofs"),
    ]
    for changes, message in wrong_meshes:
        with pytest.raises(ValueError, match=re.escape(message)):
            ElementOperator(**{"cells": CELLS, "n": N, "comm": SELF, **changes})
    operator = ElementOperator(CELLS, N, SELF, dirichlet=[0])
    b, poisoned = torch.ones(N), K.clone()
    poisoned[4, 1, 2] = math.nan
    wrong_calls = [
        (lambda: solve(operator, K[1:], b, EXACT), "(12, 3, 3)"),
        (lambda: solve(operator, K.flatten(-2), b, EXACT), "(12, 3, 3)"),
        (lambda: solve(operator, [K], b, EXACT), "(12, 3, 3)"),
        (lambda: solve(operator, poisoned, b, EXACT), "cell 4"),
        (lambda: operator.right_hand_side(K, b[1:]), "(7,)"),
        (lambda: operator.right_hand_side(K, b, b[1:]), "prescribed"),
        (lambda: operator.right_hand_side(K, b, "0"), "prescribed"),
    ]
    for call, message in wrong_calls:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
