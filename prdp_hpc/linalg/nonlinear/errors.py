"""Errors of failed nonlinear solves, with advice for the user."""

from __future__ import annotations

from collections.abc import Mapping

from prdp_hpc.linalg.errors import SolveError
from prdp_hpc.petsc import PETSc

_START = "start closer to the solution (a smaller time step, or the solution of a similar problem)"
_ADVICE = {
    "DIVERGED_MAX_IT": "allow more iterations (petsc_options={'snes_max_it': ...}), loosen the "
    f"tolerance, solve the linear systems more accurately (inner=...), or {_START}",
    "DIVERGED_LINE_SEARCH": "no step along Newton's direction makes the residual smaller: the "
    "Jacobian may be wrong or singular, the linear solves too loose (inner=...), or the start too "
    f"far away: {_START}",
    "DIVERGED_LOCAL_MIN": "the residual has a minimum that is not zero, where the Jacobian is "
    f"singular: {_START}",
    "DIVERGED_FUNCTION_NANORINF": "the residual became NaN or infinite within the line search: "
    f"{_START}, or keep the unknowns where the residual is defined",
    "DIVERGED_LINEAR_SOLVE": "the linear system of a Newton step could not be solved",
    "DIVERGED_FUNCTION_COUNT": "the line search took too many evaluations: the Jacobian may be "
    "wrong",
}
_REASONS = {
    code: name for name, code in vars(PETSc.SNES.ConvergedReason).items() if isinstance(code, int)
}


class NonlinearSolveError(SolveError):
    """A nonlinear solve that failed; raised on all ranks together.

    It is a `SolveError`, so the same handler catches linear and nonlinear failures.

    Parameters
    ----------
    message : str
        The text: reason, Newton iteration, level, residual, and what to try.
    reason : str, default ""
        PETSc's name of the reason of the first sample that failed, e.g. "DIVERGED_LINE_SEARCH".
    iteration : int, default 0
        The Newton iteration at which the solve stopped.
    samples : tuple of int, default ()
        Indices of the samples of the batch that failed, from 0.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import NonlinearSolveError, solve_nonlinear
    >>> try:
    ...     solve_nonlinear(lambda u: u**2 + 1.0, torch.ones(1).double())
    ... except NonlinearSolveError as error:
    ...     print(error.reason)
    DIVERGED_...
    """

    def __init__(
        self, message: str, reason: str = "", iteration: int = 0, samples: tuple[int, ...] = ()
    ) -> None:
        super().__init__(message, reason, iteration)
        self.samples = samples


def reason_name(code: int) -> str:
    """PETSc's name of a SNESConvergedReason; PETSc manual page: SNESConvergedReason."""
    return str(_REASONS.get(code, code))


def failed_newton(
    code: int, iteration: int, residual: float, level: object, inner: Exception | None
) -> NonlinearSolveError:
    """The error for a SNES that stopped with a negative reason.

    `residual`: its norm relative to that at the start. `inner`: the error of the linear solve, if
    it was the cause.
    """
    name = reason_name(code)
    advice = _ADVICE.get(name, _START)
    if inner is not None:
        name, advice = "DIVERGED_LINEAR_SOLVE", f"{_ADVICE['DIVERGED_LINEAR_SOLVE']}: {inner}"
    return NonlinearSolveError(
        f"nonlinear solve failed: {name} at Newton iteration {iteration}, level {level}, residual "
        f"{residual:.2g} of that at the start; {advice}",
        name,
        iteration,
    )


def bad_start(in_guess: bool) -> NonlinearSolveError:
    """The error for NaN or infinity in the start, or in its residual."""
    what = (
        "the start u0 holds NaN or infinity: look at what produced it"
        if in_guess
        else "the residual at the start holds NaN or infinity: look at the parameters, and at "
        "whether the residual is defined at u0"
    )
    return NonlinearSolveError(
        f"nonlinear solve failed: DIVERGED_FUNCTION_NANORINF at Newton iteration 0; {what}",
        "DIVERGED_FUNCTION_NANORINF",
    )


def of_samples(failures: Mapping[int, NonlinearSolveError], count: int) -> NonlinearSolveError:
    """The error for a batch of `count` samples of which these failed."""
    first = min(failures)
    error = failures[first]
    names = ", ".join(map(str, sorted(failures)))
    kind = "sample" if len(failures) == 1 else "samples"
    message = f"{kind} {names} of {count} (from 0): {error}"
    if len(failures) > 1:
        message = f"{kind} {names} of {count} (from 0); of sample {first}: {error}"
    return NonlinearSolveError(message, error.reason, error.iteration, tuple(sorted(failures)))
