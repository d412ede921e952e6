"""Many time steps, differentiated with few states in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.binomial import default_checkpoints
from prdp_hpc.autograd.transforms import is_transforming
from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count
from prdp_hpc.physics.checkpointed_steps import Run, State, Step


def rollout(
    stepper: Step,
    state: Tensor | tuple[Tensor, ...],
    steps: int,
    checkpoints: int | None = None,
    *,
    at: Sequence[int] | None = None,
    parameters: Iterable[Tensor] = (),
    numbered: bool = False,
) -> Any:
    """Return the state after many steps, differentiable with few states in memory.

    The gradients are those of the plain loop `for _ in range(steps): state = stepper(state)`, but
    at most `checkpoints` states and the recorded graph of one step are in memory. Checkpoints are
    placed by binomial checkpointing (revolve), and the backward pass computes the other states
    again. With `l` steps and `c` checkpoints this takes, besides the `l` steps of the forward pass,
    `r·l − C(c + r, r − 1)` steps, with the smallest `r` for which `l ≤ C(c + r, c)`, which is the
    minimum. For 200 steps: 534 with 9 checkpoints, 379 with 19.

    Parameters
    ----------
    stepper : callable
        Maps a state to the next state of the same shape: a PDE, a network, a function of both. It
        must return the same result when it is called again, except for random numbers of torch on
        the CPU, which are reproduced, and for the solvers' levels: states are recomputed at the
        levels that all solvers had when `rollout` was called, independently of later calls of
        `refine`.
    state : Tensor or tuple of Tensor
        A tensor of shape `(B, C, *local_shape)`, or a tuple of tensors as in the stepper's
        signature.
    steps : int
        Number of steps, at least 1.
    checkpoints : int, optional
        Maximum number of stored states, including the first one, at least 1. Default: the fewest
        with which no step is recomputed more than twice, about `√(2 steps)`.
    at : sequence of int, optional
        Increasing numbers of steps, from 1; then the result is a list of the states after these
        steps, e.g. those with observations. They are stored in addition.
    parameters : iterable of Tensor, optional
        Tensors of any shape that the stepper depends on and that need gradients. Those of the last
        step are found automatically: all leaves with `requires_grad`, e.g. the parameters of a
        network or a diffusivity. Pass tensors that the last step does not use; and, to save time,
        those that are results of longer computations (a diffusivity `network(x)`), which otherwise
        are differentiated in each step.
    numbered : bool, default False
        Call `stepper(state, n)` with the number of the step, from 0, e.g. for time-dependent
        forcing or boundary values.

    Returns
    -------
    Tensor, tuple of Tensor or list
        The final state, of the shape of `state`, or with `at` a list of states. Collective if the
        stepper is, also in the backward pass: all ranks recompute the same steps in the same order.
        With `create_graph=True` the backward pass recomputes all steps and stores them, like the
        plain loop. Under `torch.func` and for forward-mode derivatives it is the plain loop.

    Raises
    ------
    InputError
        For counts below 1, an invalid `at`, or a state of another kind than the stepper returns; in
        the backward pass for a stepper that returns another result than before, and for parameters
        that were not found.

    Notes
    -----
    Source: Griewank and Walther, Algorithm 799: revolve, ACM TOMS 26 (2000).

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, Heat, Solver, rollout
    >>> kappa = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> heat = Heat(Grid((15,)), kappa, 1e-3, Solver("cg", "jacobi", 1e-10))
    >>> end = rollout(heat, torch.ones(1, 1, 15).double(), 50, checkpoints=5)
    >>> end.square().sum().backward()
    >>> bool(kappa.grad < 0.0)  # more diffusion, less heat
    True
    """
    wanted = [steps] if at is None else list(at)
    _check(steps, checkpoints, wanted)
    start = (state,) if isinstance(state, Tensor) else tuple(state)
    count = default_checkpoints(steps) if checkpoints is None else checkpoints
    run = Run(stepper, steps, count, wanted, numbered, isinstance(state, Tensor))
    if is_transforming():
        return _results(run.loop(start), run, at)
    found = run.forward(start, list(parameters))
    if run.parameters is not None:
        apply: Any = _Rollout.apply
        flat = apply(run, found, *start, *run.parameters)
        found = [tuple(flat[i : i + len(start)]) for i in range(0, len(flat), len(start))]
    return _results(found, run, at)


def _results(found: list[State], run: Run, at: Sequence[int] | None) -> Any:
    results = [each[0] if run.single else each for each in found]
    return results[0] if at is None else results


class _Rollout(torch.autograd.Function):
    """The states of a run whose forward pass is done, as functions of its first state and its
    parameters.
    """

    @staticmethod
    def forward(ctx: Any, run: Run, states: list[State], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(*inputs)  # torch detects a change in place
        return tuple(t for state in states for t in state)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        run, inputs = ctx.run, ctx.saved_tensors
        parts = len(inputs) - len(run.parameters)
        start = inputs[:parts]
        if torch.is_grad_enabled():
            return (None, None, *_recorded_gradients(run.plain(start), inputs, grads))
        given = [tuple(grads[i : i + parts]) for i in range(0, len(grads), parts)]
        cotangents = dict(zip(run.wanted, given, strict=True))
        cotangents.setdefault(run.steps, tuple(torch.zeros_like(t) for t in start))
        return (None, None, *run.backward(start, cotangents))


def _recorded_gradients(
    states: list[State], inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    outputs = [t for state in states for t in state]
    pairs = [(t, g) for t, g in zip(outputs, grads, strict=True) if t.requires_grad]
    found = torch.autograd.grad(
        [t for t, _ in pairs],
        [t for t in inputs if t.requires_grad],
        [g for _, g in pairs],
        create_graph=True,
        allow_unused=True,
    )
    gradients = iter(found)
    return [next(gradients) if t.requires_grad else None for t in inputs]


def _check(steps: int, checkpoints: int | None, wanted: list[int]) -> None:
    counts = {"steps": steps, "checkpoints": 1 if checkpoints is None else checkpoints}
    for name, count in counts.items():
        check_count(f"rollout: {name}", count)
    for step in wanted:
        check_count("rollout: an entry of at", step)
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 1 or wanted[-1] > steps:
        raise InputError(
            f"rollout: at must increase from at least 1 to at most steps={steps}, e.g. [10, 20], "
            f"not {wanted}"
        )
