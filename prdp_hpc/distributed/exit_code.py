"""The exit code of this process while `atexit` callbacks run; Python does not store it.

When an uncaught `SystemExit` reaches the interpreter, CPython reads its attribute `code` from C,
with no Python frame on the stack. `watch` replaces that attribute by a descriptor, which stores the
value at these reads only. Replacing only `sys.exit` would miss `raise SystemExit(3)`, and would
mistake a `SystemExit` that is caught later for the end of the process.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class _Code:
    """The attribute `SystemExit.code`, which stores the value that the interpreter reads."""

    def __init__(self, original: Any, on_read: Callable[[], None]) -> None:
        self._original, self._on_read = original, on_read
        self.read: list[object] = []

    def __get__(self, error: SystemExit | None, owner: type | None = None) -> Any:
        if error is None:
            return self
        code = self._original.__get__(error, owner)
        if sys._getframe().f_back is None:
            self.read.append(code)
            self._on_read()
        return code

    def __set__(self, error: SystemExit, code: object) -> None:
        self._original.__set__(error, code)


def _exit(status: object = None, /) -> NoReturn:
    """Replacement of `sys.exit`, which in Python 3.11 creates the exception object only when it is
    caught, so that no attribute would be read.
    """
    raise SystemExit(status)


def watch(on_exit: Callable[[], None]) -> None:
    """Make `requested` return the exit code from now on; once per process.

    `on_exit` is called when Python begins to exit with an exit code, before all `atexit` callbacks.
    """
    # The underlying dictionary, because a built-in type cannot be changed through its proxy.
    (attributes,) = gc.get_referents(SystemExit.__dict__)
    if not isinstance(attributes["code"], _Code):
        attributes["code"] = _Code(attributes["code"], on_exit)
        # CPython caches attributes of types.
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(SystemExit))
    if sys.version_info < (3, 12):
        sys.exit = _exit


def requested() -> int | None:
    """The exit code of an uncaught `SystemExit`, None without one."""
    found = SystemExit.__dict__["code"]
    if not isinstance(found, _Code) or not found.read:
        return None
    code = found.read[-1]
    if code is None:
        return 0
    # As in CPython: any other object is printed as a message.
    return code if isinstance(code, int) else 1
