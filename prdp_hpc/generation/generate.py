"""Generation of trajectories with the converged solver of this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prdp_hpc.config import SupervisedConfig
from prdp_hpc.config.components import resolve
from prdp_hpc.console import note
from prdp_hpc.data import GROUPS, TEST, TrajectoryAttributes, TrajectoryWriter
from prdp_hpc.data.writer import Batch
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.preemption import Preempted, PreemptionWatch
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.generation.streams import InitialStates, OneStream, SampleStreams
from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.stepper import Stepper, attributes, made_stepper

SAMPLES_AT_ONCE = 5
"""Number of trajectories that are computed together, which bounds the memory. It does not depend on
the number of ranks, so that the numbers do not depend on it either.
"""
VERSION = 2
"""Part of the file's name. Another number is needed if the same config gives other data."""
KEYS = {"train", "validation", "modes", "seed", "reference_factor"}
"""Keys of the section `data` that affect the data, besides `test` and `streams`."""


def generated_path(config: SupervisedConfig) -> Path:
    """The path of the generated data of a config, with a hash of everything that affects them."""
    points = "x".join(str(n) for n in config.grid.shape)
    pde, digest = _identity(config, config.generated_steps)
    return Path(config.output) / "data" / f"{pde.lower()}_{points}_{digest}.h5"


def generate(
    config: SupervisedConfig, grid: Grid, path: Path, mesh: ProcessMesh | None = None
) -> None:
    """Compute the trajectories of a config from random initial states and write them to `path`;
    collective over all ranks of the mesh.

    The initial states depend on `data.seed` (see `SampleStreams`). Each time step is that of the
    config, with the reference solver of the PDE. With `data.reference_factor` above 1 the
    trajectories are computed on a finer grid and restricted to the points of `grid`. The samples
    are divided among the replicas in batches of `SAMPLES_AT_ONCE`. The result does not depend on
    the number of replicas, and on the number of grid ranks only up to the tolerance of the solver.

    After SIGUSR1 or SIGTERM to any rank the ranks finish their batch and exit with code 85. The
    next call with the same config and path continues after a signal or a kill (see
    `TrajectoryWriter`).

    Parameters
    ----------
    config : the config.
    grid : the grid of this replica.
    path : the file.
    mesh : the replicas. Default: the ranks of `grid` are the only replica.

    Raises
    ------
    DataError
        On all ranks, if the file cannot be written.
    LockedError
        On all ranks, if another job is writing it.
    Preempted
        After a signal.
    """
    world, replica, replicas = (
        (grid.comm, 0, 1) if mesh is None else (mesh.world, mesh.replica, mesh.replicas)
    )
    fine, kept = reference_grid(grid, _factor(config))
    local, part = kept_part(fine, kept)
    counts = _counts(config)
    stepper, initial = call_together(world, lambda: _started(config, fine, counts))
    steps = config.generated_steps
    states = steps + 1
    pde, digest = _identity(config, steps)
    shapes = {
        group: (count, states, len(stepper.channels), *grid.shape)
        for group, count in counts.items()
    }
    about = _attributes(config, pde, stepper)
    file = TrajectoryWriter(path, world, grid.comm, about, shapes, part, digest)
    with file, PreemptionWatch(world) as watch:
        _announce(file, path, world.rank, sum(counts.values()))
        batches = file.missing(SAMPLES_AT_ONCE)
        for first in range(0, len(batches), replicas):
            together = batches[first : first + replicas]
            mine = together[replica] if replica < len(together) else None
            call_together(world, partial(_compute, mine, initial, stepper, states, local, file))
            file.finish(together)
            if watch.after_step() and first + replicas < len(batches):
                file.list_finished()
                _announce(file, path, world.rank, sum(counts.values()), stopped=True)
                raise Preempted


def _compute(
    batch: Batch | None,
    initial: InitialStates,
    stepper: Stepper,
    count: int,
    kept: Any,
    file: TrajectoryWriter,
) -> None:
    """Compute `count` states of this replica's batch, and write each when it is known; collective
    over the grid ranks.
    """
    if batch is None:
        return
    with torch.no_grad():
        states = initial.read(batch.group, batch.samples)
        for step in range(count):
            states = stepper(states) if step else states
            file.write(batch, step, states[kept].to(torch.float32).numpy())


def _announce(
    file: TrajectoryWriter, path: Path, rank: int, samples: int, stopped: bool = False
) -> None:
    """Report on rank 0 how many samples an interrupted generation has finished."""
    if rank == 0 and file.finished and file.finished < samples:
        done = f"{file.finished} of {samples} trajectories of {path} are finished"
        end = "stopped by a signal: start the same command again" if stopped else "continuing"
        note(f"prdp-hpc: {done}; {end}")


def _counts(config: SupervisedConfig) -> dict[str, int]:
    # In this order, so that the samples of a group do not depend on the sizes of later groups.
    counts = {"train": config.data.train, "validation": config.data.validation}
    return counts | ({TEST: config.data.test} if config.data.test else {})


def _started(
    config: SupervisedConfig, grid: Grid, counts: Mapping[str, int]
) -> tuple[Stepper, InitialStates]:
    """The PDE with its reference solver, and its initial states; collective."""
    stepper: Stepper = made_stepper(config.physics, grid)
    return stepper, _initial(config, stepper, counts)


def _initial(
    config: SupervisedConfig, stepper: Stepper, counts: Mapping[str, int]
) -> InitialStates:
    if config.data.streams == "shared":
        return OneStream(stepper, config.data.seed, counts, config.data.modes)
    return SampleStreams(stepper, config.data.seed, (*GROUPS, TEST), config.data.modes)


def _identity(config: SupervisedConfig, steps: int) -> tuple[str, str]:
    """The name of the PDE, and a hash of everything that affects the data of a config."""
    pde = resolve("physics", config.physics.pde, Path())
    name, code = pde.label, pde.record().get("sha256")
    # Without a test group the hash is the one of versions that did not have this group, and with
    # one stream for the data set it is the one of versions that had only this stream.
    shape = {
        "grid": config.grid.model_dump(),
        "physics": config.physics.model_dump(exclude={"gradient"}),
        "data": config.data.model_dump(include=KEYS | ({"test"} if config.data.test else set())),
        "steps": steps,
        **({} if code is None else {"code": code}),
        **({} if config.data.streams == "shared" else {"version": VERSION}),
    }
    text = json.dumps(shape, sort_keys=True, default=str)
    return name, hashlib.sha256(text.encode()).hexdigest()[:12]


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


def _attributes(config: SupervisedConfig, pde: str, stepper: Stepper) -> TrajectoryAttributes:
    factor = _factor(config)
    scheme = str(getattr(stepper, "scheme", type(stepper).__name__))
    return TrajectoryAttributes(
        pde=pde,
        shape=tuple(config.grid.shape),
        boundary=config.grid.boundary,
        length=config.grid.length,
        numbers=attributes(stepper),
        channels=tuple(stepper.channels),
        scheme=scheme + (f", on a grid {factor} times as fine" if factor > 1 else ""),
    )
