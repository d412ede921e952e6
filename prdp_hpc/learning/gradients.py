"""How exact a gradient through K iterations is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prdp_hpc.config import ConfigError, CorrectorConfig
from prdp_hpc.learning.experiment import Config, build_solver, build_task
from prdp_hpc.learning.generate import converged_solver
from prdp_hpc.linalg import Solver
from prdp_hpc.mesh import ProcessMesh

DIFFERENTIATIONS = ("implicit", "unrolled")
MOST_LEVELS = 60


def gradient_errors(config: Config, mesh: ProcessMesh) -> dict[str, Any]:
    """`‖g_K − g‖ / ‖g‖` over K, for both ways of differentiating; collective.

    g is the gradient of the untrained task (of θ at its start, or of the network's parameters over the first batch) with
    converged solves, g_K that with K iterations, forward and, where the differentiation is implicit, adjoint. K runs from 1
    to the ladder's top: all numbers, or about 60 of them that grow by a factor. Networks compute in float64 here.

    Returns
    -------
    `task`, `ksp`, `pc`, `levels` (K), and `errors`: for `implicit` and `unrolled` a number for each K.

    Raises
    ------
    ConfigError
        For a corrector, or a ladder of tolerances.
    ValueError
        For a ksp or pc that cannot be differentiated through its iterations.

    Source: paper, figure of converging gradients.
    """
    levels = _levels(config)
    config = _in_double(config)
    exact = _gradient(config, mesh, converged_solver(config.physics.pde))
    errors = {}
    for differentiation in DIFFERENTIATIONS:
        solver = build_solver(_differentiated(config, differentiation))
        task = build_task(config, mesh, solver)
        found = []
        for level in levels:
            solver.refine(level)
            difference = task.gradient() - exact
            found.append(float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(exact)))
        task.close()
        errors[differentiation] = found
    return {"task": config.task, "ksp": config.solver.ksp, "pc": config.solver.pc, "levels": levels, "errors": errors}


def _gradient(config: Config, mesh: ProcessMesh, solver: Solver) -> Tensor:
    task = build_task(config, mesh, solver)
    gradient = task.gradient()
    task.close()
    if not gradient.any():
        raise ConfigError("the converged gradient is zero, and errors are measured relative to it: start somewhere else")
    return gradient


def _levels(config: Config) -> list[int]:
    if isinstance(config, CorrectorConfig):
        raise ConfigError("task: gradients are compared for an inverse problem or an emulator, not for a corrector")
    ladder = config.refinement.ladder.build()
    top = ladder.level(ladder.top)
    if not isinstance(top, int):
        raise ConfigError("refinement.ladder: gradients are compared over iterations, and this is a ladder of tolerances")
    if top <= MOST_LEVELS:
        return list(range(1, top + 1))
    growing = (round(top ** (index / (MOST_LEVELS - 1))) for index in range(MOST_LEVELS))
    return sorted(set(growing))


def _in_double(config: Config) -> Config:
    if "precision" not in type(config.training).model_fields:
        return config
    return config.model_copy(update={"training": config.training.model_copy(update={"precision": "float64"})})


def _differentiated(config: Config, differentiation: str) -> Config:
    return config.model_copy(update={"solver": config.solver.model_copy(update={"differentiation": differentiation})})
