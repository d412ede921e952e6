"""Property: a Poisson matrix that DOLFINx assembled from a coefficient field is solved with and
differentiated, on 1 and 2 ranks. Skipped where DOLFINx is not installed.
"""

import importlib.util

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import AssembledOperator, Solver, SparseOperator, solve

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dolfinx") is None, reason="DOLFINx is not installed"
)
WORLD = MPI.COMM_WORLD


class Conduction:
    """`−∇·(exp(θ) ∇u)` on the unit square with u = 0 on its boundary; θ is one number per cell."""

    def __init__(self, comm):
        import ufl
        from dolfinx import fem, mesh
        from dolfinx.fem import petsc

        self.fem, self.petsc = fem, petsc
        domain = mesh.create_unit_square(comm, 6, 5)
        self.space = fem.functionspace(domain, ("Lagrange", 1))
        cells = fem.functionspace(domain, ("Discontinuous Lagrange", 0))
        self.theta, self.adjoint, self.solution = map(fem.Function, (cells, self.space, self.space))
        u, v, change = (
            ufl.TrialFunction(self.space),
            ufl.TestFunction(self.space),
            ufl.TestFunction(cells),
        )
        heat = ufl.exp(self.theta) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        along = ufl.inner(ufl.grad(self.adjoint), ufl.grad(self.solution))
        self.form = fem.form(heat)
        self.derivative = fem.form(-ufl.exp(self.theta) * along * change * ufl.dx)
        edges = mesh.locate_entities_boundary(domain, 1, lambda x: np.full(x.shape[1], True))
        self.held = fem.locate_dofs_topological(self.space, 1, edges)
        self.bcs = [fem.dirichletbc(0.0, self.held, self.space)]
        self.matrix = petsc.create_matrix(self.form)
        self.n_cells = cells.dofmap.index_map.size_local
        self.first_cell = cells.dofmap.index_map.local_range[0]
        self.n_global_cells = cells.dofmap.index_map.size_global

    def set(self, function, numbers):
        function.x.array[: len(numbers)] = numbers
        function.x.scatter_forward()

    def assemble(self, theta, matrix):
        self.set(self.theta, theta.numpy())
        matrix.zeroEntries()
        self.petsc.assemble_matrix(matrix, self.form, bcs=self.bcs)
        matrix.assemble()

    def vjp(self, theta, adjoint, solution):
        from dolfinx.la import InsertMode

        self.set(self.theta, theta.numpy())
        for function, vector in ((self.adjoint, adjoint), (self.solution, solution)):
            self.set(function, vector.getArray())
            function.x.array[self.held] = 0.0  # whose rows and columns do not depend on θ
        gradient = self.fem.assemble_vector(self.derivative)
        gradient.scatter_reverse(InsertMode.add)
        return gradient.array[: self.n_cells].copy()


def check_gradients(comm):
    code = Conduction(comm)
    operator = AssembledOperator(code.matrix, code.assemble, code.vjp, symmetric=True)
    cells = torch.arange(code.n_cells) + code.first_cell
    theta = (0.5 * torch.sin(cells.double())).requires_grad_()
    rows = torch.arange(*operator.row_range).double()
    b = torch.cos(rows).requires_grad_()
    weights = torch.sin(0.3 * rows)
    solver = Solver("cg", "gamg", 1e-12)

    def loss(t, right):
        x = solve(operator, t, right, solver)
        return (weights * x).sum() + (x**2).sum()

    value = loss(theta, b)
    value.backward()
    assert comm.allreduce(abs(value.item())) > 0.01
    for which, variable, along in (
        ("theta", theta, torch.cos(2.0 * cells.double())),
        ("b", b, torch.sin(rows + 1.0)),
    ):
        slope = comm.allreduce(float(variable.grad @ along))
        ends = []
        for step in (1e-4, -1e-4):
            moved = {"theta": theta.detach(), "b": b.detach()}
            moved[which] = moved[which] + step * along
            ends.append(comm.allreduce(loss(moved["theta"], moved["b"]).item()))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-6)
    # The assembled matrix by itself: the same solution, and one gradient for each entry.
    fixed, values = SparseOperator.from_petsc(code.matrix)
    code.assemble(theta.detach(), code.matrix)
    values = torch.from_numpy(code.matrix.getValuesCSR()[2].copy()).requires_grad_()
    x = solve(fixed, values, b.detach(), Solver("gmres", "bjacobi", 1e-12))
    torch.testing.assert_close(
        x.detach(), solve(operator, theta, b, solver).detach(), rtol=1e-8, atol=1e-9
    )
    (slopes,) = torch.autograd.grad(x.sum(), values)
    # A multiple of the matrix divides the solution by it.
    slope = comm.allreduce(float(slopes @ values.detach()))
    assert slope == pytest.approx(-comm.allreduce(float(x.detach().sum())), rel=1e-7)


def test_on_one_rank():
    check_gradients(MPI.COMM_SELF)


@pytest.mark.parallel(nprocs=2)
def test_on_two_ranks():
    check_gradients(WORLD)
