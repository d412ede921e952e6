"""The log of the package: Python's logger `prdp_hpc`, on standard error and in files.

Nothing is shown unless a program sets up `logging`, `--log-level` is given, or a config has
`logging.level`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
LOGGER = logging.getLogger("prdp_hpc")
LOGGER.addHandler(logging.NullHandler())
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def show_log(level: str) -> None:
    """Write messages of at least this level to standard error."""
    _add(logging.StreamHandler(sys.stderr), level)


@contextmanager
def log_file(path: Path, level: str, quiet: bool = False) -> Iterator[None]:
    """Append messages of at least this level, Python's warnings and the exception that ends the
    block to a file.

    `quiet`: warnings go to the file only, also those that a filter hides on this rank.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    before = LOGGER.level
    _add(handler, level)
    try:
        with _logged_warnings(quiet):
            yield
    except Exception:
        LOGGER.exception("ended by an error")
        raise
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
        handler.close()


@contextmanager
def _logged_warnings(quiet: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, *more: Any, **options: Any) -> None:
            LOGGER.warning("%s", message)
            if not quiet:
                shown(message, *more, **options)

        if quiet:
            warnings.simplefilter("default")
        warnings.showwarning = show
        yield


def _add(handler: logging.Handler, level: str) -> None:
    number: int = getattr(logging, level.upper())
    handler.setLevel(number)
    handler.setFormatter(logging.Formatter(_FORMAT))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(number, LOGGER.level or number))
