"""One solve at a time, where several threads of a rank solve.

PETSc is not thread-safe, and petsc4py releases Python's lock inside PETSc: without a lock of ours,
one thread would load its values between another's load and solve.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Re-entrant, because functions of the user that a solve calls may solve themselves.
_LOCK = threading.RLock()


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function in one thread of this rank at a time, with all others of this kind."""

    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _LOCK:
            return function(*args, **kwargs)

    return locked
