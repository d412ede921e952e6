"""Checks of unrolled solves with preconditioners, for any number of ranks."""

import torch
from dense_iterations import iterate
from systems import dominant

from prdp_hpc import Solver, SparseOperator, solve
from prdp_hpc.errors import InputError

DOUBLE = {"dtype": torch.float64}


def divided(matrix, comm, **options):
    """The operator of a dense matrix that is replicated on all ranks, each of which adds the
    entries of its rows.
    """
    rows, cols = matrix.nonzero(as_tuple=True)
    layout = SparseOperator([], [], tuple(matrix.shape), comm)
    start, end = layout.row_range
    mine = (rows >= start) & (rows < end)
    rows, cols = rows[mine], cols[mine]
    operator = SparseOperator(rows.numpy(), cols.numpy(), tuple(matrix.shape), comm, **options)
    return operator, matrix[rows, cols].clone()


def dense_inverse(system, comm, n, own):
    """M⁻¹ column by column."""
    columns = system.inverse(torch.eye(n, **DOUBLE)[:, own].contiguous().numpy())
    parts = comm.allgather(torch.from_numpy(columns))
    return torch.cat(parts, dim=1).T


def check(comm, ksp, pc, symmetric, n=12, level=3, promised=True, options=None, density=0.6):
    """Check that the gradient of b is that of dense iterations with the dense M⁻¹; return False if
    the solver rejects the problem.
    """
    matrix = dominant(n, symmetric, density)
    operator, values = divided(matrix, comm, symmetric=symmetric and promised)
    own = slice(*operator.row_range)
    solver = Solver(ksp, pc, level, petsc_options=options or {}, differentiation="unrolled")
    draw = torch.Generator().manual_seed(3)
    b, grad = torch.randn(2, 2, n, generator=draw, **DOUBLE)
    right = b[:, own].clone().requires_grad_()
    try:
        x = solve(operator, values, right, solver)
    except InputError:
        assert solver.report.forward.iterations == 0
        return False
    x.backward(grad[:, own])
    inverse = dense_inverse(solver.system(operator), comm, n, own)
    leaf = b.clone().requires_grad_()
    wanted = torch.stack([iterate(ksp, matrix, inverse, row, level) for row in leaf])
    (gradient,) = torch.autograd.grad(wanted, leaf, grad)
    torch.testing.assert_close(x.detach(), wanted.detach()[:, own], rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(right.grad, gradient[:, own], rtol=1e-6, atol=1e-9)
    return True
