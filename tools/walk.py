#!/usr/bin/env python3
"""Count what `prdp-hpc run CONFIG` walks through until it first calls PETSc's `KSP.solve`.

    python tools/walk.py CONFIG [KEY=VALUE ...] [--list]

Printed are the number of files of the package in which a function was called, and the number of
calls whose function is in another file than that of the call before. Calls while a module is loaded
(decorators, classes of pydantic) are not counted, and neither are other libraries. `--list` prints
the calls in their order, one line per change of file.

The run ends there, so use an empty folder: `output=/tmp/walk`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import prdp_hpc

PACKAGE = str(Path(prdp_hpc.__file__).parent)


class Call(NamedTuple):
    """A call of a function of the package, and the file that it is in."""

    file: str
    function: str


class _Reached(BaseException):
    """The first `KSP.solve` is called next."""


class Walk:
    """A profile function that stops before the first `KSP.solve`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._loading = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See `sys.setprofile`."""
        code = frame.f_code
        if code.co_name == "<module>" and event in ("call", "return"):
            self._loading += 1 if event == "call" else -1
        elif event == "call" and not self._loading and code.co_filename.startswith(PACKAGE):
            self.calls.append(Call(code.co_filename[len(PACKAGE) + 1 :], code.co_qualname))
            # Calls of PETSc itself are not reported: this is the function that makes one.
            if "solveTranspose" in code.co_names:
                sys.setprofile(None)
                raise _Reached

    @property
    def files(self) -> set[str]:
        """The files in which a function was called."""
        return {call.file for call in self.calls}

    @property
    def parts(self) -> list[list[Call]]:
        """The calls in their order, divided at each change of file."""
        found: list[list[Call]] = []
        for call in self.calls:
            if not found or found[-1][0].file != call.file:
                found.append([])
            found[-1].append(call)
        return found


def walk(action: Callable[[], object]) -> Walk:
    """Follow an action until it calls `KSP.solve`."""
    found = Walk()
    sys.setprofile(found)
    try:
        action()
    except _Reached:
        return found
    finally:
        sys.setprofile(None)
    raise SystemExit("no KSP.solve was called")


def main(arguments: list[str]) -> None:
    """Print the two numbers, and the calls on request."""
    from prdp_hpc.cli import main as command

    given = [word for word in arguments if word != "--list"]
    found = walk(lambda: command(["run", *given]))
    if "--list" in arguments:
        for part in found.parts:
            print(f"{part[0].file:32}", *(call.function for call in part))
    print(f"{len(found.files)} files, {len(found.parts) - 1} changes of file")


if __name__ == "__main__":
    main(sys.argv[1:])
