"""Property: a KSP that the user configured solves as it would for the user, its adjoint solves are
the transposed ones, and what cannot be honoured is refused.
"""

import copy

import numpy as np
import pytest
import torch
from assembled import assembled
from mpi4py import MPI
from petsc4py import PETSc
from systems import dominant, exact

from prdp_hpc import Refinement, SolveError, Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD
N = 24


class HalfJacobi:
    """A user's preconditioner in Python; not symmetric."""

    def setUp(self, pc):
        self.inverse = pc.getOperators()[1].getDiagonal()
        self.inverse.reciprocal()
        self.factor = self.inverse.duplicate()
        start, end = self.factor.getOwnershipRange()
        self.factor.setArray(np.linspace(1.0, 2.0, N)[start:end])

    def apply(self, pc, x, y):
        y.pointwiseMult(self.inverse, x)
        y.pointwiseMult(y, self.factor)

    applyTranspose = apply  # noqa: N815 - PETSc's name


def configured(comm, ksp_type="gmres", pc_type="jacobi", **tolerances):
    ksp = PETSc.KSP().create(comm=comm)
    ksp.setType(ksp_type)
    ksp.getPC().setType(pc_type)
    ksp.setTolerances(**{"rtol": 1e-12, **tolerances})
    return ksp


def made_in_python(comm):
    ksp = configured(comm, pc_type="python")
    ksp.getPC().setPythonContext(HalfJacobi())
    return ksp


def restarted(comm):
    ksp = configured(comm)
    ksp.setGMRESRestart(3)
    return ksp


def by_options(comm):
    options = PETSc.Options("mine_")
    options["ksp_type"] = "bcgs"
    options["pc_type"] = "bjacobi"
    options["ksp_rtol"] = 1e-12
    ksp = PETSc.KSP().create(comm=comm)
    ksp.setOptionsPrefix("mine_")
    ksp.setFromOptions()
    return ksp


def with_another_matrix(comm):
    ksp = configured(comm, pc_type="redundant")
    near = dominant(N, density=1.0, seed=2).numpy() * np.linspace(1.0, 1.1, N)
    ksp.setOperators(assembled(dominant(N, seed=1).numpy(), comm), assembled(near, comm))
    return ksp


WAYS = [made_in_python, restarted, by_options, with_another_matrix]


def check_solutions(comm):
    matrix = dominant(N, density=1.0, seed=2)
    whole, grad = torch.randn(
        2, 2, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for way in WAYS:
        theirs = assembled(matrix.numpy(), comm)
        operator, values = SparseOperator.from_petsc(theirs)
        own = slice(*operator.row_range)
        b = whole[:, own].clone().requires_grad_()
        solver = Solver.from_ksp(way(comm))
        x = solve(operator, values.requires_grad_(), b, solver)
        forward = solver.report.forward.iterations
        x.backward(grad[:, own])
        solution, adjoint, dense = exact(matrix, whole, grad)
        torch.testing.assert_close(x.detach(), solution[:, own], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(b.grad, adjoint[:, own], rtol=1e-8, atol=1e-9)
        rows, cols = np.nonzero(matrix[own].numpy())
        torch.testing.assert_close(values.grad, dense[own][rows, cols], rtol=1e-8, atol=1e-9)
        assert forward == iterations_of_the_user(comm, way, theirs, whole[:, own])
        # New values, the same KSP.
        again = solve(operator, 2.0 * values.detach(), b.detach(), solver)
        torch.testing.assert_close(2.0 * again, x.detach(), rtol=1e-8, atol=1e-9)


def iterations_of_the_user(comm, way, theirs, rows):
    """What the user's own solves take."""
    ksp = way(comm)
    pmat = ksp.getOperators()[1] if way is with_another_matrix else theirs
    ksp.setOperators(theirs, pmat)
    b, x = theirs.createVecs()
    total = 0
    for row in rows:
        b.setArray(row.numpy())
        ksp.solve(b, x)
        total += ksp.getIterationNumber()
    return total


def check_a_symmetric_matrix(comm):
    matrix = dominant(N, density=1.0, symmetric=True, seed=2)
    operator, values = SparseOperator.from_petsc(assembled(matrix.numpy(), comm), symmetric=True)
    own = slice(*operator.row_range)
    b = torch.ones(own.stop - own.start, dtype=torch.float64, requires_grad=True)
    # GAMG's default smoother has no transpose, and needs none.
    solver = Solver.from_ksp(configured(comm, "cg", "gamg"), adjoint=1e-10)
    solve(operator, values, b, solver).sum().backward()
    wanted = torch.linalg.solve(matrix, torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(b.grad, wanted[own], rtol=1e-7, atol=1e-9)


def check_levels(comm):
    matrix = dominant(N, density=1.0, seed=2)
    operator, values = SparseOperator.from_petsc(assembled(matrix.numpy(), comm))
    b = torch.ones(operator.n_local, dtype=torch.float64, requires_grad=True)

    def counts(solver):
        solver.report.reset()
        solve(operator, values, b, solver).sum().backward()
        return solver.report.forward.iterations, solver.report.adjoint.iterations

    fixed = configured(comm, "richardson", max_it=7)
    fixed.setNormType(PETSc.KSP.NormType.NONE)
    solver = Solver.from_ksp(fixed)
    assert solver.refinement == Refinement(max_it=7)
    assert counts(solver) == (7, 7)
    solver.refine(3, 5)
    assert counts(solver) == (3, 5)
    solver = Solver.from_ksp(configured(comm, rtol=1e-3), adjoint=1e-9)
    assert solver.refinement == Refinement(rtol=1e-3)
    few, many = counts(solver)
    assert few < many
    solver.refine(1e-10)
    assert counts(solver)[0] > few
    raises(
        comm,
        SolveError,
        "DIVERGED_MAX_IT at iteration 2",
        lambda: counts(Solver.from_ksp(configured(comm, max_it=2))),
    )


def check_refused(comm):
    matrix = dominant(N, seed=2)
    operator, values = SparseOperator.from_petsc(assembled(matrix.numpy(), comm))
    b = torch.ones(operator.n_local, dtype=torch.float64, requires_grad=True)

    def changed(change, **options):
        ksp = configured(comm, **options)
        change(ksp)
        return ksp

    def with_option(ksp):
        PETSc.Options("scaled_")["ksp_diagonal_scale"] = True
        ksp.setOptionsPrefix("scaled_")

    for words, ksp in (
        ("no ksp type", PETSc.KSP().create(comm=comm)),
        ("the KSP has an initial guess", changed(lambda ksp: ksp.setInitialGuessNonzero(True))),
        ("convergence test", changed(lambda ksp: ksp.setConvergenceTest(lambda *_: True))),
        ("which is not between 0 and 1", changed(lambda ksp: ksp.setTolerances(rtol=0.0))),
        ("its iteration is user code", changed(lambda _: None, ksp_type="python")),
        ("-scaled_ksp_diagonal_scale", changed(with_option)),
        ("petsc4py KSP", None),
    ):
        raises(comm, ValueError, words, lambda: Solver.from_ksp(ksp))  # noqa: B023
    PETSc.Options().delValue("scaled_ksp_diagonal_scale")
    used = configured(comm)
    used.setOperators(assembled(dominant(N + comm.size).numpy(), comm))
    used.setUp()
    solver = Solver.from_ksp(used)
    raises(comm, ValueError, "other sizes", lambda: solve(operator, values, b, solver))
    solver = Solver.from_ksp(configured(comm))
    solve(operator, values, b, solver)
    other, theirs = SparseOperator.from_petsc(assembled(matrix.numpy(), comm))
    raises(comm, ValueError, "one matrix", lambda: solve(other, theirs, b, solver))
    raises(comm, ValueError, "cannot be copied", lambda: copy.deepcopy(solver))
    solver.differentiation = "unrolled"
    raises(comm, ValueError, "does not support", lambda: solve(operator, values, b, solver))
    # A python PC without a transpose is found out in the backward pass.
    ksp = configured(comm, pc_type="python")
    ksp.getPC().setPythonContext(ForwardOnly())
    x = solve(operator, values, b, Solver.from_ksp(ksp))
    raises(comm, SolveError, "transpose", lambda: x.sum().backward())


class ForwardOnly:
    def apply(self, pc, x, y):
        x.copy(y)


def raises(comm, kind, words, call):
    try:
        call()
        message = None
    except kind as error:
        message = str(error)
    for told in comm.allgather(message):
        assert told is not None, words
        assert words in told


CHECKS = [check_solutions, check_a_symmetric_matrix, check_levels, check_refused]


@pytest.mark.parametrize("check", CHECKS)
def test_on_one_rank(check):
    check(MPI.COMM_SELF)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_the_same_on_several_ranks():
    for check in CHECKS:
        check(WORLD)


def test_a_ksp_that_computes_its_own_matrix():
    operator, values = SparseOperator.from_petsc(assembled(np.eye(N), MPI.COMM_SELF))
    ksp = configured(MPI.COMM_SELF)
    ksp.setDM(PETSc.DMDA().create([N], comm=MPI.COMM_SELF))
    ksp.setComputeOperators(lambda ksp, a, p: (p.assemble(), p.shift(2.0)))
    b = torch.ones(N, dtype=torch.float64)
    with pytest.raises(ValueError, match="computes its matrix itself"):
        solve(operator, values, b, Solver.from_ksp(ksp))
    torch.testing.assert_close(solve(operator, values, b, Solver()), b)
