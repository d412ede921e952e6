"""L-BFGS on vectors that are divided among ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prdp_hpc.errors import InputError
from prdp_hpc.tasks.inversion.line_search import Trial, strong_wolfe

Dot = Callable[[Tensor, Tensor], float]
Closure = Callable[[], float]


class LBFGS:
    """The limited-memory BFGS method with a strong Wolfe line search.

    Not torch's: its inner products are those of this rank's part. Not PETSc's (TAO, `lmvm`): the
    history of its matrix cannot be taken out, so a run that stops could not go on to the same
    numbers.

    Parameters
    ----------
    parameters : what is optimised; leaf tensors on this rank.
    dot : the inner product of two flat vectors of all parameters, over all ranks; collective,
        equal on all ranks. Default: of this rank alone.
    lr : the length, in the 2-norm of the parameters, of the first trial step along the steepest
        descent; with a history the first trial is the quasi-Newton step.
    history : pairs of changes that are kept.
    evaluations : at most as many evaluations of the function in a line search.

    Raises
    ------
    ValueError
        For a number out of range.

    Source: Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.5.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        dot: Dot | None = None,
        lr: float = 1.0,
        history: int = 10,
        evaluations: int = 20,
    ) -> None:
        if history < 1 or evaluations < 1 or not lr > 0:
            raise InputError(
                "L-BFGS needs a history and evaluations of at least 1 and a positive learning "
                f"rate, not {history}, {evaluations} and {lr!r}"
            )
        self._parameters = list(parameters)
        self.dot: Dot = dot or (lambda one, other: torch.dot(one, other).item())
        self._lr, self._history, self._evaluations = lr, history, evaluations
        self._steps: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._last: tuple[float, Tensor] | None = None

    def forget(self) -> None:
        """Evaluate the function again before the next step: it has changed. The history stays."""
        self._last = None

    def step(self, closure: Closure) -> float:
        """One iteration; the function's value before it.

        `closure` evaluates the function at the parameters and puts its gradient, summed over ranks,
        into their `grad`; collective, its value equal on all ranks. Where no step along the
        direction decreases the function, the history is dropped and the steepest descent tried;
        where that fails too, the parameters stay.
        """
        x = self._flat(self._parameters)
        value, gradient = self._last or self._evaluate(closure)
        for direction in self._directions(gradient):
            found = self._search(closure, x, direction, value, gradient)
            if found is not None:
                self._remember(x, gradient, found)
                return value
            self._steps, self._changes = [], []
        self._set(x)
        self._last = value, gradient
        return value

    def state_dict(self) -> dict[str, Any]:
        """The history, and value and gradient at the parameters, as flat tensors of this rank."""
        value, gradient = self._last or (None, None)
        return {
            "steps": list(self._steps),
            "changes": list(self._changes),
            "value": value,
            "gradient": gradient,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._steps = [step.clone() for step in state["steps"]]
        self._changes = [change.clone() for change in state["changes"]]
        self._last = (
            None if state["gradient"] is None else (state["value"], state["gradient"].clone())
        )

    def _directions(self, gradient: Tensor) -> list[Tensor]:
        if not self._steps:
            return [-gradient]
        return [self._newton(gradient), -gradient]

    def _newton(self, gradient: Tensor) -> Tensor:
        """`−H g` with the approximate inverse Hessian H of the history."""
        q, factors = gradient.clone(), []
        for step, change in zip(reversed(self._steps), reversed(self._changes), strict=True):
            inverse = 1.0 / self.dot(step, change)
            factor = inverse * self.dot(step, q)
            q -= factor * change
            factors.append((inverse, factor))
        last = self._changes[-1]
        q *= self.dot(self._steps[-1], last) / self.dot(last, last)
        pairs = zip(self._steps, self._changes, reversed(factors), strict=True)
        for step, change, (inverse, factor) in pairs:
            q += (factor - inverse * self.dot(change, q)) * step
        return -q

    def _search(
        self, closure: Closure, x: Tensor, direction: Tensor, value: float, gradient: Tensor
    ) -> tuple[Tensor, float, Tensor] | None:
        """The parameters, value and gradient after a line search; None where it failed."""
        slope = self.dot(direction, gradient)
        if not slope < 0.0:
            return None
        first = 1.0 if self._steps else self._lr / (-slope) ** 0.5
        seen: dict[float, tuple[float, Tensor]] = {}

        def at(step: float) -> Trial:
            self._set(x + step * direction)
            there, slopes = self._evaluate(closure)
            seen[step] = there, slopes
            return Trial(step, there, self.dot(direction, slopes))

        trial = strong_wolfe(at, Trial(0.0, value, slope), first, self._evaluations)
        return None if trial is None else (x + trial.step * direction, *seen[trial.step])

    def _remember(self, x: Tensor, gradient: Tensor, found: tuple[Tensor, float, Tensor]) -> None:
        here, value, slopes = found
        self._set(here)
        self._last = value, slopes
        step, change = here - x, slopes - gradient
        # Else the approximate Hessian would not be positive.
        if self.dot(step, change) > 1e-10 * self.dot(change, change):
            self._steps = [*self._steps, step][-self._history :]
            self._changes = [*self._changes, change][-self._history :]

    def _evaluate(self, closure: Closure) -> tuple[float, Tensor]:
        for parameter in self._parameters:
            parameter.grad = None
        value = closure()
        gradients: list[Any] = [parameter.grad for parameter in self._parameters]
        return value, self._flat(gradients)

    @staticmethod
    def _flat(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])

    def _set(self, x: Tensor) -> None:
        parts = x.split([parameter.numel() for parameter in self._parameters])
        with torch.no_grad():
            for parameter, part in zip(self._parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))
