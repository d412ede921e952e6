"""Atomic writes: a file is written under a temporary name, then renamed."""

from __future__ import annotations

import json
import math
import numbers
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prdp_hpc.errors import FileError, PrdpError

ELSEWHERE = "free space or get write permission there, or choose another path"


@contextmanager
def file_errors(path: str | Path, what: str, advice: str = ELSEWHERE) -> Iterator[None]:
    """Convert operating system errors about a file of the user into a `FileError`, which states
    what failed, the reason, and what to do.

    Use it only around the lines that access the file: an `OSError` of other code is a bug and must
    be reported as one.
    """
    try:
        yield
    except PrdpError:
        raise
    except OSError as error:
        raise file_error(error, path, what, advice) from error


def file_error(error: OSError, path: str | Path, what: str, advice: str = ELSEWHERE) -> FileError:
    """The `FileError` for an operating system error, see `file_errors`."""
    reason = error.strerror or str(error) or type(error).__name__
    return FileError(f"{path}: {what} ({reason}); {advice}", error)


def exists(path: Path, advice: str = ELSEWHERE) -> bool:
    """Whether a file exists; raises `FileError` if its folder cannot be read."""
    with file_errors(path, "cannot be read", advice):
        return path.exists()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it replaces `path`, on failure it
    is removed.

    The folder is made if it does not exist. The temporary name starts with a dot and keeps the
    suffix, because some libraries choose the format by the suffix. The data are synchronised to
    disk before the rename: after a crash `path` has its old or its new content, never a part; after
    this function has returned, it has the new one. Raises `FileError` if it cannot be written.
    """
    with file_errors(path, "cannot be written"), _beside(Path(path)) as temporary:
        yield temporary


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    # `tempfile` would make files that only the user can read, but run folders are often shared with
    # a group.
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        # The earlier error is more informative than a failure to remove the file.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove temporary files that `atomic_path` left for `path`, a name or a pattern, after its
    process was killed.

    Call it only while no process writes there.
    """
    target = Path(path)
    for left in target.parent.glob(f".{target.stem}.{'[0-9a-f]' * 8}{target.suffix}"):
        left.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, replacing the whole file at once."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def to_json(value: object, indent: int | None = None) -> str:
    """`value` as strict JSON text; NaN and infinities, which JSON does not have, become null.

    Mappings, lists, tuples, strings, booleans, None and any real number (NumPy's scalars too) are
    accepted; anything else raises `TypeError`.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def write_json(path: str | Path, value: object) -> None:
    """Write `value` to `path` as strict JSON (see `to_json`), replacing the whole file at once."""
    write_text(path, to_json(value, indent=2) + "\n")


def load_json(path: str | Path) -> Any:
    """The content of a JSON file; raises `FileError` if it cannot be read."""
    with file_errors(path, "cannot be read", "remove it; it is written again"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def _sync_folder(folder: Path) -> None:
    """Synchronise a rename to disk; some network file systems do not support it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(
        f"{type(value).__name__} cannot be written as JSON: convert it to a number, text, list or "
        "dict first"
    )
