"""A first config for a task, PDE, grid and network, with values that train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prdp_hpc.errors import InputError

TASKS = ("emulator", "corrector", "inverse", "field_inversion", "amortised_inversion")
STEPPED = ("heat", "burgers", "navier_stokes", "allen_cahn", "nonlinear_diffusion")
PDES = (*STEPPED, "poisson")
NETWORKS = ("mlp", "resnet", "unet")
POINTS = {1: 64, 2: 32, 3: 16}
"""Default number of points per axis by dimension."""

_PHYSICS: dict[str, dict[str, Any]] = {
    "heat": {"diffusivity": 1e-3, "dt": 1.0},
    "burgers": {"viscosity": 5e-3, "dt": 0.05},
    "navier_stokes": {"viscosity": 1e-3, "dt": 0.1},
    "allen_cahn": {"interface": 0.06, "dt": 0.5},
    "nonlinear_diffusion": {"diffusivity": 1e-3, "dt": 1.0},
    "poisson": {},
}
_PERIODIC = ("burgers", "navier_stokes", "allen_cahn")
_SOLVERS = {
    "burgers": {"ksp": "gmres", "pc": "jacobi"},
    "nonlinear_diffusion": {"ksp": "gmres", "pc": "jacobi"},
    "navier_stokes": {"ksp": "gmres", "pc": "constraint"},
}
_SYMMETRIC = {"ksp": "cg", "pc": "jacobi"}
_NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [64, 64, 64], "activation": "relu"},
    "resnet": {"channels": 16, "blocks": 2, "activation": "relu"},
    "unet": {"channels": 16, "depth": 2, "activation": "relu"},
}


@dataclass(frozen=True)
class Choices:
    """What `prdp-hpc init` asks for; None: the default of the task.

    Attributes
    ----------
    task, pde, network : built-in names.
    dimension : number of axes of the grid.
    points : number of points per axis.
    data : HDF5 file of trajectories; None: trajectories are generated.
    """

    task: str = "emulator"
    pde: str | None = None
    dimension: int | None = None
    points: int | None = None
    network: str | None = None
    data: str | None = None

    @property
    def trains_network(self) -> bool:
        """Whether the task has a network."""
        return self.task not in ("inverse", "field_inversion")

    @property
    def steps_in_time(self) -> bool:
        """Whether the PDE of the task has time steps, so that there are trajectories."""
        return self.task in ("emulator", "corrector")

    def default_dimension(self, pde: str) -> int:
        """Number of axes if none is given."""
        plane = pde == "navier_stokes" or self.task in ("field_inversion", "amortised_inversion")
        return 2 if plane else 1

    def default_network(self, dimension: int) -> str:
        """Name of the network if none is given."""
        if self.task == "amortised_inversion":
            return "unet"
        return "mlp" if dimension == 1 else "resnet"


def starting_config(name: str, choices: Choices) -> dict[str, Any]:
    """The content of a config that trains; `InputError` for choices that exclude each other."""
    pde = choices.pde or ("heat" if choices.steps_in_time else "poisson")
    dimension = choices.dimension or choices.default_dimension(pde)
    _check(choices, pde, dimension)
    shape = [choices.points or POINTS[dimension]] * dimension
    content: dict[str, Any] = {
        "task": choices.task,
        "name": name,
        "seed": 1,
        "grid": {"shape": shape, "boundary": "periodic" if pde in _PERIODIC else "dirichlet"},
        "physics": {"pde": pde, **_PHYSICS[pde]},
        "solver": dict(_SOLVERS.get(pde, _SYMMETRIC)),
        "refinement": _refinement(choices.task, pde),
    }
    if choices.trains_network:
        network = choices.network or choices.default_network(dimension)
        content["network"] = {"kind": network, **_NETWORKS[network]}
    return content | _task_sections(choices)


def _refinement(task: str, pde: str) -> dict[str, Any]:
    ladder = {"kind": "iterations", "start": 2, "step": 2, "stop": 40}
    if pde in ("allen_cahn", "nonlinear_diffusion"):
        ladder |= {"start": 1, "step": 1, "stop": 5}  # of Newton's method
    if task == "inverse":
        ladder |= {"start": 4, "step": 2, "stop": 60}
    return {"schedule": "prdp", "ladder": ladder, "ema_window": 6, "error_window": 3}


def _task_sections(choices: Choices) -> dict[str, Any]:
    """The sections that only one task, or a group of tasks, has."""
    training = {"epochs": 50, "batch_size": 25, "learning_rate": 1e-3}
    if choices.task == "inverse":
        return {
            "training": {"epochs": 100, "learning_rate": 550},
            "inverse": {"modes": 1, "reference": [2.0], "start": [5.0]},
        }
    if choices.task == "field_inversion":
        return {
            "truth": {"kind": "gaussian", "contrast": 10, "waves": 1.0},
            "experiments": {"count": 6, "wells": 8, "points": 8, "noise": 0.01},
            "validation": {"experiments": 2},
            "regularisation": {"kind": "h1", "weight": 1.0},
            "training": {"epochs": 20, "steps": 5, "learning_rate": 0.1},
        }
    if choices.task == "amortised_inversion":
        return {
            "truth": {"kind": "gaussian", "contrast": 10, "waves": 1.0},
            "experiments": {"count": 4, "wells": 8, "points": None},
            "data": {"train": 200, "validation": 20, "seed": 0},
            "training": training | {"batch_size": 10},
        }
    data: dict[str, Any] = {"train": 200, "validation": 20, "test": 20, "seed": 0}
    if choices.data is not None:
        data = {"file": choices.data}
    if choices.task == "emulator":
        return {"training": training, "data": data}
    generated = {} if choices.data is not None else {"reference_factor": 2}
    return {
        "corrector": {"unroll": 2, "validation_steps": [1, 2, 5]},
        "training": training,
        "data": data | generated,
    }


def _check(choices: Choices, pde: str, dimension: int) -> None:
    """Raise `InputError` for a PDE, grid, network or file that the task does not have."""
    known = STEPPED if choices.steps_in_time else ("poisson",)
    if pde not in known:
        raise InputError(
            f"--pde {pde}: --task {choices.task} has no such PDE; choose one of {', '.join(known)}"
        )
    if pde == "navier_stokes" and dimension != 2:
        raise InputError(f"--dimension {dimension}: navier_stokes needs --dimension 2")
    if choices.task == "inverse" and dimension != 1:
        raise InputError(f"--dimension {dimension}: --task inverse needs --dimension 1")
    if choices.network is not None and not choices.trains_network:
        raise InputError(f"--network: --task {choices.task} has no network; leave it out")
    if choices.data is not None and not choices.steps_in_time:
        raise InputError(f"--data: --task {choices.task} reads no trajectories; leave it out")
