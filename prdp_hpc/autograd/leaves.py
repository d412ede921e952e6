"""The tensors that a recorded computation depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

Edge = tuple[Any, int]


def unknown_leaves(results: Iterable[Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    """The leaves with `requires_grad` on which `results` depend other than through the `known`
    tensors.
    """
    ends = list(known)
    leaves, _ = _walk(results, ends)
    same = {id(tensor) for tensor in ends}
    return [leaf for leaf in leaves if id(leaf) not in same]


def are_separate(tensors: Iterable[Tensor], leaves: Iterable[Tensor]) -> bool:
    """Whether no tensor was computed from another one or from one of the leaves, so that their
    derivatives are independent.
    """
    given, known = list(tensors), {id(leaf) for leaf in leaves}
    for tensor in given:
        if tensor.grad_fn is None:
            continue
        below, edges = _walk([tensor], [])
        others = [other for other in given if other is not tensor]
        if any(id(leaf) in known for leaf in below):
            return False
        if any(_edge(other) in edges for other in others if other.grad_fn is not None):
            return False
        if {id(leaf) for leaf in below} & {id(other) for other in others}:
            return False
    return True


def _walk(starts: Iterable[Tensor], ends: Iterable[Tensor]) -> tuple[list[Tensor], set[Edge]]:
    """The leaves reached from the starts without passing the ends, and all edges on the way."""
    stop = {_edge(tensor) for tensor in ends if tensor.grad_fn is not None}
    leaves: dict[int, Tensor] = {}
    first = [t for t in starts if t.requires_grad]
    waiting = []
    for tensor in first:
        if tensor.grad_fn is None:
            leaves[id(tensor)] = tensor
        elif _edge(tensor) not in stop:
            waiting.append(tensor.grad_fn)
    seen, edges = set(waiting), set()
    while waiting:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            leaves.setdefault(id(variable), variable)
        for edge in node.next_functions:
            following = edge[0]
            if following is None or edge in stop:
                continue
            edges.add(edge)
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return list(leaves.values()), edges


def _edge(tensor: Tensor) -> Edge:
    return tensor.grad_fn, tensor.output_nr
