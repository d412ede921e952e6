"""Nested containers of tensors and plain values, as in the state of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

KeyPath = tuple[Any, ...]
"""The keys and indices of a value in nested containers."""


def mapped(value: Any, leaf: Callable[[KeyPath, Any], Any], path: KeyPath = ()) -> Any:
    """A copy of nested mappings, lists and tuples with `leaf(path, value)` in place of each other
    value, in order; mappings become dicts.
    """
    if isinstance(value, Mapping):
        return {key: mapped(item, leaf, (*path, key)) for key, item in value.items()}
    if type(value) in (list, tuple):
        items = [mapped(item, leaf, (*path, index)) for index, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    return leaf(path, value)
