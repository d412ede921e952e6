"""Trajectories made by the product's own converged solver."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.config import CorrectorConfig, SupervisedConfig
from prdp_hpc.data import TrajectoryAttributes, TrajectoryWriter
from prdp_hpc.generation.initial_states import initial_states
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.tasks.stepper import Stepper, build_stepper, coefficient

SAMPLES_AT_ONCE = 25
"""Trajectories solved together, so that memory does not grow with their number."""


def generated_path(config: SupervisedConfig) -> Path:
    """Where the generated data of a config lie; the name carries everything that shapes them."""
    shape = {
        "grid": config.grid.model_dump(),
        "physics": config.physics.model_dump(exclude={"gradient"}),
        "data": config.data.model_dump(exclude={"file"}),
        "steps": config.steps,
    }
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[
        :12
    ]
    points = "x".join(str(n) for n in config.grid.shape)
    return Path(config.output) / "data" / f"{config.physics.pde}_{points}_{digest}.h5"


def generate(config: SupervisedConfig, grid: Grid, path: Path) -> None:
    """Solve `train` and `validation` trajectories from random initial states and write them to
    `path`; collective.

    The initial states come from `data.seed` (see `initial_states`); each step is the config's own,
    solved to a relative residual of 1e-12 (heat) or 1e-10 (the others, whose matrices are not
    symmetric). With `data.reference_factor` above 1 the trajectories are solved on a finer grid, of
    whose points those of `grid` are kept. The result does not depend on the number of ranks (to
    that tolerance). Each rank writes its own part (see `TrajectoryWriter`).
    """
    fine, kept = reference_grid(grid, _factor(config))
    local, part = kept_part(fine, kept)
    stepper = build_stepper(config.physics, fine, converged_solver(config.physics.pde))
    generator = np.random.default_rng(config.data.seed)
    counts = {"train": config.data.train, "validation": config.data.validation}
    shapes = {
        group: (count, config.steps + 1, len(stepper.channels), *grid.shape)
        for group, count in counts.items()
    }
    with TrajectoryWriter(path, grid.comm, _attributes(config, stepper), shapes, part) as writer:
        for group, count in counts.items():
            initial = initial_states(stepper, fine, generator, count, config.data.modes)
            for first in range(0, count, SAMPLES_AT_ONCE):
                states = initial[first : first + SAMPLES_AT_ONCE]
                writer.write(group, first, _trajectories(local, stepper, states, config.steps))


def reference_grid(grid: Grid, factor: int) -> tuple[Grid, Any]:
    """A grid `factor` times as fine on the same domain and ranks, and which of its points are those
    of `grid`.

    Neumann axes have no such points: their factor must be 1. The second result is an index of the
    last axes.
    """
    if factor == 1:
        return grid, ...
    shape, kept = [], []
    for n, boundary in zip(grid.shape, grid.boundary, strict=True):
        assert boundary != "neumann"
        periodic = boundary == "periodic"
        shape.append(factor * n if periodic else factor * (n + 1) - 1)
        kept.append(slice(0 if periodic else factor - 1, None, factor))
    return Grid(shape, grid.boundary, grid.comm, grid.length), (..., *kept)


def kept_part(fine: Grid, kept: Any) -> tuple[Any, list[slice]]:
    """Of the points of `reference_grid` that are kept, those of this rank.

    Two indices: into this rank's part of the fine grid, and what that is of the grid whose points
    are kept.
    """
    if kept is ...:
        return ..., list(fine.local_slices)
    local, part = [], []
    for axis, own in zip(kept[1:], fine.local_slices, strict=True):
        first, last = (
            max(0, -(-(edge - axis.start) // axis.step)) for edge in (own.start, own.stop)
        )
        local.append(slice(axis.start + first * axis.step - own.start, None, axis.step))
        part.append(slice(first, last))
    return (..., *local), part


def _factor(config: SupervisedConfig) -> int:
    return config.data.reference_factor if isinstance(config, CorrectorConfig) else 1


def converged_solver(pde: str) -> Solver:
    """A solver for reference solutions. Not the config's own: one poor enough to be compared with
    may not converge at all.
    """
    if pde in ("heat", "poisson"):
        return Solver("cg", "jacobi", Refinement(rtol=1e-12))
    return Solver(
        "gmres", {"burgers": "bjacobi", "navier_stokes": "constraint"}[pde], Refinement(rtol=1e-10)
    )


def _trajectories(kept: Any, stepper: Stepper, initial: Tensor, steps: int) -> NDArray[np.float32]:
    """From this rank's initial states `(samples, C, *local_shape)` to `(samples, steps + 1, C,
    *kept points)`, its part.
    """
    states = [initial]
    with torch.no_grad():
        for _ in range(steps):
            states.append(stepper(states[-1]))
    return torch.stack([state[kept] for state in states], dim=1).to(torch.float32).numpy()


def _attributes(config: SupervisedConfig, stepper: Stepper) -> TrajectoryAttributes:
    name, value = coefficient(config.physics)
    factor = _factor(config)
    return TrajectoryAttributes(
        pde=config.physics.pde,
        shape=tuple(config.grid.shape),
        boundary=config.grid.boundary,
        length=config.grid.length,
        dt=config.physics.dt,
        coefficients={name: value},
        channels=stepper.channels,
        scheme=_scheme(config) + (f", on a grid {factor} times as fine" if factor > 1 else ""),
    )


def _scheme(config: SupervisedConfig) -> str:
    if config.physics.pde == "heat":
        return "backward Euler, central differences, conjugate gradients to rtol 1e-12"
    picard = config.physics.picard_iterations
    return (
        f"backward Euler, first-order upwind, {picard} Picard iteration(s), linear solves to rtol "
        "1e-10"
    )
