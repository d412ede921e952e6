"""The trained tasks of one or several runs, from their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.config import ExperimentConfig, FieldInversionConfig, SupervisedConfig
from prdp_hpc.data import TrajectoryDataset, WindowedDataset
from prdp_hpc.data.formats.files import named
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import (
    ConfigParts,
    any_mesh,
    build_solver,
    data_path,
    open_data,
    task_class,
    task_from,
)
from prdp_hpc.experiments.evaluation import NEEDED, load_parameters, with_data
from prdp_hpc.experiments.trained import Checkpoint, run_config, shared_states
from prdp_hpc.grid.structured import Grid
from prdp_hpc.tasks.supervised import SupervisedTask


@dataclass(frozen=True)
class Trained:
    """A run's config and the state of its checkpoint.

    Attributes
    ----------
    folder : the run folder.
    config : its config, with the data of the first run of an ensemble, or those that were given.
    state : content of the checkpoint.
    """

    folder: Path
    config: Any
    state: dict[str, Any]


def load_runs(
    folders: Sequence[str | Path],
    data: str | Path | None,
    components: Sequence[str],
    checkpoint: Checkpoint,
) -> list[Trained]:
    """Read the configs and checkpoints of runs that predict the same quantities; collective."""
    world = MPI.COMM_WORLD

    def configs() -> list[ExperimentConfig]:
        found = [run_config(folder, components, NEEDED) for folder in folders]
        _check_alike(folders, found)
        return found

    own = call_together(world, configs)
    states = shared_states(world, folders, checkpoint)
    first = own[0] if data is None else with_data(own[0], data)
    section = "data" if isinstance(first, SupervisedConfig) else "experiments"
    shared = {section: getattr(first, section)}
    return [
        Trained(Path(folder), config.model_copy(update=shared), state)
        for folder, config, state in zip(folders, own, states, strict=True)
    ]


def _check_alike(folders: Sequence[str | Path], configs: Sequence[ExperimentConfig]) -> None:
    for folder, config in zip(folders, configs, strict=True):
        if not isinstance(config, SupervisedConfig | FieldInversionConfig):
            raise InputError(
                f"{folder}: the task {config.task_name} has parameters, but no field to predict"
            )
        for part in ("task", "grid", "physics"):
            mine, first = (
                getattr(one, part) if part == "task" else getattr(one, part).model_dump(mode="json")
                for one in (config, configs[0])
            )
            if mine != first:
                raise InputError(
                    f"{folder} and {folders[0]}: the section {part} of their configs differs, so "
                    "they do not predict the same states: give runs of one problem, e.g. the "
                    "seeds of a comparison"
                )


class _OneState:
    """A data set of one constant state, from which a task is made that only predicts."""

    def __init__(self, data: TrajectoryDataset, channels: int, steps: int) -> None:
        self._data, self._channels, self.steps = data, channels, steps

    def __getattr__(self, name: str) -> Any:
        if name in ("groups", "_data"):
            raise AttributeError(name)
        return getattr(self._data, name)

    def count(self, group: str) -> int:
        return int(group == "validation")

    def read(self, group: str, samples: Sequence[int], part: Sequence[slice]) -> NDArray[Any]:
        points = tuple(axis.stop - axis.start for axis in part)
        return np.ones((len(samples), self.steps + 1, self._channels, *points), np.float32)

    def read_states(
        self, group: str, sample: int, states: slice, part: Sequence[slice]
    ) -> NDArray[Any]:
        return self.read(group, [sample], part)[0, states]


class _PredictingParts(ConfigParts):
    """The components of a config for a task that predicts, without reading its samples."""

    @cached_property
    def trajectories(self) -> WindowedDataset:
        """The data set of the config; collective."""
        grid, groups = self.grid, self._groups
        path = data_path(self._supervised, self.mesh, grid)
        return open_data(self._supervised, path, self.mesh, groups)

    @cached_property
    def data(self) -> WindowedDataset:
        """A stand-in with the channels of the data set."""
        part = tuple(slice(s.start, s.start + 1) for s in self.grid.local_slices)
        (group,) = self._groups
        found = call_together(
            self.mesh.world, lambda: self.trajectories.read(group, range(1), part).shape[2]
        )
        one = _OneState(self.trajectories, int(found), self._supervised.steps)
        # The statistics are loaded with the parameters.
        return WindowedDataset(one, normalise=self._supervised.data.normalise)


@dataclass(frozen=True)
class Members:
    """The tasks of runs with their parameters, on one mesh.

    Attributes
    ----------
    runs : the runs.
    tasks : their tasks.
    mesh : the ranks.
    trajectories : the data set of tasks with trajectories; None for inversions.
    """

    runs: Sequence[Trained]
    tasks: Sequence[Any]
    mesh: ProcessMesh
    trajectories: TrajectoryDataset | None

    @property
    def grid(self) -> Grid:
        """The grid of all tasks."""
        grid: Grid = self.tasks[0].grid
        return grid

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of a predicted state."""
        if self.trajectories is None:
            return ("log_permeability",)
        return tuple(self.tasks[0].channels)

    @property
    def dtype(self) -> Any:
        """Type of the predicted numbers."""
        if self.trajectories is None:
            return np.dtype(np.float64)
        double = all(task.recipe.dtype == torch.float64 for task in self.tasks)
        return np.dtype(np.float64 if double else np.float32)

    def close(self) -> None:
        """Close the tasks and the mesh; collective."""
        for task in self.tasks:
            task.close()
        self.mesh.close()


def make_members(runs: Sequence[Trained], group: str) -> Members:
    """Create the tasks of runs and load their parameters; collective."""
    mesh = any_mesh(runs[0].config)
    try:
        return _made(runs, group, mesh)
    except BaseException:
        mesh.close()
        raise


def _made(runs: Sequence[Trained], group: str, mesh: ProcessMesh) -> Members:
    kind = task_class(runs[0].config)
    rolls_out = issubclass(kind, SupervisedTask)
    if not rolls_out and not any(hasattr(kind, own) for own in ("recovered", "load_parameters")):
        raise _predicts_nothing(runs[0], kind)
    tasks, trajectories = [], None
    for run in runs:
        if rolls_out:
            parts = _PredictingParts(run.config, mesh, build_solver(run.config), (group,))
            trajectories = parts.trajectories if trajectories is None else trajectories
        else:
            groups = ("validation",)
            parts = ConfigParts(run.config, mesh, build_solver(run.config), groups)  # type: ignore[assignment]
        task: Any = task_from(run.config, parts)
        if rolls_out and not task.predicts:
            raise _predicts_nothing(run, kind)
        call_together(mesh.world, partial(_load, task, run))
        tasks.append(task)
    return Members(runs, tasks, mesh, trajectories)


def _predicts_nothing(run: Trained, kind: type) -> InputError:
    return InputError(
        f"{run.folder}: its task {kind.__name__} has no method advance(state), with which states "
        "are predicted; see SupervisedTask"
    )


def _load(task: Any, run: Trained) -> None:
    load_parameters(task, run.state["task"], run.folder, _data_name(run))


def _data_name(run: Trained) -> str:
    own = run.config.data if isinstance(run.config, SupervisedConfig) else run.config.experiments
    files = getattr(own, "file", None)
    return str(named(files)) if files else "the data of the run"
