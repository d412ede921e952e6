"""How exact a gradient through K iterations is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prdp_hpc.config import ConfigError
from prdp_hpc.config import ExperimentConfig as Config
from prdp_hpc.config.components import component_of
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import build_solver, build_task
from prdp_hpc.linalg import Solver
from prdp_hpc.physics.stepper import reference_solver

DIFFERENTIATIONS = ("implicit", "unrolled")
MOST_LEVELS = 25
CONVERGED = 1e-12
"""Relative residual of the solves, forward and adjoint, whose gradient the others are measured
against.
"""


def gradient_errors(config: Config, mesh: ProcessMesh) -> dict[str, Any]:
    """`‖g_K − g‖ / ‖g‖` over K, for both ways of differentiating; collective.

    g is the gradient of the untrained task (of θ at its start, or of the network's parameters over
    the first batch) with converged solves, g_K that with K iterations, forward and, where the
    differentiation is implicit, adjoint. K runs from 1 to the ladder's top: all numbers, or at most
    25 in pairs of neighbours, closer together at first. Networks compute in float64 here.

    Returns
    -------
    `task`, `ksp`, `pc`, `levels` (K), and `errors`: for `implicit` and `unrolled` a number for each
    K.

    Raises
    ------
    ConfigError
        For a ladder of tolerances, or a converged gradient that is zero.
    ValueError
        For a ksp or pc that cannot be differentiated through its iterations.

    Source: paper, figure of converging gradients.
    """
    levels = _levels(config)
    config = _in_double(config)
    reference = reference_solver(component_of(config.physics))
    reference.refine(CONVERGED)
    exact = _gradient(config, mesh, reference)
    errors = {}
    # Unrolled first: what it cannot differentiate is found before the long part.
    for differentiation in reversed(DIFFERENTIATIONS):
        solver = build_solver(_differentiated(config, differentiation))
        task = build_task(config, mesh, solver)
        found = []
        for level in levels:
            task.solver.refine(level)
            difference = task.gradient() - exact
            found.append(
                float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(exact))
            )
        task.close()
        errors[differentiation] = found
    ordered = {differentiation: errors[differentiation] for differentiation in DIFFERENTIATIONS}
    return {
        "task": config.task_name,
        "ksp": config.solver.ksp,
        "pc": config.solver.pc,
        "levels": levels,
        "errors": ordered,
    }


def _gradient(config: Config, mesh: ProcessMesh, solver: Solver) -> Tensor:
    task = build_task(config, mesh, solver)
    gradient = task.gradient()
    task.close()
    if not gradient.any():
        raise ConfigError(
            "the converged gradient is zero, and errors are measured relative to it: start "
            "somewhere else"
        )
    return gradient


def _levels(config: Config) -> list[int]:
    ladder = config.refinement.ladder.build()
    top = ladder.level(ladder.top)
    if not isinstance(top, int):
        raise ConfigError(
            "refinement.ladder: gradients are compared over iterations, and this is a ladder of "
            "tolerances"
        )
    if top <= MOST_LEVELS:
        return list(range(1, top + 1))
    pairs = MOST_LEVELS // 2
    growing = (round(1 + (top - 1) * (index / (pairs - 1)) ** 2) for index in range(pairs))
    # Errors may swing from each K to the next, as steepest descent's: single ones would show a
    # trend that is not there.
    return sorted({near for level in growing for near in (max(level - 1, 1), level)})


def _in_double(config: Config) -> Config:
    if "precision" not in type(config.training).model_fields:
        return config
    return config.model_copy(
        update={"training": config.training.model_copy(update={"precision": "float64"})}
    )


def _differentiated(config: Config, differentiation: str) -> Config:
    return config.model_copy(
        update={"solver": config.solver.model_copy(update={"differentiation": differentiation})}
    )
