"""Fit the conductivities of `−∂/∂x(kx ∂u/∂x) − ∂/∂y(ky ∂u/∂y) = f` to measured fields u.

The matrix is assembled by user code for PETSc.
"""

import numpy as np
import torch
from petsc4py import PETSc

from prdp_hpc import AssembledOperator, Solver, solve


class AnisotropicDiffusion:
    """User code: `A(θ) = exp(θ₀) X + exp(θ₁) Y` on n × n inner points, in CSR format."""

    def __init__(self, n, comm=PETSc.COMM_WORLD):
        self.matrix = PETSc.Mat().create(comm=comm)
        self.matrix.setSizes((n * n, n * n))
        self.matrix.setType("aij")
        self.matrix.setUp()
        rows = np.arange(*self.matrix.getOwnershipRange())[:, None]
        x, y = divmod(rows, n)
        self.points = torch.from_numpy(np.hstack([x + 1.0, y + 1.0]) / (n + 1.0))
        inside = np.hstack([x > 0, y > 0, x >= 0, y < n - 1, x < n - 1])
        self.first = np.concatenate([[0], inside.sum(axis=1).cumsum()]).astype(PETSc.IntType)
        self.columns = (rows + np.array([-n, -1, 0, 1, n]))[inside].astype(PETSc.IntType)
        weights = (n + 1.0) ** 2 * np.array([[-1, 0, 2, 0, -1], [0, -1, 2, -1, 0]])
        self.parts = [np.broadcast_to(weight, inside.shape)[inside] for weight in weights]
        self.matrix.setPreallocationCSR((self.first, self.columns))
        self.derivatives = [self.matrix.duplicate() for _ in self.parts]
        for derivative, part in zip(self.derivatives, self.parts, strict=True):
            derivative.setValuesCSR(self.first, self.columns, part)
            derivative.assemble()

    def assemble(self, theta, matrix):
        """Assemble A(θ) into the matrix."""
        kx, ky = theta.exp().tolist()
        data = kx * self.parts[0] + ky * self.parts[1]
        matrix.setValuesCSR(self.first, self.columns, data)
        matrix.assemble()

    def vjp(self, theta, adjoint, solution):
        """Compute `−λᵀ (∂A/∂θ) u`. θ is replicated, and `dot` is an all-reduce over the ranks."""
        product = solution.duplicate()
        gradient = []
        for k, derivative in zip(theta.exp().tolist(), self.derivatives, strict=True):
            derivative.mult(solution, product)
            gradient.append(-k * adjoint.dot(product))
        return np.array(gradient)


def main():
    """Recover kx = 2 and ky = 0.5 from kx = ky = 1."""
    code = AnisotropicDiffusion(n=20)
    operator = AssembledOperator(code.matrix, code.assemble, code.vjp, symmetric=True)
    solver = Solver("cg", "gamg", 1e-10)
    x, y = torch.pi * code.points.T
    sources = torch.stack([(5 * x).sin() * y.sin(), x.sin() * (5 * y).sin()])
    true_theta = torch.tensor([2.0, 0.5], dtype=torch.float64).log()
    measured = solve(operator, true_theta, sources, solver)  # (2, n_local): two experiments
    size = operator.comm.allreduce(float(measured.square().sum()))

    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=1.0)
    for step in range(41):
        optimizer.zero_grad()
        loss = (solve(operator, theta, sources, solver) - measured).square().sum() / size
        loss.backward()  # each rank's part of the loss; the gradient is that of the sum
        if step % 10 == 0:
            kx, ky = theta.detach().exp().tolist()
            PETSc.Sys.Print(
                f"step {step:2d}: loss {operator.comm.allreduce(loss.item()):.3e}, "
                f"kx = {kx:.4f}, ky = {ky:.4f}"
            )
        optimizer.step()


if __name__ == "__main__":
    main()
