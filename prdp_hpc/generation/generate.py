"""Generation of trajectories with the converged solver of this package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.config import SupervisedConfig, components
from prdp_hpc.config.components import component_of
from prdp_hpc.config.slots import own_keys
from prdp_hpc.data import TEST, TrajectoryAttributes, TrajectoryWriter
from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.stepper import (
    Stepper,
    attributes,
    initial_states,
    made_stepper,
    reference_solver,
)

NOT_GENERATED = {"file", "format", "window", "stride", "steps", "in_memory"}
"""Keys of the section `data` that do not affect the generated trajectories; `steps` is contained in
their number of steps.
"""
SAMPLES_AT_ONCE = 25
"""Number of trajectories that are computed together, which bounds the memory."""


def generated_path(config: SupervisedConfig) -> Path:
    """The path of the generated data of a config, with a hash of everything that affects them."""
    pde = components(config)["physics.pde"]
    # Without a test group the hash is the one of versions that did not have this group.
    without = NOT_GENERATED if config.data.test else NOT_GENERATED | {"test"}
    code = pde.record().get("sha256")
    shape = {
        "grid": config.grid.model_dump(),
        "physics": config.physics.model_dump(exclude={"gradient"}),
        "data": config.data.model_dump(exclude=without),
        "steps": config.generated_steps,
        **({} if code is None else {"code": code}),
    }
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[
        :12
    ]
    points = "x".join(str(n) for n in config.grid.shape)
    name = pde.label.lower()
    return Path(config.output) / "data" / f"{name}_{points}_{digest}.h5"


def generate(config: SupervisedConfig, grid: Grid, path: Path) -> None:
    """Compute the trajectories of a config from random initial states and write them to `path`;
    collective.

    The initial states depend on `data.seed` (see `initial_states`). Each time step is that of the
    config, with the reference solver of the PDE. With `data.reference_factor` above 1 the
    trajectories are computed on a finer grid and restricted to the points of `grid`. The result
    does not depend on the number of ranks (up to the tolerance of the solver). Each rank writes its
    part (see `TrajectoryWriter`).
    """
    fine, kept = reference_grid(grid, _factor(config))
    local, part = kept_part(fine, kept)
    kind = component_of(config.physics)
    keys = own_keys(config.physics)
    stepper = made_stepper(kind, config.physics, keys, fine, reference_solver(kind))
    generator = np.random.default_rng(config.data.seed)
    # In this order, so that the samples of a group do not depend on the sizes of later groups.
    counts = {"train": config.data.train, "validation": config.data.validation}
    counts |= {TEST: config.data.test} if config.data.test else {}
    shapes = {
        group: (count, config.generated_steps + 1, len(stepper.channels), *grid.shape)
        for group, count in counts.items()
    }
    with TrajectoryWriter(path, grid.comm, _attributes(config, stepper), shapes, part) as writer:
        for group, count in counts.items():
            initial = initial_states(stepper, generator, count, config.data.modes)
            for first in range(0, count, SAMPLES_AT_ONCE):
                states = initial[first : first + SAMPLES_AT_ONCE]
                found = _trajectories(local, stepper, states, config.generated_steps)
                writer.write(group, first, found)


def reference_grid(grid: Grid, factor: int) -> tuple[Grid, Any]:
    """A grid `factor` times as fine on the same domain and ranks, and an index of the last axes
    that selects the points of `grid`.

    Fine Neumann axes do not contain the points of coarse ones, so their factor must be 1.
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
    """The kept points of `reference_grid` on this rank, as two indices: into this rank's part of
    the fine grid, and into the coarse grid.
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
    return int(getattr(config.data, "reference_factor", 1))


def _trajectories(kept: Any, stepper: Stepper, initial: Tensor, steps: int) -> NDArray[np.float32]:
    """Compute this rank's part of trajectories, `(samples, steps + 1, C, *kept points)`, from its
    part of the initial states, `(samples, C, *local_shape)`.
    """
    states = [initial]
    with torch.no_grad():
        for _ in range(steps):
            states.append(stepper(states[-1]))
    return torch.stack([state[kept] for state in states], dim=1).to(torch.float32).numpy()


def _attributes(config: SupervisedConfig, stepper: Stepper) -> TrajectoryAttributes:
    factor = _factor(config)
    scheme = str(getattr(stepper, "scheme", type(stepper).__name__))
    return TrajectoryAttributes(
        pde=components(config)["physics.pde"].label,
        shape=tuple(config.grid.shape),
        boundary=config.grid.boundary,
        length=config.grid.length,
        numbers=attributes(stepper),
        channels=tuple(stepper.channels),
        scheme=scheme + (f", on a grid {factor} times as fine" if factor > 1 else ""),
    )
