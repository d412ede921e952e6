"""Iterations as CUDA graphs: no launch from the host between kernels."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg.batched.system import BatchedSystem
from prdp_hpc.linalg.unrolled.convergence import INTERVAL, DefaultTest
from prdp_hpc.linalg.unrolled.iterations import Criteria, iterate
from prdp_hpc.linalg.unrolled.methods import Method
from prdp_hpc.linalg.unrolled.state import State

SWITCH = "PRDP_CUDA_GRAPHS"
"""If set to 0, no solve is captured."""
MOST_GRAPHS = 8
"""Number of graphs kept per operator; each has the memory of one solve and of its matrices."""

Key = tuple[Any, ...]


class Graphs:
    """The captured solves of one operator.

    A solve with a fixed number of iterations is captured as a whole, the second time that it occurs
    with the same direction, level, shapes and precision. Of solves with a tolerance `INTERVAL`
    iterations are captured, and replayed until no right-hand side is active. New values are copied
    into the memory that the graph reads. There are no graphs for a method whose steps need the host
    (the least-squares problem of GMRES); on several ranks, whose messages need the host; and on the
    CPU. In these cases the same steps are computed one by one.
    """

    def __init__(self) -> None:
        self._seen: set[Key] = set()
        self._captured: dict[Key, Any] = {}

    def iterate(
        self,
        key: Key,
        method: Method[Any],
        system: BatchedSystem,
        b: Tensor,
        criteria: Criteria,
        whole: Tensor | None = None,
    ) -> tuple[Tensor, DefaultTest]:
        """As `iterate`, with a key that identifies the shapes of the solve."""
        if not is_captured(method, system, b):
            return iterate(method, system, b, criteria, whole)
        key = (*key, criteria.absolute, criteria.divergence, criteria.level.is_fixed)
        if not criteria.level.is_fixed:
            return iterate(method, system, b, criteria, whole, advance=self._advance(key))
        key = (*key, criteria.level.max_it)
        if key not in self._seen:
            self._seen.add(key)
            return iterate(method, system, b, criteria)
        solve: CapturedSolve = self._of(key, lambda: CapturedSolve(method, system, b, criteria))
        return solve(system, b)

    def _advance(self, key: Key) -> Callable[..., State]:
        def advance(
            method: Method[Any], system: BatchedSystem, b: Tensor, state: State, test: DefaultTest
        ) -> State:
            if test.limit < INTERVAL:
                return state
            steps = self._of(key, lambda: CapturedSteps(method, system, b, state, test))
            result: State = steps(system, b, state, test)
            return result

        return advance

    def _of(self, key: Key, make: Callable[[], Any]) -> Any:
        if key not in self._captured:
            while len(self._captured) >= MOST_GRAPHS:
                self._captured.pop(next(iter(self._captured)))
            self._captured[key] = make()
        return self._captured[key]


class _OwnSystem:
    """A copy of a system in memory that graphs read."""

    def __init__(self, system: BatchedSystem) -> None:
        self.system = system.map(torch.clone)
        self._source: weakref.ref[BatchedSystem] = weakref.ref(system)

    def load(self, system: BatchedSystem) -> None:
        """Copy the numbers of another one, unless they are the same."""
        if self._source() is not system:
            _copy(system.tensors, self.system.tensors)
            self._source = weakref.ref(system)


class CapturedSolve:
    """K iterations on separate memory.

    Parameters
    ----------
    method, system, criteria : the solve.
    b : a right-hand side with the shape, precision and device of all later ones.
    """

    def __init__(
        self, method: Method[Any], system: BatchedSystem, b: Tensor, criteria: Criteria
    ) -> None:
        self._own, self._b = _OwnSystem(system), b.clone()
        self._arguments = method, self._own.system, self._b, criteria
        self._replay = captured(self._run, b.device)

    def _run(self) -> None:
        self._x, self._test = iterate(*self._arguments)

    def __call__(self, system: BatchedSystem, b: Tensor) -> tuple[Tensor, DefaultTest]:
        """The solution in a new tensor; the test has the results of the latest call."""
        self._own.load(system)
        self._b.copy_(b)
        self._replay()
        return self._x.clone(), self._test


class CapturedSteps:
    """`INTERVAL` iterations of a solve with a tolerance, from one state to another, on separate
    memory.

    Parameters
    ----------
    method, system : the solve.
    b, state, test : its right-hand side and start, with the shapes of all later ones.
    """

    def __init__(
        self,
        method: Method[Any],
        system: BatchedSystem,
        b: Tensor,
        state: State,
        test: DefaultTest,
    ) -> None:
        self._method, self._own, self._b = method, _OwnSystem(system), b.clone()
        self._state, self._test = state.map(torch.clone), test.fork()
        self._replay = captured(self._run, b.device)

    def _run(self) -> None:
        test, state = self._test.fork(), self._state
        for _ in range(INTERVAL):
            state = self._method.step(self._own.system, self._b, state, test)
        test.finish()
        _copy(state.tensors, self._state.tensors)
        _copy(test.tensors, self._test.tensors)
        self._part = test
        self._flags = torch.cat([test.active.any()[None], test.occurred])

    def __call__(self, system: BatchedSystem, b: Tensor, state: State, test: DefaultTest) -> State:
        """The state after as many multiples of `INTERVAL` iterations as are needed, or allowed."""
        self._own.load(system)
        _copy(
            [b, *state.tensors, *test.tensors], [self._b, *self._state.tensors, *self._test.tensors]
        )
        goes_on = test.goes_on
        while goes_on and test.iteration + INTERVAL <= test.limit:
            self._replay()
            goes_on, *occurred = self._flags.tolist()
            test.advance(self._part, occurred)
        test.restore([tensor.clone() for tensor in self._test.tensors])
        return self._state.map(torch.clone)


def captured(function: Callable[[], None], device: torch.device) -> Callable[[], object]:
    """A replay of what a function does on a device; the function itself on the CPU."""
    if device.type == "cpu":
        return function
    # Objects that are made or compiled in the first call are made outside of the graph.
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        function()
    graph = torch.cuda.CUDAGraph()
    # Like torch.cuda.graph, which also empties torch's cache of memory: that takes longer than the
    # capture, and PRDP captures again at every new level.
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream), _no_collection():
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            function()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(stream)
    return graph.replay


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection in the block: it may free memory of PETSc on the device, and CUDA
    permits no such call during a capture.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def is_captured(method: Method[Any], system: BatchedSystem, b: Tensor) -> bool:
    """Whether solves like this one are captured, see `Graphs`."""
    if not b.is_cuda or os.environ.get(SWITCH, "1") == "0":
        return False
    return method.needs_no_host and system.comm.size == 1


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
