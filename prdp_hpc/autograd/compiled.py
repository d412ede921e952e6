"""Solves and messages inside functions that are compiled by `torch.compile`."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

F = TypeVar("F")

is_compiling = torch.compiler.is_dynamo_compiling
"""Whether the calling function is being compiled, not run."""


def not_compiled(function: F) -> F:
    """The function without compilation: compiled functions call it as it is.

    `torch.compile` would change a solve's own Python code, e.g. leave torch's nesting of batches
    incremented, and fail at the custom functions. Unlike `torch.compiler.disable`, this does not
    load `torch._dynamo`, which takes a second; but each call does, so make calls only where
    `is_compiling()`.
    """
    own: Any = torch
    unchanged: F = own._disable_dynamo(function)
    return unchanged
