"""What is wrong with a config, in words."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from prdp_hpc.config.paths import KeyPath, key_path, tags
from prdp_hpc.errors import InputError, PrdpError

_PACKAGE = Path(__file__).resolve().parents[1]


class ConfigError(InputError):
    """A config that does not do; one message lists everything that is wrong with it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that was probably meant; else all known words."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(words)}"


def problems(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Each wrong key once, as `key: what is wrong; what is allowed`.

    Raises what a validator raised by mistake, which pydantic takes for a wrong value.
    """
    found: dict[tuple[int | str, ...], str] = {}
    for one in error.errors():
        _raise_bug(one.get("ctx", {}).get("error"))
        path = _path(model, dict(one))
        # One value that fits no member of a union gives one error a member; the first says enough.
        found.setdefault(path.keys, _sentence(path, dict(one)))
    # Of a union's members, the one that the value came further with is the one that was meant.
    return [
        f"{'.'.join(map(str, keys)) or 'config'}: {text}"
        for keys, text in found.items()
        if not any(other[: len(keys)] == keys and other != keys for other in found)
    ]


def _raise_bug(cause: object) -> None:
    if isinstance(cause, Exception) and not isinstance(cause, PrdpError) and _is_ours(cause):
        raise cause from None


def _is_ours(error: Exception) -> bool:
    """Whether it comes from a validator of this package, not from a component of the user's own:
    pydantic's validators refuse values by ValueError.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or Path(frames[-1].filename).is_relative_to(_PACKAGE)


def _path(model: type[BaseModel], error: dict[str, Any]) -> KeyPath:
    """Where the key is wrong that chooses the member of a union, pydantic tells the union's."""
    path = key_path(model, error["loc"])
    tagged = error["type"] in ("union_tag_invalid", "union_tag_not_found")
    return replace(path, keys=(*path.keys, _discriminator(error))) if tagged else path


def _sentence(path: KeyPath, error: dict[str, Any]) -> str:
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"unknown key; {nearest(str(path.keys[-1]), path.siblings)}"
    if kind == "missing":
        return "must be given"
    if kind == "union_tag_not_found":
        return f"must be given, one of {_choices(path, error)}"
    if kind == "union_tag_invalid":
        known = _choices(path, error)
        return f"{error['ctx']['tag']!r} is not known here, choose one of {known}"
    if kind in ("model_type", "model_attributes_type"):
        return f"must be a section with keys, not {given!r}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = "" if kind == "value_error" or isinstance(given, dict) else f", not {given!r}"
    return f"{message[0].lower()}{message[1:]}{shown}"


def _discriminator(error: dict[str, Any]) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")


def _choices(path: KeyPath, error: dict[str, Any]) -> str:
    return ", ".join(map(repr, tags(path.annotation, _discriminator(error))))
