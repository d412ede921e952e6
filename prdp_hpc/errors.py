"""The base classes of errors that users can correct.

The `prdp-hpc` command prints these as one sentence; any other exception is a bug and is printed
with its traceback.
"""

from __future__ import annotations


class PrdpError(Exception):
    """An error that a user can correct; the message states what is wrong, where, and what to do."""


class InputError(PrdpError, ValueError):
    """An argument, a config or a file that cannot be used."""


class FileError(PrdpError, OSError):
    """A file or folder that cannot be read or written, with the system's `errno` and `strerror`."""

    def __init__(self, message: str, cause: OSError | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            # Libraries raise some OSErrors with a text only.
            self.errno, self.strerror = cause.errno, cause.strerror or str(cause)

    def __str__(self) -> str:
        return str(self.args[0])
