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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    _add(handler, level)


@contextmanager
def log_file(path: Path, level: str) -> Iterator[None]:
    """Append messages of at least this level, Python's warnings and the exception that ends the
    block to a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    before, shown = LOGGER.level, warnings.showwarning

    def show(message: Any, *more: Any, **options: Any) -> None:
        LOGGER.warning("%s", message)
        shown(message, *more, **options)

    _add(handler, level)
    warnings.showwarning = show
    try:
        yield
    except Exception:
        LOGGER.exception("ended by an error")
        raise
    finally:
        warnings.showwarning = shown
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
        handler.close()


def _add(handler: logging.Handler, level: str) -> None:
    number = getattr(logging, level.upper())
    handler.setLevel(number)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(number, LOGGER.level or number))
