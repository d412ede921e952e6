"""Property: a matrix that another code assembled, and its derivative, give the solutions and
gradients of the dense matrix on any number of ranks; what does not fit is refused on all ranks.
"""

import numpy as np
import pytest
import torch
from assembled import assembled, fill
from mpi4py import MPI
from petsc4py import PETSc
from systems import dominant, exact

from prdp_hpc import AssembledOperator, Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD
N = 12
KINDS = [("aij", 1), ("aij", 3), ("baij", 2), ("sbaij", 2), ("dense", 1)]


def right_hand_sides(operator):
    """Two right-hand sides and cotangents of all rows, and which rows are this rank's."""
    draw = torch.Generator().manual_seed(3)
    n = operator.matrix.getSize()[0]
    whole, grad = torch.randn(2, 2, n, generator=draw, dtype=torch.float64)
    return whole, grad, slice(*operator.row_range)


def raises_everywhere(comm, kind, words, call):
    try:
        call()
        message = None
    except kind as error:
        message = str(error)
    for told in comm.allgather(message):
        assert told is not None
        assert words in told


def check_solution_and_gradients(operator, values, matrix):
    """Against the dense matrix; values are the rows of `getValuesCSR`."""
    whole, grad, own = right_hand_sides(operator)
    b, values = whole[:, own].clone().requires_grad_(), values.requires_grad_()
    x = solve(operator, values, b, Solver("gmres", "jacobi", 1e-13))
    x.backward(grad[:, own])
    solution, adjoint, dense = exact(matrix, whole, grad)
    torch.testing.assert_close(x.detach(), solution[:, own], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(b.grad, adjoint[:, own], rtol=1e-9, atol=1e-10)
    first, cols, _ = operator.matrix.getValuesCSR()
    rows = np.repeat(np.arange(own.start, own.stop), np.diff(first))
    torch.testing.assert_close(values.grad, dense[rows, cols], rtol=1e-9, atol=1e-10)


def check_from_petsc(comm, kind, block_size):
    matrix = dominant(N, symmetric=True, seed=1)
    theirs = assembled(matrix.numpy(), comm, kind, block_size)
    operator, values = SparseOperator.from_petsc(theirs)
    assert operator.row_range == theirs.getOwnershipRange()
    assert operator.matrix.getBlockSize() == block_size
    assert not values.requires_grad
    check_solution_and_gradients(operator, values, matrix)


def check_uneven_rows(comm):
    """The rows of the user's matrix stay where they are."""
    n_local = N if comm.rank == comm.size - 1 else 1
    n = comm.allreduce(n_local)
    matrix = dominant(n, seed=2)
    theirs = assembled(matrix.numpy(), comm, n_local=n_local)
    operator, values = SparseOperator.from_petsc(theirs)
    assert operator.n_local == n_local
    check_solution_and_gradients(operator, values, matrix)
    operator, values = SparseOperator.from_csr(*theirs.getValuesCSR(), comm)
    assert operator.n_local == n_local
    check_solution_and_gradients(operator, values, matrix)


def check_what_is_attached(comm):
    """Nullspace of two vectors, another left one, near-nullspace."""
    draw = torch.Generator().manual_seed(4)
    right, left, near = torch.randn(3, 2, N, generator=draw, dtype=torch.float64)
    right[0] = 1.0
    away = [torch.eye(N, dtype=torch.float64) - torch.linalg.pinv(z) @ z for z in (left, right)]
    matrix = away[0] @ dominant(N, density=1.0) @ away[1]
    theirs = assembled(matrix.numpy(), comm)
    own = slice(*theirs.getOwnershipRange())
    theirs.setNullSpace(nullspace(comm, right, own, constant=True))
    theirs.setTransposeNullSpace(nullspace(comm, left, own))
    theirs.setNearNullSpace(nullspace(comm, near, own))
    pseudo = torch.linalg.pinv(matrix, rtol=1e-10)
    operators = [
        SparseOperator.from_petsc(theirs),
        (AssembledOperator(theirs, lambda _, mat: fill(mat, matrix.numpy())), None),
    ]
    for operator, values in operators:
        vectors = operator.matrix.getNearNullSpace().getVecs()
        here = torch.tensor(np.array([v.getArray(readonly=True) for v in vectors]))
        gathered = torch.cat([torch.tensor(part) for part in comm.allgather(here.numpy())], dim=1)
        assert torch.linalg.matrix_rank(torch.cat([gathered, near]), tol=1e-9) == 2
        whole, grad, own = right_hand_sides(operator)
        b = whole[:, own].clone().requires_grad_()
        x = solve(operator, values, b, Solver("gmres", "none", 1e-13))
        x.backward(grad[:, own])
        torch.testing.assert_close(x.detach(), (whole @ pseudo.T)[:, own], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(b.grad, (grad @ pseudo)[:, own], rtol=1e-8, atol=1e-9)


def nullspace(comm, vectors, own, constant=False):
    """A PETSc nullspace of the rows of `vectors`; `constant`: the first one is the constant."""
    basis = torch.linalg.qr(vectors.T)[0].T[int(constant) :, own]
    parts = [PETSc.Vec().createWithArray(z.numpy().copy(), comm=comm) for z in basis]
    return PETSc.NullSpace().create(constant=constant, vectors=parts, comm=comm)


def check_refused_matrices(comm):
    shell = PETSc.Mat().createPython(((2, None), (2, None)), None, comm=comm)
    raises_everywhere(comm, ValueError, "'python'", lambda: SparseOperator.from_petsc(shell))
    raw = PETSc.Mat().createAIJ(N, comm=comm)
    raises_everywhere(comm, ValueError, "assemble()", lambda: SparseOperator.from_petsc(raw))
    wide = PETSc.Mat().createAIJ(((N, None), (N + 1, None)), comm=comm)
    wide.assemble()
    raises_everywhere(comm, ValueError, "square", lambda: SparseOperator.from_petsc(wide))
    raises_everywhere(comm, ValueError, "square", lambda: AssembledOperator(wide, fill))
    raises_everywhere(comm, ValueError, "Mat", lambda: SparseOperator.from_petsc(np.eye(2)))
    first = 2 * comm.rank
    good = ([0, 1, 2], [first, first + 1], [2.0, 2.0])
    for wrong, words in (
        (([0, 2, 1], *good[1:]), "indptr"),
        ((*good[:2], [2.0]), "same length"),
        ((*good[:2], [2.0, 2.0j]), "real numbers"),
        ((good[0], [first, -1], good[2]), "has values from"),
    ):
        given = wrong if comm.rank == comm.size - 1 else good  # one rank's mistake
        raises_everywhere(
            comm,
            ValueError,
            words,
            lambda: SparseOperator.from_csr(*given, comm),  # noqa: B023
        )


class Anisotropic:
    """A user's code: `A = Σ_k exp(θ_k) A_k + A_0` with replicated θ, all in plain PETSc."""

    def __init__(self, comm, symmetric, kind="aij"):
        self.comm = comm
        parts = [dominant(N, symmetric=symmetric, seed=seed) for seed in range(3)]
        self.parts = [part.numpy() for part in parts]
        self.matrix = assembled(sum(map(abs, self.parts)), comm, kind)
        self.pieces = [assembled(part, comm) for part in self.parts]
        self.calls = []

    def dense(self, theta):
        return torch.tensor(self.parts[0]) + sum(
            t.exp() * torch.tensor(part) for t, part in zip(theta, self.parts[1:], strict=True)
        )

    def assemble(self, theta, matrix):
        self.calls.append(tuple(theta.tolist()))
        assert not theta.requires_grad
        matrix.zeroEntries()
        fill(matrix, self.dense(theta).numpy())

    def vjp(self, theta, adjoint, solution):
        product = adjoint.duplicate()
        found = []
        for t, piece in zip(theta, self.pieces[1:], strict=True):
            piece.mult(solution, product)
            found.append(-float(t.exp()) * adjoint.dot(product))
        return np.array(found)


def check_the_users_derivative(comm, symmetric, ksp, pc, kind="aij"):
    code = Anisotropic(comm, symmetric, kind)
    operator = AssembledOperator(code.matrix, code.assemble, code.vjp, symmetric=symmetric)
    theta = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    whole, grad, own = right_hand_sides(operator)
    b = whole[:, own].clone().requires_grad_()
    solver = Solver(ksp, pc, 1e-13)
    first = solve(operator, theta, b, solver)
    # Another matrix in between: the derivative is that of the first.
    solve(operator, theta.detach() + 1.0, b.detach(), solver)
    first.backward(grad[:, own])
    known = theta.detach().clone().requires_grad_(), whole.clone().requires_grad_()
    x = torch.linalg.solve(code.dense(known[0]), known[1].mT).mT
    x.backward(grad)
    torch.testing.assert_close(first.detach(), x.detach()[:, own], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(b.grad, known[1].grad[:, own], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(theta.grad, known[0].grad, rtol=1e-8, atol=1e-10)


def check_mistakes_of_users_code(comm):
    code = Anisotropic(comm, symmetric=True)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def solved(**functions):
        given = {"assemble": code.assemble, "vjp": code.vjp, **functions}
        operator = AssembledOperator(code.matrix, **given)
        b = torch.ones(operator.n_local, dtype=torch.float64)
        return solve(operator, theta, b, Solver("gmres", "jacobi"))

    last = comm.rank == comm.size - 1

    def fails_on_one_rank(*_):
        if last:
            raise RuntimeError("no such file")
        return np.zeros(2)

    if comm.size == 1:  # on several ranks the others wait in their assembly
        with pytest.raises(RuntimeError, match="no such file"):
            solved(assemble=fails_on_one_rank)
        failing = [False]

        def assemble(theta, matrix):
            if failing[0]:
                raise RuntimeError("no such file")
            code.assemble(theta, matrix)

        operator = AssembledOperator(code.matrix, assemble, code.vjp)
        b, solver = torch.ones(N, dtype=torch.float64), Solver("gmres", "jacobi", 1e-12)
        solve(operator, theta, b, solver)
        # What was there before the failure is not taken for the new matrix.
        for failing[0] in (True, True, False):
            if failing[0]:
                with pytest.raises(RuntimeError, match="no such file"):
                    solve(operator, theta + 1.0, b, solver)
        wanted = torch.linalg.solve(code.dense(theta + 1.0), b)
        torch.testing.assert_close(solve(operator, theta + 1.0, b, solver), wanted)
    x = solved(vjp=fails_on_one_rank)
    raises_everywhere(comm, RuntimeError, "no such file", lambda: x.sum().backward())
    wrong = {"vjp": lambda *_: np.zeros(3 if last else 2)}
    raises_everywhere(comm, ValueError, "shape", lambda: solved(**wrong).sum().backward())
    wrong = {"vjp": lambda *_: np.full(2, np.nan if last else 0.0)}
    raises_everywhere(comm, ValueError, "NaN", lambda: solved(**wrong).sum().backward())
    raises_everywhere(comm, ValueError, "without vjp", lambda: solved(vjp=None))
    raises_everywhere(
        comm,
        ValueError,
        "second derivatives",
        lambda: torch.autograd.grad(solved().sum(), theta, create_graph=True),
    )


ASSEMBLED = [
    (False, "gmres", "jacobi"),
    (True, "cg", "gamg"),
    (False, "bcgs", "bjacobi"),
    (True, "cg", "jacobi", "sbaij"),
    (False, "richardson", "jacobi", "baij"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_from_petsc(kind):
    check_from_petsc(MPI.COMM_SELF, *kind)


@pytest.mark.parametrize(
    "check",
    [
        check_uneven_rows,
        check_what_is_attached,
        check_refused_matrices,
        check_mistakes_of_users_code,
    ],
)
def test_on_one_rank(check):
    check(MPI.COMM_SELF)


@pytest.mark.parametrize("case", ASSEMBLED)
def test_the_users_derivative(case):
    check_the_users_derivative(MPI.COMM_SELF, *case)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_the_same_on_several_ranks():
    for kind in KINDS:
        check_from_petsc(WORLD, *kind)
    check_uneven_rows(WORLD)
    check_what_is_attached(WORLD)
    check_refused_matrices(WORLD)
    for case in ASSEMBLED:
        check_the_users_derivative(WORLD, *case)
    check_mistakes_of_users_code(WORLD)


def test_the_matrix_is_assembled_only_for_other_parameters():
    code = Anisotropic(MPI.COMM_SELF, symmetric=False)
    operator = AssembledOperator(code.matrix, code.assemble, code.vjp)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    b = torch.ones(N, dtype=torch.float64)
    solver = Solver("gmres", "jacobi", 1e-12)
    x = solve(operator, theta, b, solver)
    x.sum().backward()
    solve(operator, theta, 2 * b, solver)
    assert len(code.calls) == 1
    # Something else is written into the matrix: it is assembled again, also for a derivative.
    x = solve(operator, theta, b, solver)
    wanted = torch.autograd.grad(x.sum(), theta, retain_graph=True)[0]
    code.matrix.shift(5.0)
    torch.testing.assert_close(torch.autograd.grad(x.sum(), theta)[0], wanted, rtol=0, atol=1e-15)
    code.matrix.shift(5.0)
    torch.testing.assert_close(solve(operator, theta, b, solver), x)
    assert len(code.calls) == 3


def test_first_derivatives_of_every_kind_and_no_second_ones():
    code = Anisotropic(MPI.COMM_SELF, symmetric=False)
    operator = AssembledOperator(code.matrix, code.assemble, code.vjp)
    theta = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    b = torch.linspace(1, 2, N, dtype=torch.float64)
    solver = Solver("gmres", "jacobi", 1e-13)

    def loss(t, right=b):
        return (solve(operator, t, right, solver) ** 2).sum()

    assert torch.autograd.gradcheck(loss, theta, rtol=1e-5)
    dense = torch.func.grad(lambda t: (torch.linalg.solve(code.dense(t), b) ** 2).sum())(theta)
    torch.testing.assert_close(torch.func.grad(loss)(theta), dense, rtol=1e-8, atol=1e-10)
    jacobian = torch.func.jacrev(lambda t: solve(operator, t, b, solver))(theta)
    batched = torch.func.jacrev(lambda t: torch.linalg.solve(code.dense(t), b))(theta)
    torch.testing.assert_close(jacobian, batched, rtol=1e-8, atol=1e-10)
    for second in (torch.func.hessian(loss), torch.func.jacfwd(loss)):
        with pytest.raises(ValueError, match="AssembledOperator has no"):
            second(theta)
    # Those of b alone are there.
    assert torch.autograd.gradgradcheck(
        lambda right: solve(operator, theta.detach(), right, solver) ** 2,
        b[:].clone().requires_grad_(),
    )


def test_unrolled_derivatives():
    code = Anisotropic(MPI.COMM_SELF, symmetric=False)
    operator = AssembledOperator(code.matrix, code.assemble, code.vjp)
    theta = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    b = torch.ones(N, dtype=torch.float64)
    solver = Solver("gmres", "none", 4, differentiation="unrolled")
    assert torch.autograd.gradcheck(lambda t: solve(operator, t, b, solver), theta, rtol=1e-5)
    solver = Solver("gmres", "jacobi", 4, differentiation="unrolled")
    with pytest.raises(ValueError, match="derivative of the diagonal"):
        solve(operator, theta, b, solver).sum().backward()
