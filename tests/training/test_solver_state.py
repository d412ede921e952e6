"""Reliability: the solver's state between solves is in the checkpoints of a run."""

import json

import pytest
import torch

from prdp_hpc import Poisson, Solver
from prdp_hpc.grid.structured import Grid
from prdp_hpc.refinement import ConstantSchedule
from prdp_hpc.tasks.task import Stopwatch
from prdp_hpc.training.trainer import Trainer


class Conductivity:
    """Find the slope s of κ = exp(s x) from the solution; the matrix changes in each step."""

    def __init__(self, mesh, solver):
        self.mesh, self.solver, self.stopwatch = mesh, solver, Stopwatch(solver)
        self.grid = Grid((9, 8), comm=mesh.grid_comm)
        self.theta = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        exact = Poisson(self.grid, Solver("cg", "jacobi", 1e-12))
        self.physics = Poisson(self.grid, solver)
        self.source = torch.ones(2, 1, *self.grid.local_shape, dtype=torch.float64)
        self.source[1] *= self.grid.coordinates()[1]
        exact.diffusivity = self._kappa(torch.tensor(3.0, dtype=torch.float64))
        self.target = exact(self.source)

    def _kappa(self, slope):
        x, y = self.grid.coordinates()
        return torch.exp(slope * x * y)

    def train_epoch(self, epoch, earlier=(), after_step=None):
        self.physics.diffusivity = self._kappa(self.theta)
        with self.solver.samples([0, 1]):
            loss = (self.physics(self.source) - self.target).square().sum() * 1e3
        (gradient,) = torch.autograd.grad(loss, self.theta)
        with torch.no_grad():
            self.theta -= gradient.clamp(-0.5, 0.5)
        return loss.item()

    def validate(self):
        return {"error": abs(self.theta.item() - 3.0)}

    def state_dict(self):
        return {"theta": self.theta.detach().clone()}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.theta.copy_(state["theta"])

    def close(self):
        pass


@pytest.mark.parametrize("level", [4, 1e-5])
@pytest.mark.parametrize(("lag", "guess"), [(3, "zero"), ("auto", "last")])
def test_a_resumed_run_has_the_preconditioner_and_initial_guesses_of_the_whole_one(
    lag, guess, level, mesh, tmp_path
):
    def train(name, epochs, resume=False):
        solver = Solver("cg", "icc", lag_preconditioner=lag, initial_guess=guess)
        schedule = ConstantSchedule(level)
        trainer = Trainer(Conductivity(mesh, solver), schedule, tmp_path / name, epochs)
        if resume:
            trainer.restore()
        trainer.run()
        return [
            {key: row[key] for key in ("epoch", "loss", "error")}
            for row in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        ], solver

    whole, solver = train("whole", 9)
    assert solver.report.forward.set_ups_skipped > 0
    for stop in (2, 5):
        train(f"stopped_{stop}", stop)
        assert train(f"stopped_{stop}", 9, resume=True)[0] == whole
