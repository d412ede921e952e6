"""Advection, diffusion and reaction of three species: a PDE in one file."""

import numpy as np
import torch
from pydantic import BaseModel, Field

from prdp_hpc import SparseOperator, solve


class AdvectionDiffusionReaction:
    """`∂c_s/∂t + v·∇c_s = D_s Δc_s − k_s c_s` for the species a, b and c on a periodic grid.

    With backward Euler and first-order upwind differences, one time step solves
    `(I + dt (v·∇_h − D_s Δ_h + k_s)) c_s⁺ = c_s`, with one matrix per species. It is of first order
    in `dt` and `h`, and stable for every `dt`.
    """

    channels = ("a", "b", "c")

    class Config(BaseModel):
        """The keys of the section `physics`; lengths are in the unit of the grid."""

        dt: float = Field(gt=0)
        velocity: tuple[float, ...] = (1.0, 0.5)
        diffusion: tuple[float, float, float] = (1e-2, 5e-3, 2e-3)
        decay: tuple[float, float, float] = (0.1, 0.5, 1.0)

        def check_grid(self, grid):
            if grid.boundaries != {"periodic"} or len(grid.shape) != len(self.velocity):
                raise ValueError("needs a periodic grid with one axis per entry of velocity")

    @classmethod
    def from_config(cls, section, grid, solver):
        return cls(grid, solver, section)

    def __init__(self, grid, solver, keys):
        self.grid, self.solver, self.keys = grid, solver, keys
        own = grid.numbering[(slice(1, -1),) * grid.dim].ravel()
        columns = [own]
        for axis in range(grid.dim):
            for side in (slice(0, -2), slice(2, None)):
                neighbours = tuple(side if d == axis else slice(1, -1) for d in range(grid.dim))
                columns.append(grid.numbering[neighbours].ravel())
        shape = (grid.size, grid.size)
        self.operator = SparseOperator(np.tile(own, len(columns)), np.concatenate(columns), shape,
                                       grid.comm)  # fmt: skip
        self.matrices = [self.values(species) for species in range(3)]

    def values(self, species):
        """The matrix entries of one species, in the order of the pattern."""
        dt, diffusion = self.keys.dt, self.keys.diffusion[species]
        entries = []
        for speed, h in zip(self.keys.velocity, self.grid.spacing, strict=True):
            entries.append(-dt * (diffusion / h**2 + max(speed, 0.0) / h))
            entries.append(-dt * (diffusion / h**2 + max(-speed, 0.0) / h))
        entries.insert(0, 1.0 + dt * self.keys.decay[species] - sum(entries))
        return torch.tensor(entries).double().repeat_interleave(self.grid.n_local)

    def __call__(self, state):
        """Compute the next states from `(B, 3, *local_shape)`; differentiable, collective."""
        species = state.flatten(2).unbind(1)
        new = [solve(self.operator, values, right.contiguous(), self.solver)
               for values, right in zip(self.matrices, species, strict=True)]  # fmt: skip
        return torch.stack(new, dim=1).reshape(state.shape)

    def attributes(self):
        """Return the coefficients that are compared with those of a data file."""
        return {"dt": self.keys.dt}
