"""Many time steps, differentiated with few states in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.binomial import default_checkpoints, split
from prdp_hpc.autograd.leaves import are_separate, unknown_leaves
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.solver_levels import Levels, at_levels, current_levels

State = tuple[Tensor, ...]
Step = Callable[..., Any]

SAME = 1e-6
"""Largest relative difference of the norms of a state and of its recomputation that is accepted."""


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
        plain loop.

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
    run = _Run(stepper, steps, count, wanted, numbered, isinstance(state, Tensor))
    found = run.forward(start, list(parameters))
    if run.parameters is not None:
        apply: Any = _Rollout.apply
        flat = apply(run, found, *start, *run.parameters)
        found = [tuple(flat[i : i + len(start)]) for i in range(0, len(flat), len(start))]
    results = [each[0] if run.single else each for each in found]
    return results[0] if at is None else results


@dataclass
class _Segment:
    """The steps that follow a stored state.

    Attributes
    ----------
    first, count : the number of its first step, and the number of steps.
    slots : number of states that may be stored while it is reversed, including its first one.
    state : the state before the first step.
    random : the state of torch's generator before the first step.
    norms : norms of the state after the last step in the forward pass; empty if not computed.
    """

    first: int
    count: int
    slots: int
    state: State
    random: Tensor
    norms: list[float]


@dataclass
class _Run:
    """One rollout: the stepper, and the data that the forward pass stores for the backward pass."""

    step: Step
    steps: int
    checkpoints: int
    wanted: list[int]
    numbered: bool
    single: bool
    levels: Levels = field(default_factory=current_levels)
    random: Tensor = field(default_factory=torch.get_rng_state)
    parameters: list[Tensor] | None = None
    segments: list[_Segment] = field(default_factory=list)
    last: tuple[State, State] | None = None

    def forward(self, start: State, given: list[Tensor]) -> list[State]:
        """Compute all steps, with the last one recorded; returns the states of the result.
        `parameters` stays None if no gradient is needed.
        """
        recording, outputs = torch.is_grad_enabled(), {}
        with torch.no_grad():
            for number, state in self._states(start, keep=recording):
                if number in self.wanted:
                    outputs[number] = tuple(t.clone() for t in state)
        before, after = self._recorded(self.steps - 1, state, recording)
        outputs[self.steps] = tuple(t.detach() for t in after)
        if recording:
            self.segments[-1].norms = _norms(after)
            own = [t for t in given if t.requires_grad]
            found = unknown_leaves(after, [*before, *own])
            if not are_separate(own, found):
                own = [t for t in own if t.is_leaf]
                found = unknown_leaves(after, [*before, *own])
            if own or found or any(t.requires_grad for t in start):
                self.parameters, self.last = [*own, *found], (before, after)
            else:
                self.segments.clear()
        return [outputs[number] for number in self.wanted]

    def backward(self, start: State, cotangents: dict[int, State]) -> list[Tensor | None]:
        """Gradients of the first state and of the parameters. The stored states are freed, and
        computed again in another backward pass.
        """
        gradients = _Gradients(self, cotangents)
        with self._as_then():
            if not self.segments:
                with torch.no_grad():
                    deque(self._states(start, keep=True), maxlen=0)
            if self.last is not None:
                gradients.through(*self.last)
                gradients.add(self.steps - 1)
                self.last = None
                self.segments.pop()
            while self.segments:
                gradients.reverse(self.segments.pop())
        return [*gradients.of_state, *gradients.of_parameters]

    def plain(self, start: State) -> list[State]:
        """The plain loop: all steps, recorded."""
        state, outputs = start, {}
        with self._as_then():
            for number in range(self.steps):
                state = outputs[number + 1] = self.call(number, state)
        return [outputs[number] for number in self.wanted]

    def call(self, number: int, state: State) -> State:
        """One step."""
        argument = state[0] if self.single else state
        result = self.step(argument, number) if self.numbered else self.step(argument)
        after = (result,) if isinstance(result, Tensor) else tuple(result)
        if [t.shape for t in after] != [t.shape for t in state]:
            raise InputError(
                f"rollout: the stepper returned {_shapes(after)} for a state of {_shapes(state)}: "
                "a step must return a state of the same shape"
            )
        return after

    def recorded(self, number: int, state: State) -> tuple[State, State]:
        """One recorded step: the state before, as leaves, and the state after."""
        with torch.enable_grad():
            return self._recorded(number, state, recording=True)

    def _recorded(self, number: int, state: State, recording: bool) -> tuple[State, State]:
        before = tuple(t.detach() for t in state)
        for tensor in before:
            tensor.requires_grad_(recording and tensor.is_floating_point())
        return before, self.call(number, before)

    def _states(self, start: State, keep: bool) -> Iterator[tuple[int, State]]:
        """All states except the last with their numbers; stored states begin a segment."""
        marks = _marks(self.steps, self.checkpoints) if keep else {}
        state = tuple(t.detach() for t in start)
        for number in range(self.steps):
            if number in marks:
                if self.segments:
                    self.segments[-1].norms = _norms(state)
                random = torch.get_rng_state()
                self.segments.append(_Segment(number, *marks[number], state, random, []))
            yield number, state
            if number < self.steps - 1:
                state = self.call(number, state)

    @contextmanager
    def _as_then(self) -> Iterator[None]:
        """Use the levels and random numbers of the forward pass during a block."""
        here = torch.get_rng_state()
        torch.set_rng_state(self.random)
        try:
            with at_levels(self.levels):
                yield
        finally:
            torch.set_rng_state(here)


class _Gradients:
    """The backward pass of one run, from the gradients of the returned states."""

    def __init__(self, run: _Run, cotangents: dict[int, State]) -> None:
        self.run, self.cotangents = run, cotangents
        self.parameters = run.parameters or []
        self.of_state = cotangents.pop(run.steps)
        self.of_parameters: list[Tensor | None] = [None] * len(self.parameters)

    def reverse(self, segment: _Segment) -> None:
        """Compute the gradient of a segment's first state from that of its end."""
        count, norms = segment.count, segment.norms
        while count > 1:
            ahead, number = split(count, segment.slots), segment.first
            torch.set_rng_state(segment.random)
            with torch.no_grad():
                state = segment.state
                for number in range(segment.first, segment.first + ahead):
                    state = self.run.call(number, state)
            rest = (number + 1, count - ahead, segment.slots - 1)
            self.reverse(_Segment(*rest, state, torch.get_rng_state(), norms))
            del state
            count, norms = ahead, []
        torch.set_rng_state(segment.random)
        self._step_back(segment.first, segment.state, norms)

    def _step_back(self, number: int, state: State, norms: list[float]) -> None:
        before, after = self.run.recorded(number, state)
        if norms:
            _check_same(norms, after, number)
        unknown = unknown_leaves(after, [*before, *self.parameters])
        if unknown:
            raise InputError(
                f"rollout: step {number} depends on a tensor of shape {tuple(unknown[0].shape)} "
                "that requires a gradient, but the last step does not: pass it in parameters=…"
            )
        self.through(before, after)
        self.add(number)

    def through(self, before: State, after: State) -> None:
        """Differentiate one recorded step."""
        pairs = [(t, c) for t, c in zip(after, self.of_state, strict=True) if t.requires_grad]
        self.of_state = tuple(torch.zeros_like(t) for t in before)
        if not pairs:
            return
        # The graph before the step, e.g. of a network that made a coefficient, is needed again.
        found = torch.autograd.grad(
            [t for t, _ in pairs],
            [t for t in (*before, *self.parameters) if t.requires_grad],
            [c for _, c in pairs],
            allow_unused=True,
            retain_graph=True,
        )
        gradients = iter(found)
        self.of_state = tuple(
            zero if not t.requires_grad or (own := next(gradients)) is None else own
            for t, zero in zip(before, self.of_state, strict=True)
        )
        for index, gradient in enumerate(gradients):
            total = self.of_parameters[index]
            if gradient is not None:
                self.of_parameters[index] = gradient if total is None else total + gradient

    def add(self, number: int) -> None:
        """Add the gradient of the state before a step if that state was returned."""
        if number in self.cotangents:
            own = self.cotangents.pop(number)
            self.of_state = tuple(a + b for a, b in zip(self.of_state, own, strict=True))


class _Rollout(torch.autograd.Function):
    """The states of a run whose forward pass is done, as functions of its first state and its
    parameters.
    """

    @staticmethod
    def forward(ctx: Any, run: _Run, states: list[State], *inputs: Tensor) -> tuple[Tensor, ...]:
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


def _marks(steps: int, checkpoints: int) -> dict[int, tuple[int, int]]:
    """The steps before which the forward pass stores the state: for each the number of steps up to
    the next one, and of states that may be stored then.
    """
    marks, first = {}, 0
    while steps > 1:
        ahead = split(steps, checkpoints)
        marks[first] = (ahead, checkpoints)
        first, steps, checkpoints = first + ahead, steps - ahead, checkpoints - 1
    marks[first] = (1, checkpoints)
    return marks


def _norms(state: State) -> list[float]:
    return [float(torch.linalg.vector_norm(t.detach().double())) for t in state]


def _check_same(norms: list[float], after: State, number: int) -> None:
    for before, now in zip(norms, _norms(after), strict=True):
        if abs(before - now) > SAME * abs(before):
            raise InputError(
                f"rollout: step {number} returned a state of norm {before:.12g} in the forward "
                f"pass but {now:.12g} when it was recomputed: the stepper must not change in the "
                "meantime (its parameters and fields), and must not depend on earlier solves "
                "(a solver's initial_guess='last' or lag_preconditioner with loose levels)"
            )


def _shapes(state: State) -> str:
    return " and ".join(str(tuple(t.shape)) for t in state)


def _check(steps: int, checkpoints: int | None, wanted: list[int]) -> None:
    counts = {"steps": steps, "checkpoints": 1 if checkpoints is None else checkpoints}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"rollout: {name} must be an integer of at least 1, not {count!r}")
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 1 or wanted[-1] > steps:
        raise InputError(
            f"rollout: at must increase from at least 1 to at most steps={steps}, e.g. [10, 20], "
            f"not {wanted}"
        )
