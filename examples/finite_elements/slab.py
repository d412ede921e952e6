"""Optimise the distribution of material in a conducting slab, with finite elements.

−∇·(κ(ρ) ∇T) = 0 on [0, 2] × [0, 1] with κ = 10⁻³ + ρ³, T = 0 at x = 0, a unit flux into the slab
through the lower half of the edge x = 2, and no flux elsewhere. Gradient descent finds the density
ρ of given mean with the least compliance, i.e. the mean temperature where the flux enters.
"""

import argparse

import numpy as np
import torch
from mpi4py import MPI

from prdp_hpc import DistributedCells, ElementOperator, Refinement, Solver, solve

WORLD, MEAN = MPI.COMM_WORLD, 0.4
STIFFNESS = torch.tensor(  # of a bilinear square with conductivity 1
    [[4, -1, -1, -2], [-1, 4, -2, -1], [-1, -2, 4, -1], [-2, -1, -1, 4]], dtype=torch.float64
).div(6)


class Slab:
    """nx × nx/2 square cells, distributed over the ranks."""

    def __init__(self, nx):
        ny = nx // 2
        nodes = np.arange((nx + 1) * (ny + 1)).reshape(nx + 1, ny + 1)
        corners = nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, :-1], nodes[1:, 1:]
        cells = np.stack([corner.ravel() for corner in corners], axis=1)
        mesh = DistributedCells(np.array_split(cells, WORLD.size)[WORLD.rank], nodes.size)
        self.cells, own = mesh.cells, mesh.node_numbers
        fixed = mesh.renumbered(nodes[0])
        self.operator = ElementOperator(
            self.cells, nodes.size, dirichlet=fixed, n_local=len(own), symmetric=True
        )
        load = torch.zeros(nodes.shape, dtype=torch.float64)
        load[-1, : ny // 2] += 1 / ny  # half of the flux of each edge for each of its ends
        load[-1, 1 : ny // 2 + 1] += 1 / ny
        self.load = load.flatten()[own]
        self.solver = Solver("cg", "gamg", Refinement(rtol=1e-8))

    def compliance(self, density):
        """This rank's part of `load · T` for the densities of its cells; collective."""
        matrices = (1e-3 + density**3)[:, None, None] * STIFFNESS
        return solve(self.operator, matrices, self.load, self.solver) @ self.load


def with_mean(density):
    """Shift all densities by one number, found by bisection, such that their mean is `MEAN`; they
    stay between 0.01 and 1.
    """
    low, high, count = -1.0, 1.0, WORLD.allreduce(len(density))
    for _ in range(40):
        shifted = (density + (low + high) / 2).clamp(0.01, 1.0)
        if WORLD.allreduce(shifted.sum().item()) > MEAN * count:
            high = (low + high) / 2
        else:
            low = (low + high) / 2
    return shifted


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=16, help="in x; half as many in y")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    slab = Slab(arguments.cells)
    density = torch.full((len(slab.cells),), MEAN, dtype=torch.float64)
    for step in range(arguments.steps + 1):
        own = slab.compliance(density.requires_grad_())
        (slope,) = torch.autograd.grad(own, density)
        compliance = WORLD.allreduce(own.item())
        if WORLD.rank == 0 and step % 5 == 0:
            print(f"step {step:3d}   compliance {compliance:.6f}", flush=True)
        steepest = WORLD.allreduce(slope.abs().max().item(), op=MPI.MAX)
        density = with_mean(density.detach() - 0.1 * slope / steepest)


if __name__ == "__main__":
    main()
