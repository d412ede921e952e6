"""The base classes of errors that users can correct.

The `prdp-hpc` command prints these as one sentence; any other exception is a bug and is printed
with its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


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


def check_members(name: str, value: object, members: Sequence[str], wanted: str) -> None:
    """Raise `InputError` for an argument without the attributes and methods of its interface.

    Parameters
    ----------
    name : name of the argument.
    value : what was given.
    members : names of attributes and methods that it needs.
    wanted : what it must be, e.g. "a torch.nn.Module".
    """
    if isinstance(value, type):
        raise InputError(
            f"{name} must be {wanted}, not the class {value.__name__}: call it to make one"
        )
    missing = [member for member in members if not hasattr(value, member)]
    if missing:
        kind = type(value).__name__
        raise InputError(f"{name} must be {wanted}: a {kind} has no {', '.join(missing)}")


def returned(what: str, wanted: str, found: object) -> InputError:
    """The error for a result of user code that is not what it must return.

    Parameters
    ----------
    what : the method or function, e.g. "Transport.attributes()".
    wanted : what it must return, e.g. "a mapping from names to numbers".
    found : what it returned.
    """
    dtype, shape = getattr(found, "dtype", None), getattr(found, "shape", None)
    kind = "None" if found is None else type(found).__name__
    if dtype is not None and shape is not None:
        kind = f"{kind} of the type {dtype} and the shape {tuple(shape)}"
    return InputError(f"{what} must return {wanted}, not {kind}")
