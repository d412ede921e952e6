"""A common interface of optimisers, with states that contain whole vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.tasks.inversion.lbfgs import LBFGS, Closure
from prdp_hpc.tasks.inversion.unknown import Unknown


class Optimisation:
    """Steps of an optimiser for an unknown, with a state that can be loaded on any number of ranks.

    Parameters
    ----------
    unknown : the unknown to optimise.
    optimizer : `optimizer(parameters, lr=learning_rate)`: `LBFGS`, or an optimiser of torch that
        updates each entry separately, e.g. Adam.
    learning_rate : initial learning rate.
    rate : the learning rate after n steps is `rate(n) · learning_rate`; unused for `LBFGS`.
    mesh : the ranks.

    Raises
    ------
    InputError
        For torch's L-BFGS, which does not support distributed parameters.
    """

    def __init__(
        self,
        unknown: Unknown,
        optimizer: Callable[..., Any],
        learning_rate: float,
        rate: Callable[[int], float],
        mesh: ProcessMesh,
    ) -> None:
        self._unknown = unknown
        self._optimizer: Any = optimizer(unknown.parameters, lr=learning_rate)
        self._schedule: Any = None
        if isinstance(self._optimizer, LBFGS):
            self._optimizer.dot = unknown.dot
        else:
            self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, rate)
        if isinstance(self._optimizer, torch.optim.LBFGS):
            raise InputError(
                "training.optimizer: torch.optim.LBFGS computes inner products only of one rank's "
                "part: give optimizer: lbfgs, which computes them over all ranks"
            )

    def step(self, closure: Closure) -> float:
        """Perform one step and return the loss before it. `closure` stores the gradient in the
        parameters and returns the loss, equal on all ranks.
        """
        loss = float(self._optimizer.step(closure))
        if self._schedule is not None:
            self._schedule.step()
        return loss

    def function_changed(self) -> None:
        """Notify the optimiser that the loss at the same parameters has changed."""
        if isinstance(self._optimizer, LBFGS):
            self._optimizer.forget()

    def state_dict(self) -> dict[str, Any]:
        """Return the state with whole vectors, independent of the number of ranks; collective."""
        state = {"optimiser": self._mapped(self._optimizer.state_dict(), self._unknown.whole)}
        if self._schedule is not None:
            state["schedule"] = {"last_epoch": self._schedule.last_epoch}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._optimizer.load_state_dict(self._mapped(state["optimiser"], self._unknown.part, True))
        if self._schedule is not None:
            self._schedule.last_epoch = state["schedule"]["last_epoch"]

    def _mapped(self, value: Any, change: Callable[[Tensor], Tensor], whole: bool = False) -> Any:
        """Apply `change` to all tensors in a state that are vectors of parameters."""
        if isinstance(value, Tensor):
            if value.dim() == 0 or not self._unknown.distributed:
                return value
            found = change(value)
            return found.reshape(-1) if whole and isinstance(self._optimizer, LBFGS) else found
        if isinstance(value, Mapping):
            return {key: self._mapped(item, change, whole) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._mapped(item, change, whole) for item in value)
        return value
