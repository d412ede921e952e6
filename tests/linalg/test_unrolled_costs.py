"""Property: unrolled solves keep few states, and a reduction serves a whole batch."""

import gc
from collections import Counter

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Solver, SparseOperator, solve
from prdp_hpc.linalg.unrolled import reductions

METHODS = ["richardson", "steepest_descent", "cg", "gmres", "bcgs"]
N = 4096
DOUBLE = {"dtype": torch.float64}


@pytest.fixture(scope="module")
def slow():
    """A matrix that a few hundred iterations are not enough for, and a right-hand side."""
    rows = torch.arange(N)
    diagonal = 2.0 + 1e-5 * rows
    cols = torch.cat([rows, rows[:-1], rows[1:]])
    values = torch.cat([diagonal.to(torch.float64), torch.full((2 * N - 2,), -1.0, **DOUBLE)])
    operator = SparseOperator(
        torch.cat([rows, rows[1:], rows[:-1]]).numpy(),
        cols.numpy(),
        (N, N),
        MPI.COMM_SELF,
        symmetric=True,
    )
    return operator, values, torch.randn(1, N, **DOUBLE)


def alive():
    """Vectors that some tensor holds, each memory counted once."""
    gc.collect()
    # Other tests leave tensors of torch's tracing behind, which are subclasses without memory.
    own = (torch.Tensor, torch.nn.Parameter)
    tensors = [found for found in gc.get_objects() if type(found) in own]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    ) / (8 * N)


def kept(slow, ksp, iterations, values_need_gradient):
    """Vectors that a recorded solve holds on to."""
    operator, values, b = slow
    solver = Solver(
        ksp, "jacobi", iterations, petsc_options={"ksp_gmres_restart": 5} if ksp == "gmres" else {}
    )
    solver.differentiation = "unrolled"
    leaves = values.clone().requires_grad_(values_need_gradient), b.clone().requires_grad_()
    solve(operator, *leaves, solver)
    before = alive()
    x = solve(operator, *leaves, solver)
    held = alive() - before
    assert x.requires_grad
    return held


class Saved:
    """The most different vectors that graphs hold at a time."""

    def __init__(self):
        self.most, self._counts = 0, Counter()

    def pack(self, tensor):
        return _Held(tensor, self._counts, self)

    def watching(self):
        return torch.autograd.graph.saved_tensors_hooks(self.pack, lambda held: held.tensor)


class _Held:
    def __init__(self, tensor, counts, saved):
        self.tensor, self._counts = tensor, counts
        self._key = tensor.untyped_storage().data_ptr() if tensor.numel() == N else None
        if self._key is not None:
            counts[self._key] += 1
            saved.most = max(saved.most, len(counts))

    def __del__(self):
        if self._key is not None:
            self._counts[self._key] -= 1
            if not self._counts[self._key]:
                del self._counts[self._key]


@pytest.mark.parametrize("ksp", METHODS)
def test_the_states_of_about_the_root_of_all_iterations_are_kept(slow, ksp):
    few, many = kept(slow, ksp, 25, True), kept(slow, ksp, 225, True)
    vectors = {"richardson": 2, "steepest_descent": 2, "cg": 3, "gmres": 1, "bcgs": 5}[ksp]
    # At most twice the doubled spacing, which is at most √(2 K): 9 times the iterations cost 3
    # times the memory.
    assert many <= vectors * 2 * (2 * 225) ** 0.5 + 8
    assert many < 5 * max(few, 8)
    assert many > 2


def test_richardson_keeps_nothing_for_a_gradient_of_b_alone(slow):
    # The solution, and the inverse of the diagonal.
    assert kept(slow, "richardson", 400, False) == pytest.approx(2, abs=0.1)


def test_the_backward_pass_recomputes_one_segment_at_a_time(slow):
    operator, values, b = slow
    most = []
    for iterations in (36, 576):
        leaf = values.clone().requires_grad_()
        x = solve(operator, leaf, b, Solver("cg", "none", iterations, differentiation="unrolled"))
        saved = Saved()
        with saved.watching():
            x.sum().backward()
        most.append(saved.most)
    # 16 times the iterations: 4 times the memory of a segment, not 16.
    assert 12 < most[0] < most[1] < 6 * most[0]


def test_a_cycle_of_gmres_holds_its_basis_once(slow):
    operator, values, b = slow
    most = []
    for restart in (10, 40):
        leaf = values.clone().requires_grad_()
        solver = Solver(
            "gmres",
            "none",
            restart,
            petsc_options={"ksp_gmres_restart": restart},
            differentiation="unrolled",
        )
        x = solve(operator, leaf, b, solver)
        saved = Saved()
        with saved.watching():
            x.sum().backward()
        most.append(saved.most)
    # With copies of the basis in each step it would be 16 times as many.
    assert 10 < most[0] < most[1] < 5 * most[0]


@pytest.mark.parametrize(
    ("ksp", "each"),
    [("richardson", 0), ("steepest_descent", 1), ("cg", 2), ("bcgs", 3), ("gmres", 2)],
)
def test_reductions_do_not_depend_on_the_batch(monkeypatch, ksp, each):
    calls, real = [0], reductions.all_reduce

    def counted(local, comm):
        calls[0] += 1
        return real(local, comm)

    monkeypatch.setattr(reductions, "all_reduce", counted)
    operator, values = sparse(dominant(40, symmetric=True), symmetric=True)
    found = set()
    for batch in (1, 7):
        counts = []
        for iterations in (4, 9):
            leaf, b = values.clone().requires_grad_(), torch.randn(batch, 40, **DOUBLE)
            calls[0] = 0
            x = solve(
                operator, leaf, b, Solver(ksp, "jacobi", iterations, differentiation="unrolled")
            )
            there = calls[0]
            x.sum().backward()
            counts.append((there, calls[0] - there))
        found.add(tuple(counts))
    assert len(found) == 1
    ((few, few_back), (many, many_back)) = found.pop()
    assert many - few == 5 * each
    # The backward pass repeats the forward pass's reductions, and adds at most as many.
    assert 5 * each <= many_back - few_back <= 10 * each
