"""Recomputation of the solver's time steps in the backward pass: less is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.tasks.recipe import Recipe


def recomputed_step(step: Callable[[Tensor], Tensor], state: Tensor, report: SolveReport) -> Tensor:
    """`step(state)`, of which only `state` is stored for the backward pass; collective.

    The backward pass computes the step again, with the same numbers, and differentiates it. Nothing
    of the first computation is kept, neither tensors nor matrices of PETSc. The repeated solves are
    in `report.forward` and `report.recomputed`.
    """
    if not (torch.is_grad_enabled() and state.requires_grad):
        return step(state)
    done = False

    def counted(x: Tensor) -> Tensor:
        nonlocal done
        if not done:
            done = True
            return step(x)
        with report.recomputation():
            return step(x)

    # Torch's other variant keeps the graph of the first computation, and with it the matrices that
    # a solve keeps for its adjoint.
    found: Tensor = checkpoint(counted, state, use_reentrant=True)
    return found


def check_recomputation(recipe: Recipe, solver: Any) -> None:
    """Raise `InputError` if a repeated solve would have other numbers than the first one."""
    if recipe.checkpoint_activations != "steps":
        return
    advice = "so a step computed again would have other numbers: choose another value, or true"
    if getattr(solver, "initial_guess", "zero") == "last":
        raise InputError(
            "training.checkpoint_activations: steps, but solver.initial_guess=last starts from the "
            f"last solution, {advice}"
        )
    if getattr(solver, "lag_preconditioner", None) is not None:
        raise InputError(
            "training.checkpoint_activations: steps, but solver.lag_preconditioner keeps the "
            f"preconditioner of an earlier matrix, {advice}"
        )
