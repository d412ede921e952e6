"""Recover the initial state of a 3-D flow from its final state, through many time steps."""

import argparse
import math

import numpy as np
import torch

from prdp_hpc import (
    ConstantSchedule,
    Coordinator,
    ExplicitLadder,
    Grid,
    NavierStokes,
    Solver,
    rollout,
)

LEVELS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Iterations per solve, from the coarsest level to full refinement."""


def flow_with(solver, grid):
    return NavierStokes(grid, viscosity=0.01, dt=0.02, solver=solver)


def norm(grid, field):
    """The norm over the whole grid, without the pressure."""
    return math.sqrt(grid.comm.allreduce(field[:, : grid.dim].detach().square().sum().item()))


def recover(schedule, grid, end, arguments):
    """Return the initial state whose rollout ends in `end`, and the iterations of all solves."""
    solver = Solver("gmres", "constraint", petsc_options={"ksp_gmres_restart": 16})
    flow = flow_with(solver, grid)
    guess = end.clone().requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=0.1)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs, 0.01)
    for _ in range(arguments.epochs):
        solver.refine(schedule.level, schedule.adjoint_level)
        optimizer.zero_grad()
        found = rollout(flow, guess, arguments.steps, arguments.checkpoints)
        difference = (found - end)[:, : grid.dim]
        difference.square().sum().backward()
        optimizer.step()
        rate.step()
        schedule.observe(norm(grid, difference) / norm(grid, end))
    iterations = solver.report.forward.iterations + solver.report.adjoint.iterations
    return flow.divergence_free(guess.detach()), iterations


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="points per axis")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()
    grid = Grid((arguments.size,) * 3, "periodic")
    exact = flow_with(Solver("gmres", "constraint", 1e-10), grid)
    truth = exact.initial_states(np.random.default_rng(0), 1, 0)
    with torch.no_grad():
        end = rollout(exact, truth, arguments.steps)
    prdp = Coordinator(ExplicitLadder(LEVELS), 0.95, ema_window=2, error_window=2)
    schedules = {"full refinement": ConstantSchedule(LEVELS[-1], LEVELS[-1]), "PRDP": prdp}
    lines, iterations = [], {}
    for name, schedule in schedules.items():
        found, iterations[name] = recover(schedule, grid, end, arguments)
        error = norm(grid, found - truth) / norm(grid, truth)
        lines.append(f"{name}: error {error:.4f}, {iterations[name]} iterations")
    saved = 100 * (1 - iterations["PRDP"] / iterations["full refinement"])
    start = norm(grid, end - truth) / norm(grid, truth)
    lines.append(f"saved by PRDP: {saved:.1f} % of the iterations; initial error {start:.4f}")
    if grid.comm.rank == 0:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
