"""What is wrong with a config, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A config that does not do; one message lists everything that is wrong with it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that was probably meant; else all known words."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(words)}"


def explain(error: dict[str, Any], known: Iterable[str]) -> str:
    """One pydantic error as `key: what is wrong; what is allowed`."""
    where = location(error) or "config"
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"{where}: unknown key; {nearest(str(error['loc'][-1]), known)}"
    if kind == "missing":
        return f"{where}: must be given"
    if kind == "union_tag_not_found":
        known_tags = _PDES if _tag(error) == "pde" else _KINDS
        return f"{where}: the key {_tag(error)} must be given, one of {known_tags}"
    if kind == "union_tag_invalid":
        return (
            f"{where}: {_tag(error)} {error['ctx']['tag']!r} is not known here, choose one of "
            f"{error['ctx']['expected_tags']}"
        )
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = "" if kind == "value_error" or isinstance(given, dict) else f", not {given!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def location(error: dict[str, Any]) -> str:
    """The dotted key that an error is about.

    Pydantic puts the member of a union that it tried into the path; users know keys only.
    """
    parts = [str(part) for part in error["loc"]]
    if len(parts) > 1 and parts[-1] in _TYPES:
        parts.pop()
    return ".".join(part for part in parts if "[" not in part and part not in _TAGS)


_TYPES = ("str", "int", "float", "bool", "none")
_TAGS = ("iterations", "tolerances", "mlp", "resnet", "heat", "burgers", "navier_stokes")
_KINDS = "'iterations', 'tolerances', 'levels'"
_PDES = "'heat', 'burgers', 'navier_stokes'"


def _tag(error: dict[str, Any]) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")
