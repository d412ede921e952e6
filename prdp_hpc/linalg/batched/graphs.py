"""A fixed number of iterations as one CUDA graph: no launch from the host between kernels."""

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
"""Set to 0, nothing is captured."""
MOST_GRAPHS = 8
"""Graphs of an operator that are kept; each has the memory of one solve and of its matrices."""

Key = tuple[Any, ...]


class Graphs:
    """The captured solves of one operator.

    A solve is captured when one like it comes for the second time: same direction, level, shapes
    and precision. Other values are copied into the memory that the graph reads. Nothing is captured
    for a tolerance, which must be tested; for a method whose steps need the host (GMRES: its least
    squares); on several ranks, whose messages need it; and on the CPU. Those do the same steps one
    by one.
    """

    def __init__(self) -> None:
        self._seen: set[Key] = set()
        self._captured: dict[Key, CapturedSolve] = {}

    def iterate(
        self, key: Key, method: Method[Any], system: BatchedSystem, b: Tensor, criteria: Criteria
    ) -> tuple[Tensor, DefaultTest]:
        """As `iterate`, for a key that tells solves apart."""
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
    """K iterations on memory of its own.

    Parameters
    ----------
    method, system, criteria : the solve.
    b : a right-hand side of the shape, precision and device of all others.
    """

    def __init__(
        self, method: Method[Any], system: BatchedSystem, b: Tensor, criteria: Criteria
    ) -> None:
        self._system, self._b = system.map(torch.clone), b.clone()
        self._source: weakref.ref[BatchedSystem] = weakref.ref(system)
        arguments = method, self._system, self._b, criteria
        # Whatever is made or compiled at the first call is made outside of the graph.
        stream = torch.cuda.Stream(b.device)
        stream.wait_stream(torch.cuda.current_stream(b.device))
        with torch.cuda.stream(stream):
            iterate(*arguments)
        torch.cuda.current_stream(b.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._x, self._test = iterate(*arguments)

    def __call__(self, system: BatchedSystem, b: Tensor) -> tuple[Tensor, DefaultTest]:
        """The solution in a new tensor; what the test found is that of the latest call."""
        if self._source() is not system:
            for own, other in zip(self._system.tensors, system.tensors, strict=True):
                own.copy_(other)
            self._source = weakref.ref(system)
        self._b.copy_(b)
        self._graph.replay()
        return self._x.clone(), self._test


def is_captured(method: Method[Any], system: BatchedSystem, b: Tensor, criteria: Criteria) -> bool:
    """Whether solves like this one are captured, see `Graphs`."""
    if not b.is_cuda or os.environ.get(SWITCH, "1") == "0":
        return False
    return criteria.level.is_fixed and method.needs_no_host and system.comm.size == 1
