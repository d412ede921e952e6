"""Generation of trajectories with the converged solver, from random initial states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.config import SupervisedConfig
from prdp_hpc.config.components import resolve
from prdp_hpc.console import note
from prdp_hpc.data import GROUPS, TEST, TrajectoryAttributes, TrajectoryWriter
from prdp_hpc.data.writer import Batch
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.preemption import Preempted, PreemptionWatch
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.files import exists
from prdp_hpc.grid.structured import Grid
from prdp_hpc.locks import locked
from prdp_hpc.physics.stepper import Stepper, attributes, initial_states, made_stepper, stepped

SAMPLES_AT_ONCE = 5
"""Number of trajectories that are computed together, which bounds the memory. It does not depend on
the number of ranks, so that the numbers do not depend on it either.
"""
VERSION = 2
"""Part of the file's name. Another number is needed if the same config gives other data."""
KEYS = {"train", "validation", "modes", "seed", "reference_factor"}
"""Keys of the section `data` that affect the data, besides `test` and `streams`."""


class InitialStates(Protocol):
    """The initial states of all samples."""

    def read(self, group: str, samples: range) -> Tensor:
        """Return this rank's part of some initial states, `(samples, C, *local_shape)`, float64;
        collective over the grid ranks.
        """
        ...


class SampleStreams:
    """Initial states from one random stream per sample.

    The stream of sample i of a group is `SeedSequence(seed, spawn_key=(number of the group, i))`.
    So a sample does not depend on the number of samples, on the other groups, or on the samples
    that are computed together with it, and no sample has to be kept in memory.

    Reference: NumPy manual, Parallel random number generation.

    Parameters
    ----------
    stepper : the PDE.
    seed : seed of the data set.
    groups : names of the groups, in the order of their numbers.
    modes : number of Fourier modes.
    """

    def __init__(self, stepper: Stepper, seed: int, groups: tuple[str, ...], modes: int) -> None:
        self._stepper, self._seed, self._groups, self._modes = stepper, seed, groups, modes

    def read(self, group: str, samples: range) -> Tensor:
        """Return this rank's part of some initial states; collective over the grid ranks."""
        number = self._groups.index(group)
        states = []
        for sample in samples:
            stream = np.random.SeedSequence(self._seed, spawn_key=(number, sample))
            generator = np.random.default_rng(stream)
            states.append(initial_states(self._stepper, generator, 1, self._modes))
        return torch.cat(states)


class OneStream:
    """Initial states from one random stream for the whole data set, as in versions up to 0.1.

    All initial states are in memory, and a sample depends on the number of samples of its group and
    of the earlier groups.

    Parameters
    ----------
    stepper : the PDE.
    seed : seed of the data set.
    counts : number of samples of each group, in the order in which they are drawn.
    modes : number of Fourier modes.
    """

    def __init__(self, stepper: Stepper, seed: int, counts: Mapping[str, int], modes: int) -> None:
        self._stepper, self._modes = stepper, modes
        self._generator, self._counts = np.random.default_rng(seed), iter(counts.items())
        self._states: dict[str, Tensor] = {}

    def read(self, group: str, samples: range) -> Tensor:
        """Return this rank's part of some initial states; collective over the grid ranks."""
        while group not in self._states:
            # The groups are drawn in their order, whichever is read first.
            name, count = next(self._counts)
            self._states[name] = initial_states(self._stepper, self._generator, count, self._modes)
        return self._states[group][samples.start : samples.stop]


@dataclass(frozen=True)
class GeneratedData:
    """What the generated data of a config are.

    Attributes
    ----------
    pde : the name of the PDE.
    steps : number of time steps.
    digest : a hash of everything that affects the data.
    """

    pde: str
    steps: int
    digest: str

    @classmethod
    def of(cls, config: SupervisedConfig) -> GeneratedData:
        """The data of a config."""
        steps, pde = config.generated_steps, resolve("physics", config.physics.pde, Path())
        name, code = pde.label, pde.record().get("sha256")
        # Without a test group the hash is the one of versions that did not have this group, and
        # with one stream for the data set it is the one of versions that had only this stream.
        keys = KEYS | ({"test"} if config.data.test else set())
        shape = {
            "grid": config.grid.model_dump(),
            "physics": config.physics.model_dump(exclude={"gradient"}),
            "data": config.data.model_dump(include=keys),
            "steps": steps,
            **({} if code is None else {"code": code}),
            **({} if config.data.streams == "shared" else {"version": VERSION}),
        }
        text = json.dumps(shape, sort_keys=True, default=str)
        return cls(name, steps, hashlib.sha256(text.encode()).hexdigest()[:12])

    def path(self, config: SupervisedConfig) -> Path:
        """Their file."""
        points = "x".join(str(n) for n in config.grid.shape)
        name = f"{self.pde.lower()}_{points}_{self.digest}.h5"
        return Path(config.output) / "data" / name


def generated_path(config: SupervisedConfig) -> Path:
    """The path of the generated data of a config, with a hash of everything that affects them."""
    return GeneratedData.of(config).path(config)


def generated(config: SupervisedConfig, grid: Grid, mesh: ProcessMesh) -> Path:
    """The file of the generated data of a config, which are generated if it does not exist;
    collective.
    """
    data = GeneratedData.of(config)
    path = data.path(config)
    if _is_missing(mesh, path):
        # Wait for another job that generates the same data, which then exist.
        with locked(mesh.world, path, "wait until it ends", wait=True):
            if _is_missing(mesh, path):
                generate(config, grid, path, mesh, data)
    return path


def _is_missing(mesh: ProcessMesh, path: Path) -> bool:
    found = call_together(mesh.world, partial(exists, path, "choose another output=…"))
    return not mesh.world.bcast(found)


def generate(
    config: SupervisedConfig,
    grid: Grid,
    path: Path,
    mesh: ProcessMesh | None = None,
    data: GeneratedData | None = None,
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
    data : what the data are, if the caller knows it.

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
    data = GeneratedData.of(config) if data is None else data
    states = data.steps + 1
    shapes = {
        group: (count, states, len(stepper.channels), *grid.shape)
        for group, count in counts.items()
    }
    about = _attributes(config, data.pde, stepper)
    file = TrajectoryWriter(path, world, grid.comm, about, shapes, part, data.digest)
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
            states = stepped(stepper, states) if step else states
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
    refined = f", on a grid {factor} times as fine" if factor > 1 else ""
    return TrajectoryAttributes(
        pde=pde,
        shape=tuple(config.grid.shape),
        boundary=config.grid.boundary,
        length=config.grid.length,
        numbers=attributes(stepper),
        channels=tuple(stepper.channels),
        scheme=f"{getattr(stepper, 'scheme', type(stepper).__name__)}{refined}",
    )
