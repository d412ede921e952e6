"""Exceptions of another rank, sent as the name of their type, their text and their traceback.

Exception objects cannot be sent: many cannot be pickled, or cannot be made again from their pickle
(e.g. `UnicodeDecodeError`, which has several arguments).
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Simple = str | int | float | bool | None


class RemoteError(Exception):
    """An exception that another rank raised.

    It is also an instance of that exception's class if this rank has loaded it, so that the same
    `except` clause catches it on every rank. Its cause (`__cause__`) contains the other rank's
    traceback, which Python prints before this one's.

    Attributes
    ----------
    rank : the rank in MPI.COMM_WORLD that raised it.
    kind : the name of its class there; text : its message.
    """

    rank: int = -1
    kind: str = ""
    text: str = ""

    def __str__(self) -> str:
        # The class's name, if Python does not print it.
        label = self.kind if type(self) is RemoteError or not self.text else ""
        return f"rank {self.rank}: {': '.join(part for part in (label, self.text) if part)}"


class _RemoteTraceback(Exception):  # noqa: N818 - as in multiprocessing
    """The traceback of another rank, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class Report:
    """The data of an exception that is sent to other ranks."""

    rank: int
    module: str
    name: str
    text: str
    trace: str
    attributes: dict[str, Simple] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Report:
        """The report of an exception of this rank."""
        kind = type(error)
        values = dict(getattr(error, "__dict__", {}))
        if isinstance(error, OSError):
            values |= {"errno": error.errno, "strerror": error.strerror}
        simple = {name: value for name, value in values.items() if isinstance(value, Simple)}
        text = text_of(error)
        return cls(rank, kind.__module__, kind.__qualname__, text, _frames(error), simple)

    def error(self) -> RemoteError:
        """The exception to raise on another rank."""
        known = _known(self.module, self.name)
        error = (_instance(known) if known is not None else None) or RemoteError()
        for name, value in self.attributes.items():
            with suppress(AttributeError, TypeError):  # a property without a setter
                setattr(error, name, value)
        error.rank, error.kind, error.text = self.rank, self.name, self.text
        error.args = (str(error),)
        error.__cause__ = _RemoteTraceback(f"On rank {self.rank}: {self.trace}")
        return error


def text_of(error: BaseException) -> str:
    """The message of an exception."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} without a text>"


def _frames(error: BaseException) -> str:
    """The traceback without its last lines, which are the exception's message."""
    told = traceback.TracebackException.from_exception(error)
    text, last = "".join(told.format()), "".join(told.format_exception_only())
    return text.removesuffix(last).strip()


def _known(module: str, name: str) -> type[Exception] | None:
    """The class of this name if this rank has loaded it; otherwise no `except` clause names it."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _instance(known: type[Exception]) -> RemoteError | None:
    """An exception that is both a `RemoteError` and a `known`; None if that is not possible."""
    try:
        kind = _remote(known)
        # Without calling the class, which may have arbitrary arguments.
        return kind.__new__(kind)
    except Exception:
        return None


def _remote(known: type[Exception]) -> type[RemoteError]:
    if issubclass(known, RemoteError):
        return known
    names: dict[str, Any] = {
        "__module__": known.__module__,
        "__qualname__": known.__qualname__,
        "__str__": RemoteError.__str__,
    }
    # Exceptions may be false, e.g. those of petsc4py; Python does not print the causes of those.
    names["__bool__"] = _always
    # An exception's class may refuse changes, or have properties of the same names.
    names |= {"__setattr__": BaseException.__setattr__, "rank": -1, "kind": "", "text": ""}
    # In this order, because some built-in classes define `__new__`.
    kind: type[RemoteError] = type(known.__name__, (known, RemoteError), names)
    return kind


def _always(_: RemoteError) -> bool:
    return True
