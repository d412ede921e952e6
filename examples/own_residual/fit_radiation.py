"""Fit the conductivity k and the emissivity e of a heated, radiating plate to measurements.

The temperature satisfies `−k ΔT + e (T⁴ − 1) = q` with T = 1 on the edge.
"""

import torch
from petsc4py import PETSc

from prdp_hpc import ColouredJacobian, Grid, NonlinearSolver, Solver, solve_nonlinear


class Plate:
    """A user-defined residual: u = T − 1 on n × n inner points; T is relative to the edge."""

    def __init__(self, n):
        self.grid = Grid((n, n), "dirichlet")
        # The sparsity pattern of the Jacobian: each point depends on its four neighbours.
        self.jacobian = ColouredJacobian.on_grid(self.grid)
        self.solver = NonlinearSolver(Solver("gmres", "bjacobi"), 1e-8, inner="eisenstat_walker")

    def residual(self, u, conductivity, emissivity, heating):
        """Compute this rank's part of F for fields `(samples, 1, *local_shape)`."""
        v = self.grid.halo(u)  # one more point on each side: of the neighbour, or 0 at the edge
        around = v[..., 2:, 1:-1] + v[..., :-2, 1:-1] + v[..., 1:-1, 2:] + v[..., 1:-1, :-2]
        laplacian = (around - 4 * u) / self.grid.spacing[0] ** 2
        return -conductivity * laplacian + emissivity * ((1 + u) ** 4 - 1) - heating

    def temperature(self, theta, heating, start):
        """Compute the solutions for `theta = (log k, log e)`, replicated, from an initial guess."""
        k, e = self.grid.replicated(theta).exp()
        return 1 + solve_nonlinear(
            self.residual,
            start - 1,
            (k, e, heating),
            self.solver,
            jacobian=self.jacobian,
            grid=self.grid,
            per_sample=(False, False, True),
        )


def main():
    """Recover k = 0.2 and e = 0.5 from k = e = 1."""
    plate = Plate(n=16)
    x, y = plate.grid.coordinates()
    spots = [((x - a) ** 2 + (y - a) ** 2) / 0.02 for a in (0.3, 0.6)]
    heating = torch.stack([50 * torch.exp(-spot) for spot in spots])[:, None]  # two experiments
    truth = torch.tensor([0.2, 0.5], dtype=torch.float64).log()
    with torch.no_grad():
        measured = plate.temperature(truth, heating, torch.ones_like(heating))

    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=20, line_search_fn="strong_wolfe")
    scale = 1e-4 * measured.shape[0] * plate.grid.size  # standard deviation 0.01 of measurements
    losses = []

    def closure():
        optimizer.zero_grad()
        misfit = plate.temperature(theta, heating, measured) - measured
        loss = misfit.square().sum() / scale
        loss.backward()  # each rank's part of the loss; the gradient is that of the sum
        losses.append(plate.grid.comm.allreduce(loss.item()))
        k, e = theta.detach().exp().tolist()
        PETSc.Sys.Print(f"loss {losses[-1]:.3e}, k = {k:.4f}, e = {e:.4f}")
        return losses[-1]

    optimizer.step(closure)
    forward, adjoint = plate.solver.report.forward, plate.solver.report.adjoint
    PETSc.Sys.Print(
        f"{forward.nonlinear_solves} nonlinear solves: {forward.newton_iterations} Newton "
        f"iterations; {adjoint.solves} adjoint solves"
    )


if __name__ == "__main__":
    main()
