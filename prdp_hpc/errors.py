"""The base class of the errors that users cause.

The `prdp-hpc` command shows these as one sentence; every other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations


class PrdpError(Exception):
    """An error that a user can act on: the message says what was wrong, where, and what to do."""


class InputError(PrdpError, ValueError):
    """An argument, a config or a file that cannot be used."""


class FileError(PrdpError, OSError):
    """A file or folder that cannot be read or written; `errno` and `strerror` are the system's."""

    def __init__(self, message: str, cause: OSError | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            # Libraries raise some with a text alone.
            self.errno, self.strerror = cause.errno, cause.strerror or str(cause)

    def __str__(self) -> str:
        return str(self.args[0])
