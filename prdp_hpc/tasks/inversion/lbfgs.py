"""L-BFGS for vectors that are distributed over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prdp_hpc.number_checks import check_count, check_number
from prdp_hpc.tasks.inversion.line_search import Trial, strong_wolfe

Dot = Callable[[Tensor, Tensor], float]
Closure = Callable[[], float]


class LBFGS:
    """The limited-memory BFGS method with a strong Wolfe line search.

    The direction is `−H g`, where H approximates the inverse Hessian by the last `history` pairs of
    steps and gradient changes. torch's L-BFGS cannot be used, because its inner products cover only
    this rank's part. PETSc's (TAO, `lmvm`) cannot either, because the history of its matrix cannot
    be stored in a checkpoint, so a resumed run would not reproduce the numbers.

    Parameters
    ----------
    parameters : sequence of torch.nn.Parameter
        Parameters to optimise; leaf tensors on this rank.
    dot : callable, optional
        Inner product of two flat vectors of all parameters over all ranks; collective, equal on all
        ranks. Default: the inner product on this rank.
    lr : float, default 1.0
        Length of the first trial step along the steepest descent, in the 2-norm of the parameters.
        With a history, the first trial step is the quasi-Newton step.
    history : int, default 10
        Number of pairs of steps and gradient changes to keep.
    evaluations : int, default 20
        Maximum number of function evaluations per line search.

    Raises
    ------
    InputError
        If a number is out of range.

    References
    ----------
    Nocedal and Wright: Numerical Optimization, 2006, algorithm 7.5.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import LBFGS
    >>> x = torch.nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    >>> def closure():
    ...     loss = (x - 1.0).square().sum()
    ...     loss.backward()
    ...     return loss.item()
    >>> optimizer = LBFGS([x])
    >>> losses = [optimizer.step(closure) for _ in range(5)]
    >>> losses[0], round(losses[-1], 10)
    (13.0, 0.0)
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        dot: Dot | None = None,
        lr: float = 1.0,
        history: int = 10,
        evaluations: int = 20,
    ) -> None:
        check_number("lr", lr, above=0)
        check_count("history", history)
        check_count("evaluations", evaluations)
        self._parameters = list(parameters)
        self.dot: Dot = dot or (lambda one, other: torch.dot(one, other).item())
        self._lr, self._history, self._evaluations = lr, history, evaluations
        self._steps: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._last: tuple[float, Tensor] | None = None

    def forget(self) -> None:
        """Evaluate the function again before the next step, because it has changed.

        The history is kept.
        """
        self._last = None

    def step(self, closure: Closure) -> float:
        """Perform one iteration; collective.

        If no step along the quasi-Newton direction decreases the function, the history is cleared
        and the steepest descent is tried. If this fails too, the parameters are not changed.

        Parameters
        ----------
        closure : callable
            Evaluates the function at the parameters, stores its gradient, summed over ranks, in
            their `grad`, and returns its value, equal on all ranks; collective.

        Returns
        -------
        float
            Value of the function before the iteration.
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
        """Return history, value and gradient as flat tensors of this rank."""
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
        """The parameters, value and gradient after a line search; None if it has failed."""
        slope = self.dot(direction, gradient)
        if not slope < 0.0:
            return None
        first = 1.0 if self._steps else self._lr / (-slope) ** 0.5
        found: dict[float, tuple[float, Tensor]] = {}

        def at(step: float) -> Trial:
            self._set(x + step * direction)
            there, slopes = self._evaluate(closure)
            found[step] = there, slopes
            return Trial(step, there, self.dot(direction, slopes))

        trial = strong_wolfe(at, Trial(0.0, value, slope), first, self._evaluations)
        return None if trial is None else (x + trial.step * direction, *found[trial.step])

    def _remember(self, x: Tensor, gradient: Tensor, found: tuple[Tensor, float, Tensor]) -> None:
        here, value, slopes = found
        self._set(here)
        self._last = value, slopes
        step, change = here - x, slopes - gradient
        # Otherwise the approximate Hessian would not be positive definite.
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
