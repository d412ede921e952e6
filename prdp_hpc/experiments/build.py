"""Create process mesh, grid, solver, PDE, data, network and task from a config."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from prdp_hpc.config import ExperimentConfig, SupervisedConfig
from prdp_hpc.config.components import component_of, own_keys, resolve, section_model
from prdp_hpc.config.slots import made
from prdp_hpc.data import (
    GROUPS,
    TrajectoryDataset,
    WindowedDataset,
    content_id,
    windowed,
)
from prdp_hpc.data.formats.files import DataFiles, listed
from prdp_hpc.data.opening import open_dataset
from prdp_hpc.distributed.collective import call_together, on_root
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError, returned
from prdp_hpc.generation.generate import generated
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.networks import build_network
from prdp_hpc.physics.stepper import Stepper, made_stepper
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.task import Parts, Task


def process_mesh(config: ExperimentConfig) -> ProcessMesh:
    """Create the process mesh of a config; collective over all ranks."""
    all_ranks = MPI.COMM_WORLD.size
    return ProcessMesh.from_world(
        config.parallel.grid_ranks or (1 if config.divides_samples else all_ranks),
        gradients=config.parallel.gradients,
        shard_network=config.parallel.shard_network,
    )


def any_mesh(config: ExperimentConfig) -> ProcessMesh:
    """The mesh of the config; if the number of ranks does not allow it, e.g. on a login node, all
    ranks share the grid.
    """
    ranks = MPI.COMM_WORLD.size
    if ranks % (config.parallel.grid_ranks or 1):
        return ProcessMesh.from_world(ranks)
    return process_mesh(config)


def build_solver(config: ExperimentConfig) -> Solver:
    """Create the solver of a config, without a level."""
    section = config.solver
    return Solver(
        section.ksp,
        section.pc,
        petsc_options=section.petsc_options,
        differentiation=section.differentiation,
        lag_preconditioner=section.lag_preconditioner,
        initial_guess=section.initial_guess,
        precision=section.precision,
    )


def build_grid(config: ExperimentConfig, mesh: ProcessMesh) -> Grid:
    """Create the grid of a config; collective."""
    section = config.grid
    return Grid(section.shape, section.boundary, mesh.grid_comm, section.length, mesh.grid_group)


def build_task(
    config: ExperimentConfig,
    mesh: ProcessMesh,
    solver: Solver | None = None,
    groups: Sequence[str] = GROUPS,
) -> Task:
    """Create the task of a config and all its components; collective.

    `solver` replaces that of the config. Only the `groups` of the data are read; without "train"
    the task can only validate.
    """
    return task_from(config, ConfigParts(config, mesh, solver, groups))


def task_from(config: ExperimentConfig, parts: Parts) -> Task:
    """Create the task of a config from components; collective."""
    kind, section = _task(config)
    if not hasattr(kind, "from_config"):
        raise InputError(
            f"task: {kind.__name__} has no class method from_config(section, parts); see "
            "prdp_hpc.tasks.task.Task"
        )
    task: Task = kind.from_config(section, parts)
    return task


def task_class(config: ExperimentConfig) -> Any:
    """The class that a config's task names."""
    return _task(config)[0]


def _task(config: ExperimentConfig) -> tuple[Any, Any]:
    """The class that a config's task names, and the keys of a user-defined one; None for a built-in
    one, which reads the whole config.
    """
    if not isinstance(config.task, str):
        return component_of(config.task), config.task
    found = resolve("tasks", config.task, Path())
    model = None if found.built_in else found.model
    return found.load(), None if model is None else section_model(found, "kind")()


class ConfigParts:
    """The components of a config, see `prdp_hpc.tasks.task.Parts`."""

    def __init__(
        self,
        config: ExperimentConfig,
        mesh: ProcessMesh,
        solver: Solver | None = None,
        groups: Sequence[str] = GROUPS,
    ) -> None:
        self.config, self.mesh = config, mesh
        self.solver = build_solver(config) if solver is None else solver
        self._groups = groups

    @cached_property
    def grid(self) -> Grid:
        """The grid of the section `grid`; collective."""
        return build_grid(self.config, self.mesh)

    def stepper(self, solver: Solver | None = None) -> Any:
        """The PDE of the section `physics`, with the config's solver or another one; collective."""
        if solver is None:
            return self._stepper
        return made_stepper(self.config.physics, self.grid, solver)

    @cached_property
    def data(self) -> TrajectoryDataset:
        """The data set of the section `data`, generated if it names no file; collective."""
        path = data_path(self._supervised, self.mesh, self.grid)
        return open_data(self._supervised, path, self.mesh, self._groups)

    @cached_property
    def content_id(self) -> str | None:
        """The content id of the data set; None if the task does not use it. Collective."""
        if "data" not in self.__dict__:
            return None
        world = self.mesh.world
        found = on_root(world, lambda: content_id(self.data, self.grid.shape))
        shared: str = world.bcast(found)
        return shared

    @cached_property
    def inputs(self) -> Tensor | None:
        """The fields `(E, *local_shape)` that `network_inputs` names; collective."""
        return network_inputs(self._supervised, self.grid, self._stepper)

    @cached_property
    def network(self) -> nn.Module:
        """The network of the section `network`, for the channels of the data; collective."""
        config, channels = self._supervised, self._channels
        extra = 0 if self.inputs is None else self.inputs.shape[0]
        kind = component_of(config.network)
        keys = own_keys(config.network)
        return call_together(
            self.mesh.world,
            lambda: build_network(
                kind, self.grid.partition, channels + extra, channels, keys, seed=config.seed
            ),
        )

    @property
    def recipe(self) -> Recipe:
        """The training settings of the section `training`."""
        return build_recipe(self._supervised)

    @cached_property
    def _stepper(self) -> Any:
        return made_stepper(self.config.physics, self.grid, self.solver)

    @property
    def _channels(self) -> int:
        """Number of channels of the data, which may exceed the names of a channelwise PDE."""
        part = tuple(slice(s.start, s.start + 1) for s in self.grid.local_slices)
        data = windowed(self.data)
        return int(data.read_states("validation", 0, slice(0, 1, 1), part).shape[1])

    @property
    def _supervised(self) -> SupervisedConfig:
        if not isinstance(self.config, SupervisedConfig):
            raise InputError(f"task: {self.config.task_name} has neither data nor a network")
        return self.config


def build_recipe(config: SupervisedConfig) -> Recipe:
    """Create the training settings from the section `training`."""
    section = config.training
    return Recipe(
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        optimizer=_optimizer(section.optimizer),
        loss=_called("losses", section.loss),
        precision=section.precision,
        seed=config.seed,
        warmup_steps=section.warmup_steps,
        clip_norm=section.clip_norm,
        accumulate=section.accumulate,
        ema=section.ema,
        weight_decay_on=section.weight_decay_on,
        compile=section.compile,
        checkpoint_activations=section.checkpoint_activations,
        **_schedule(config),
    )


def network_inputs(config: SupervisedConfig, grid: Grid, stepper: Stepper | None) -> Tensor | None:
    """Compute the further input fields `(E, *local_shape)` of a network; collective. The PDE is
    needed for fields of "physics" only.
    """
    fields: list[Tensor] = []
    for name in config.network_inputs:
        if name == "coordinates":
            fields += [
                x / length for x, length in zip(grid.coordinates(), grid.length, strict=True)
            ]
            continue
        own: Any = getattr(stepper, "network_inputs", None)
        if own is None:
            raise InputError(
                f"network_inputs: {type(stepper).__name__} has no input fields, since it has no "
                "method network_inputs(): remove 'physics'"
            )
        fields += _checked_inputs(own(), grid, type(stepper).__name__)
    return torch.stack(fields) if fields else None


def _checked_inputs(found: Any, grid: Grid, pde: str) -> list[Tensor]:
    shape = tuple(grid.local_shape)
    is_real = isinstance(found, Tensor) and found.is_floating_point()
    if not is_real or found.dim() != len(shape) + 1 or tuple(found.shape[1:]) != shape:
        wanted = f"this rank's part of fields, (E, {', '.join(map(str, shape))}), as a tensor"
        raise returned(f"{pde}.network_inputs()", wanted, found)
    return list(found)


def data_path(config: SupervisedConfig, mesh: ProcessMesh, grid: Grid) -> DataFiles:
    """The file or files of a config's data set; if the config names none, the file of the generated
    one, which is generated if it does not exist. Collective.
    """
    if config.data.file:
        return listed(config.data.file)
    return generated(config, grid, mesh)


def open_data(
    config: SupervisedConfig,
    path: DataFiles,
    mesh: ProcessMesh,
    groups: Sequence[str] = GROUPS,
) -> WindowedDataset:
    """Open the data set of a config; collective."""
    kind, keys = made("formats", config.data.format)

    def opened() -> WindowedDataset:
        section = config.data
        return WindowedDataset(
            open_dataset(kind, path, config.grid.shape, groups, keys),
            window=section.window,
            stride=section.stride,
            steps=section.steps,
            in_memory=section.in_memory,
            normalise=section.normalise,
        )

    return call_together(mesh.world, opened)


def _optimizer(value: Any) -> Any:
    kind, keys = made("optimizers", value)
    return lambda parameters, lr: kind(parameters, lr=lr, **keys)


def _schedule(config: SupervisedConfig) -> dict[str, Any]:
    """The argument `rate` or `scheduler` of the recipe."""
    section = config.training
    kind, keys = made("rates", section.schedule)
    if isinstance(kind, type) and issubclass(kind, LRScheduler):
        return {"scheduler": lambda optimizer: kind(optimizer, **keys)}
    if kind.__module__ == "prdp_hpc.tasks.recipe":
        keys = {"decay": section.decay, "decay_steps": section.decay_steps}
    return {"rate": kind(**keys)}


def _called(group: str, value: Any) -> Any:
    kind, keys = made(group, value)
    return kind(**keys)
