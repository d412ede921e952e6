"""Trajectories made by the product's own converged solver."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prdp_hpc.collective import call_together
from prdp_hpc.config import EmulatorConfig
from prdp_hpc.data import DataError, TrajectoryAttributes, truncated_fourier, write_trajectories
from prdp_hpc.grid import Grid
from prdp_hpc.learning.emulator import ROLLOUT
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics import Heat

CONVERGED = Refinement(rtol=1e-12)


def generated_path(config: EmulatorConfig) -> Path:
    """Where the generated data of a config lie; the name carries everything that shapes them."""
    shape = {
        "grid": config.grid.model_dump(),
        "physics": config.physics.model_dump(),
        "data": config.data.model_dump(exclude={"file"}),
    }
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[:12]
    points = "x".join(str(n) for n in config.grid.shape)
    return Path(config.output) / "data" / f"{config.physics.pde}_{points}_{digest}.h5"


def generate(config: EmulatorConfig, grid: Grid, path: Path) -> None:
    """Solve `train` and `validation` trajectories from random initial states and write them to `path`; collective.

    The initial states are truncated Fourier series from `data.seed`; each step is one backward Euler step, solved to a
    relative residual of 1e-12. The result does not depend on the number of ranks (to that tolerance).
    """
    heat = Heat(grid, config.physics.diffusivity, config.physics.time_step, Solver("cg", "jacobi", CONVERGED))
    generator = np.random.default_rng(config.data.seed)
    axes = [grid.axis_points(d) / grid.length[d] for d in range(grid.dim)]
    groups = {}
    for group, count in (("train", config.data.train), ("validation", config.data.validation)):
        initial = truncated_fourier(generator, count, axes, config.data.modes)
        groups[group] = _trajectories(grid, heat, torch.from_numpy(initial))
    call_together(grid.comm, lambda: _write(config, path, groups) if grid.comm.rank == 0 else None)


def _write(config: EmulatorConfig, path: Path, groups: Mapping[str, NDArray[np.float32]]) -> None:
    try:
        write_trajectories(path, groups, _attributes(config))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another output=… or --out") from None


def _trajectories(grid: Grid, heat: Heat, initial: torch.Tensor) -> NDArray[np.float32]:
    """`(samples, steps + 1, 1, *grid)` on every rank."""
    states = [grid.scatter(initial)]
    with torch.no_grad():
        for _ in range(ROLLOUT):
            states.append(heat(states[-1]))
        whole = grid.gather(torch.stack(states, dim=1))
    return whole.unsqueeze(2).to(torch.float32).numpy()


def _attributes(config: EmulatorConfig) -> TrajectoryAttributes:
    return TrajectoryAttributes(
        pde=config.physics.pde,
        shape=tuple(config.grid.shape),
        boundary=config.grid.boundary,
        length=config.grid.length,
        dt=config.physics.time_step,
        diffusivity=config.physics.diffusivity,
        scheme="backward Euler, central differences, conjugate gradients to rtol 1e-12",
    )
