"""A first config for a task, PDE, grid and network, with values that train.

The values are those of the sections and tasks in `prdp_hpc.config`, as their class attributes
`starting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prdp_hpc.config.components import BUILT_IN, fitting_names, known_names, resolve
from prdp_hpc.errors import InputError

TASKS = tuple(BUILT_IN["tasks"])
PDES = tuple(known_names("physics"))
NETWORKS = tuple(known_names("networks"))
POINTS = {1: 64, 2: 32, 3: 16}
"""Default number of points per axis by dimension."""

Sections = dict[str, Any]


@dataclass(frozen=True)
class Choices:
    """What `prdp-hpc init` asks for; None: the default of the task.

    Attributes
    ----------
    task, pde, network : names.
    dimension : number of axes of the grid.
    points : number of points per axis.
    data : HDF5 file of trajectories; None: trajectories are generated.
    """

    task: str = TASKS[0]
    pde: str | None = None
    dimension: int | None = None
    points: int | None = None
    network: str | None = None
    data: str | None = None

    @property
    def model(self) -> Any:
        """The model of the task's config."""
        return resolve("tasks", self.task, Path()).target

    @property
    def trains_network(self) -> bool:
        """Whether the task has a network."""
        return "network" in self.model.model_fields

    @property
    def steps_in_time(self) -> bool:
        """Whether the PDE of the task has time steps, so that there are trajectories."""
        return any(slot.group == "physics" and slot.has_steps for slot in self.model.slots)

    @property
    def pdes(self) -> list[str]:
        """The PDEs of the task."""
        return fitting_names("physics", self.steps_in_time)

    @property
    def chosen_pde(self) -> str:
        """The PDE, or the first one of the task."""
        return self.pde or self.pdes[0]

    @property
    def dimensions(self) -> list[int]:
        """The numbers of axes that the task and the PDE support."""
        own = getattr(_model("physics", self.chosen_pde), "starting_dimensions", (1, 2, 3))
        return [dim for dim in self.model.starting_dimensions if dim in own]

    @property
    def chosen_dimension(self) -> int:
        """The number of axes, or the first one that is supported."""
        return self.dimension or (self.dimensions or self.model.starting_dimensions)[0]

    @property
    def default_network(self) -> str:
        """Name of the network if none is given."""
        found: str = self.model.starting_networks[self.chosen_dimension - 1]
        return found


def starting_config(name: str, choices: Choices) -> Sections:
    """The content of a config that trains; `InputError` for choices that exclude each other."""
    _check(choices)
    pde, dimension = choices.chosen_pde, choices.chosen_dimension
    content: Sections = {
        "task": choices.task,
        "name": name,
        "seed": 1,
        "grid": {
            "shape": [choices.points or POINTS[dimension]] * dimension,
            "boundary": "dirichlet",
        },
        "physics": {"pde": pde},
        "solver": {"ksp": "cg", "pc": "jacobi"},
        "refinement": {
            "schedule": "prdp",
            "ladder": {"kind": "iterations", "start": 2, "step": 2, "stop": 40},
            "ema_window": 6,
            "error_window": 3,
        },
    }
    content = _merged(content, getattr(_model("physics", pde), "starting", {}))
    if choices.trains_network:
        network = choices.network or choices.default_network
        keys = getattr(_model("networks", network), "starting", {})
        content["network"] = {"kind": network, **keys}
    content = _merged(content, choices.model.starting)
    return content if choices.data is None else content | {"data": {"file": choices.data}}


def _model(group: str, name: str) -> Any:
    return resolve(group, name, Path()).model


def _merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> Sections:
    """Nested sections with other values."""
    found = dict(content)
    for key, value in changes.items():
        inner = found.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            found[key] = _merged(inner, value)
        else:
            found[key] = value
    return found


def _check(choices: Choices) -> None:
    """Raise `InputError` for a PDE, grid, network or file that the task does not have."""
    task, pde, dimension = choices.task, choices.chosen_pde, choices.chosen_dimension
    if pde not in choices.pdes:
        raise InputError(
            f"--pde {pde}: --task {task} has no such PDE; choose one of {', '.join(choices.pdes)}"
        )
    if dimension not in choices.dimensions:
        words = " or ".join(map(str, choices.dimensions))
        raise InputError(
            f"--dimension {dimension}: --task {task} with --pde {pde} needs --dimension {words}"
        )
    if choices.network is not None and not choices.trains_network:
        raise InputError(f"--network: --task {task} has no network; leave it out")
    if choices.data is not None and not choices.steps_in_time:
        raise InputError(f"--data: --task {task} reads no trajectories; leave it out")
