"""User-defined components: a PDE, networks, a task, a data set, and small ones."""

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn

from prdp_hpc.grid.halo import moved
from prdp_hpc.linalg import SparseOperator, solve
from prdp_hpc.networks import Convolution
from prdp_hpc.tasks.supervised import SupervisedTask
from prdp_hpc.tasks.task import Stopwatch


class Transport:
    """`u_t + c u_x + r u = D Δu` on a periodic grid, two species with different speeds, backward
    Euler, upwind along the last axis.
    """

    channels = ("a", "b")
    made = 0

    class Config(BaseModel):
        """The keys of the section."""

        speeds: tuple[float, float] = (1.0, 0.5)
        diffusion: float = Field(default=1e-2, ge=0)
        rate: float = 0.1
        dt: float = Field(gt=0)

        def check_grid(self, grid):
            if grid.boundaries != {"periodic"}:
                raise ValueError("physics: transport needs grid.boundary=periodic")

    def __init__(self, grid, solver, keys):
        self.grid, self.solver, self.keys = grid, solver, keys
        sides = [{axis: side} for axis in range(grid.dim) for side in (-1, 1)]
        columns = np.stack(
            [grid.numbering[moved(grid.dim, shift)].ravel() for shift in [*sides, {}]]
        )
        rows = np.broadcast_to(columns[-1], columns.shape)
        self.operator = SparseOperator(
            rows.ravel(), columns.ravel(), (grid.size, grid.size), grid.comm
        )

    @classmethod
    def from_config(cls, section, grid, solver):
        cls.made += 1
        return cls(grid, solver, section)

    def attributes(self):
        return {"dt": self.keys.dt, "diffusion": self.keys.diffusion}

    def network_inputs(self):
        return torch.full((1, *self.grid.local_shape), self.keys.rate, dtype=torch.float64)

    def values(self, speed):
        grid, dt, entries = self.grid, self.keys.dt, []
        for axis, h in enumerate(grid.spacing):
            wind = speed if axis == grid.dim - 1 else 0.0
            entries += [-dt * (self.keys.diffusion / h**2 + wind / h)]
            entries += [-dt * self.keys.diffusion / h**2]
        entries.append(1.0 + dt * self.keys.rate - sum(entries))
        return torch.tensor(entries).double().repeat_interleave(grid.n_local)

    def __call__(self, state):
        right = state.flatten(2).transpose(0, 1)
        new = [
            solve(self.operator, self.values(speed), b.contiguous(), self.solver)
            for speed, b in zip(self.keys.speeds, right, strict=True)
        ]
        return torch.stack(new, dim=1).reshape(state.shape)


class Decay:
    """`u⁺ = u / (1 + dt rate)`, without any optional part of the interface."""

    channels = ("u",)

    def __init__(self, grid, solver, rate=1.0, dt=0.1):
        self.grid, self.solver, self.factor = grid, solver, 1 + dt * rate
        rows = grid.numbering[(slice(1, -1),) * grid.dim].ravel()
        self.operator = SparseOperator(rows, rows, (grid.size, grid.size), grid.comm)

    def __call__(self, state):
        values = torch.full((self.grid.n_local,), self.factor, dtype=torch.float64)
        right = state.reshape(-1, self.grid.n_local)
        return solve(self.operator, values, right, self.solver).reshape(state.shape)


class Whole(nn.Module):
    """A convolution without code for MPI, with dropout and batch statistics."""

    def __init__(self, in_channels, out_channels, width=4):
        super().__init__()
        self.first = nn.LazyConv1d(width, 3, padding=1, padding_mode="circular")
        self.last = nn.Conv1d(width, out_channels, 1)
        self.first(torch.zeros(1, in_channels, 8))

    def forward(self, fields):
        return self.last(torch.tanh(self.first(fields)))


class Parts(nn.Module):
    """The same network on each rank's part."""

    works_on_parts = True

    class Config(BaseModel):
        """The keys of the section."""

        width: int = Field(default=4, ge=1)

    @classmethod
    def build(cls, partition, in_channels, out_channels, width):
        return cls(partition, in_channels, out_channels, width)

    def __init__(self, partition, in_channels, out_channels, width):
        super().__init__()
        self.first = Convolution(partition, in_channels, width)
        self.last = Convolution(partition, width, out_channels)

    def forward(self, fields):
        return self.last(torch.tanh(self.first(fields)))


class Residual(SupervisedTask):
    """`u¹ = P(u⁰) + weight · net(u⁰)`."""

    steps = 1

    class Config(BaseModel):
        """The keys of the task."""

        weight: float = 1.0

    @classmethod
    def from_config(cls, section, parts):
        task = cls(parts.stepper(), parts.network, parts.data, parts.mesh, parts.recipe)
        task.weight = section.weight
        return task

    def predicted(self, state):
        return self.step(state) + self.weight * self.network_on(state)

    def local_loss(self, trajectories):
        return self.pointwise_loss(self.predicted(trajectories[:, 0]), trajectories[:, 1])

    def validate(self):
        with self.evaluating():
            difference = self.predicted(self.validation[:, 0]) - self.validation[:, 1]
        return {
            "error": float(
                self.squares(difference).sum() / self.squares(self.validation[:, 1]).sum()
            )
        }


class Calibration:
    """A task without a network: the factor of a state with which a step gives a target."""

    metrics_of_training = ("losses",)

    @classmethod
    def from_config(cls, section, parts):
        return cls(parts.stepper(), parts.mesh)

    def __init__(self, stepper, mesh):
        self.mesh, self.stepper, self.solver = mesh, stepper, stepper.solver
        self.stopwatch, self.losses = Stopwatch(self.solver), 0
        self.factor = torch.full((), 3.0, dtype=torch.float64, requires_grad=True)
        self.optimiser = torch.optim.SGD([self.factor], lr=0.05, momentum=0.5)

    def loss(self):
        state = torch.ones((1, 1, *self.stepper.grid.local_shape), dtype=torch.float64)
        return (self.stepper(self.factor * state) - 1.0).square().sum()

    def train_epoch(self, epoch, earlier=(), after_step=None):
        loss = self.loss()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.losses += 1
        return loss.item()

    def validate(self):
        with torch.no_grad():
            return {"error": self.loss().item(), "sign": "positive", "losses": self.losses}

    def state_dict(self):
        return {"factor": self.factor.detach().clone(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state):
        self.factor.data.copy_(state["factor"])
        self.optimiser.load_state_dict(state["optimiser"])

    def close(self):
        pass


class Arrays:
    """Trajectories of a NumPy file `(samples, steps + 1, C, *shape)`; the last ones are for
    validation.
    """

    def __init__(self, path, validation=2):
        self.path, self._states = path, np.load(path)
        self.steps, self._train = self._states.shape[1] - 1, len(self._states) - validation

    def count(self, group):
        return self._train if group == "train" else len(self._states) - self._train

    def read(self, group, samples, part):
        first = 0 if group == "train" else self._train
        chosen = [first + sample for sample in samples]
        return self._states[chosen][(slice(None), slice(None), slice(None), *part)]


def warm_up(steps):
    """A learning rate that increases linearly."""
    return lambda step: min(1.0, (step + 1) / steps)


def huber(delta=1.0):
    """A loss of torch."""
    return nn.HuberLoss(reduction="none", delta=delta)


class Twice:
    """A schedule that doubles the iterations every `every` epochs."""

    def __init__(self, ladder, adjoint_ladder=None, every=2):
        self.every, self.observed = every, 0

    @property
    def level(self):
        return 2 ** (max(self.observed - 1, 0) // self.every)

    adjoint_level = level

    def observe(self, error):
        self.observed += 1
        return False

    def state_dict(self):
        return {"observed": self.observed}

    def load_state_dict(self, state):
        self.observed = state["observed"]
