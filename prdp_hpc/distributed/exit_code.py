"""The exit code of this process while `atexit` callbacks run; Python itself keeps it nowhere.

When a `SystemExit` that nothing caught reaches the interpreter, CPython reads its attribute `code`
from C, with no Python frame on the stack. `watch` puts a descriptor around that attribute, which
notes the value of exactly these reads. Replacing `sys.exit` alone would miss `raise SystemExit(3)`,
and would take a `SystemExit` that is caught later for the end of the process.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class _Code:
    """`SystemExit.code`, noting what the interpreter reads of it."""

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
    """`sys.exit`. Python 3.11's own makes no exception object before something catches it, so that
    no attribute would be read.
    """
    raise SystemExit(status)


def watch(on_exit: Callable[[], None]) -> None:
    """From now on `requested` tells the exit code; `on_exit` is called when Python begins to exit
    with one, before all callbacks of `atexit`. Once per process.
    """
    # The dictionary itself: a built-in type refuses changes through its proxy.
    (attributes,) = gc.get_referents(SystemExit.__dict__)
    if not isinstance(attributes["code"], _Code):
        attributes["code"] = _Code(attributes["code"], on_exit)
        # Attributes of types are cached.
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(SystemExit))
    if sys.version_info < (3, 12):
        sys.exit = _exit


def requested() -> int | None:
    """The exit code that a `SystemExit` has asked for on the way out; None if there was none."""
    found = SystemExit.__dict__["code"]
    if not isinstance(found, _Code) or not found.read:
        return None
    code = found.read[-1]
    if code is None:
        return 0
    # As CPython does it: anything else is printed as a message.
    return code if isinstance(code, int) else 1
