"""The error of gradients through K iterations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prdp_hpc.config import ConfigError
from prdp_hpc.config import ExperimentConfig as Config
from prdp_hpc.config.components import component_of
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_solver, build_task
from prdp_hpc.linalg import NonlinearSolver, Solver
from prdp_hpc.physics.stepper import reference_solver

DIFFERENTIATIONS = ("implicit", "unrolled")
MOST_LEVELS = 25
CONVERGED = 1e-12
"""Relative residual of the forward and adjoint solves of the reference gradient."""


def gradient_errors(config: Config, mesh: ProcessMesh) -> dict[str, Any]:
    """Compute the gradient errors `‖g_K − g‖ / ‖g‖` for implicit and unrolled differentiation;
    collective.

    g is the gradient of the untrained task (with respect to θ at its initial value, or to the
    network's parameters for the first batch) with converged solves, and g_K that with K forward
    iterations and, for implicit differentiation, K adjoint iterations. K runs from 1 to the finest
    level of the ladder: all numbers, or at most 25 in pairs of neighbours, denser for small K.
    Networks compute in float64 here. Newton iterations are not differentiated: a PDE that is solved
    by Newton's method has the errors of implicit differentiation only.

    Returns
    -------
    dict
        `task`, `ksp`, `pc`, `levels` (K), `counted` (what K counts), and `errors`: for `implicit`
        and `unrolled` one number per K.

    Raises
    ------
    ConfigError
        For a ladder of tolerances, or if the converged gradient is zero.
    InputError
        For a ksp or pc whose iterations cannot be differentiated, and for a task without the
        method `gradient`.

    References: paper, figure of converging gradients.
    """
    levels = _levels(config)
    config = _in_double(config)
    reference = reference_solver(component_of(config.physics))
    reference.refine(CONVERGED)
    exact, used = _gradient(config, mesh, reference)
    by_newton = isinstance(used, NonlinearSolver)
    differentiations = DIFFERENTIATIONS[:1] if by_newton else DIFFERENTIATIONS
    errors, counted = {}, "inner iterations"
    # Unrolled first, so that unsupported methods are found before the longer part.
    for differentiation in reversed(differentiations):
        solver = build_solver(_differentiated(config, differentiation))
        task = build_task(config, mesh, solver)
        found = []
        for level in levels:
            task.solver.refine(level)
            difference = task.gradient() - exact
            found.append(
                float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(exact))
            )
        if isinstance(task.solver, NonlinearSolver) and task.solver.refines == "newton":
            counted = "Newton iterations"
        task.close()
        errors[differentiation] = found
    ordered = {differentiation: errors[differentiation] for differentiation in differentiations}
    return {
        "task": config.task_name,
        "ksp": config.solver.ksp,
        "pc": config.solver.pc,
        "levels": levels,
        "counted": counted,
        "errors": ordered,
    }


def _gradient(
    config: Config, mesh: ProcessMesh, solver: Solver
) -> tuple[Tensor, Solver | NonlinearSolver]:
    """The gradient with this solver, and the solver that the PDE makes of it."""
    task = build_task(config, mesh, solver)
    if not callable(getattr(task, "gradient", None)):
        raise InputError(
            f"task: {type(task).__name__} has no method gradient(), see prdp_hpc.tasks.task.Task"
        )
    gradient, used = task.gradient(), task.solver
    task.close()
    if not gradient.any():
        raise ConfigError(
            "the converged gradient is zero, and errors are measured relative to it: choose "
            "another initial guess"
        )
    return gradient, used


def _levels(config: Config) -> list[int]:
    ladder = config.refinement.ladder.build()
    top = ladder.level(ladder.top)
    if not isinstance(top, int):
        raise ConfigError(
            "refinement.ladder: gradients are compared for numbers of iterations, but this is a "
            "ladder of tolerances: give one with kind=iterations"
        )
    if top <= MOST_LEVELS:
        return list(range(1, top + 1))
    pairs = MOST_LEVELS // 2
    growing = (round(1 + (top - 1) * (index / (pairs - 1)) ** 2) for index in range(pairs))
    # Errors may oscillate from each K to the next, e.g. for steepest descent; without pairs of
    # neighbours the figure would show a false trend.
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
