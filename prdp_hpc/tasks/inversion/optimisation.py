"""Optimisers behind one interface, and their states as whole vectors."""

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
    """Steps of an optimiser on an unknown, with a state that fits any number of ranks.

    Parameters
    ----------
    unknown : what is optimised.
    optimizer : `optimizer(parameters, lr=learning_rate)`: `LBFGS`, or one of torch's that works
        entry by entry, as Adam.
    learning_rate : of the first step.
    rate : the learning rate after n steps is `rate(n) · learning_rate`; not for `LBFGS`.
    mesh : the ranks.

    Raises
    ------
    ValueError
        For torch's own L-BFGS with the parameters divided among ranks.
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
                "training.optimizer: torch.optim.LBFGS takes inner products of one rank's part "
                "only: give optimizer: lbfgs, which takes them over all ranks"
            )

    def step(self, closure: Closure) -> float:
        """One step; the loss before it. `closure` puts the gradient into the parameters and returns
        the loss, equal on all ranks.
        """
        loss = float(self._optimizer.step(closure))
        if self._schedule is not None:
            self._schedule.step()
        return loss

    def function_changed(self) -> None:
        """The loss at the same parameters is another one from now on."""
        if isinstance(self._optimizer, LBFGS):
            self._optimizer.forget()

    def state_dict(self) -> dict[str, Any]:
        """Whole vectors, whatever the ranks; collective."""
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
        """All tensors that are vectors of parameters replaced."""
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
