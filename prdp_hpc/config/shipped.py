"""The configs that are installed with the package, by name."""

from __future__ import annotations

import os
from pathlib import Path

from prdp_hpc.config.errors import ConfigError, nearest

SHIPPED = Path(__file__).resolve().parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """The shipped configs by name, e.g. heat_1d."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def find_config(given: str) -> str:
    """The file of a config that is given as a path, or by the name of a shipped one.

    A file of that name comes first. Raises `ConfigError` for a word that is neither.
    """
    # `os.path.exists` is False for paths that cannot be read; the reader reports the reason.
    if Path(given).suffix or "/" in given or os.path.exists(given):
        return given
    known = shipped_configs()
    if given not in known:
        raise ConfigError(
            f"{given}: there is neither a file nor a shipped config of this name; "
            f"{nearest(given, list(known))}"
        )
    return str(known[given])
