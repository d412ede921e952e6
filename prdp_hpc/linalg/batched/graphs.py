"""A fixed number of iterations as one CUDA graph, without launches by the host."""

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg.batched.system import BatchedSystem
from prdp_hpc.linalg.unrolled.convergence import DefaultTest
from prdp_hpc.linalg.unrolled.iterations import Criteria, iterate
from prdp_hpc.linalg.unrolled.methods import Method

SWITCH = "PRDP_CUDA_GRAPHS"
"""If set to 0, no graph is captured."""
MOST_GRAPHS = 8
"""Number of graphs kept per operator; each has the memory of one solve and of its matrices."""

Key = tuple[Any, ...]


class Graphs:
    """The captured solves of one operator.

    A solve is captured the second time that it occurs with the same direction, level, shapes and
    precision. New values are copied into the memory that the graph reads. There are no graphs for a
    tolerance, which must be tested; for a method whose steps need the host (the least-squares
    problem of GMRES); on several ranks, whose messages need the host; and on the CPU. In these
    cases the same steps are computed one by one.
    """

    def __init__(self) -> None:
        self._seen: set[Key] = set()
        self._captured: dict[Key, CapturedSolve] = {}

    def iterate(
        self, key: Key, method: Method[Any], system: BatchedSystem, b: Tensor, criteria: Criteria
    ) -> tuple[Tensor, DefaultTest]:
        """As `iterate`, with a key that identifies the solve."""
        if not is_captured(method, system, b, criteria):
            return iterate(method, system, b, criteria)
        found = self._captured.get(key)
        if found is None and key in self._seen:
            while len(self._captured) >= MOST_GRAPHS:
                self._captured.pop(next(iter(self._captured)))
            found = self._captured[key] = CapturedSolve(method, system, b, criteria)
        self._seen.add(key)
        return iterate(method, system, b, criteria) if found is None else found(system, b)


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
        self._system, self._b = system.map(torch.clone), b.clone()
        self._source: weakref.ref[BatchedSystem] = weakref.ref(system)
        arguments = method, self._system, self._b, criteria
        # Objects that are made or compiled in the first call are made outside of the graph.
        stream = torch.cuda.Stream(b.device)
        stream.wait_stream(torch.cuda.current_stream(b.device))
        with torch.cuda.stream(stream):
            iterate(*arguments)
        torch.cuda.current_stream(b.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._x, self._test = iterate(*arguments)

    def __call__(self, system: BatchedSystem, b: Tensor) -> tuple[Tensor, DefaultTest]:
        """The solution in a new tensor; the result of the test is that of the last call."""
        if self._source() is not system:
            for own, other in zip(self._system.tensors, system.tensors, strict=True):
                own.copy_(other)
            self._source = weakref.ref(system)
        self._b.copy_(b)
        self._graph.replay()
        return self._x.clone(), self._test


def is_captured(method: Method[Any], system: BatchedSystem, b: Tensor, criteria: Criteria) -> bool:
    """Whether solves of this kind are captured, see `Graphs`."""
    if not b.is_cuda or os.environ.get(SWITCH, "1") == "0":
        return False
    return criteria.level.is_fixed and method.needs_no_host and system.comm.size == 1
