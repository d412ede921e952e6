"""The forward and the backward pass of a rollout, with few states in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.binomial import split
from prdp_hpc.autograd.leaves import are_separate, unknown_leaves
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.refinement_level import Levels, at_levels, current_levels

State = tuple[Tensor, ...]
Step = Callable[..., Any]

SAME = 1e-6
"""Largest relative difference of the norms of a state and of its recomputation that is accepted."""


@dataclass
class Segment:
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
class Run:
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
    segments: list[Segment] = field(default_factory=list)
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
        gradients = Gradients(self, cotangents)
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
        """The plain loop: all steps, recorded, with the levels and random numbers of `forward`."""
        with self._as_then():
            return self.loop(start)

    def loop(self, start: State) -> list[State]:
        """All steps, with the present levels and random numbers."""
        state, outputs = start, {}
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
                self.segments.append(Segment(number, *marks[number], state, random, []))
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


class Gradients:
    """The backward pass of one run, from the gradients of the returned states."""

    def __init__(self, run: Run, cotangents: dict[int, State]) -> None:
        self.run, self.cotangents = run, cotangents
        self.parameters = run.parameters or []
        self.of_state = cotangents.pop(run.steps)
        self.of_parameters: list[Tensor | None] = [None] * len(self.parameters)

    def reverse(self, segment: Segment) -> None:
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
            self.reverse(Segment(*rest, state, torch.get_rng_state(), norms))
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
