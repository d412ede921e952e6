"""Error messages for invalid configs."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prdp_hpc.config.paths import KeyPath, key_path, tags
from prdp_hpc.errors import InputError, PrdpError

M = TypeVar("M", bound=BaseModel)
_PACKAGE = Path(__file__).resolve().parents[1]


class ConfigError(InputError):
    """An invalid config; one message lists all errors in it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the most similar known word, or a list of all known words if none is similar."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(words)}"


def strings(name: str, given: Sequence[str], example: str) -> tuple[str, ...]:
    """The strings of an argument; anything else is an error, also a string itself, which type
    checkers accept as a sequence of strings.
    """
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or not all(isinstance(word, str) for word in given):
        raise ConfigError(f"{name} must be a list of strings, e.g. [{example!r}], not {given!r}")
    return tuple(given)


def problems(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One message per wrong key, as `key: what is wrong; what is allowed`.

    An exception that is a bug in a validator is raised again, because pydantic would report it as a
    wrong value.
    """
    found: dict[tuple[int | str, ...], str] = {}
    for one in error.errors():
        _raise_bug(one.get("ctx", {}).get("error"))
        path = _path(model, dict(one))
        # A value that fits no member of a union has one error per member; the first is enough.
        found.setdefault(path.keys, _message(path, dict(one)))
    # The deepest error belongs to the member of a union that fits the value best, so keep only it.
    return [
        f"{'.'.join(map(str, keys)) or 'config'}: {text}"
        for keys, text in found.items()
        if not any(other[: len(keys)] == keys and other != keys for other in found)
    ]


def validated(
    model: type[M], content: dict[str, Any], source: str, already: Sequence[str] = ()
) -> M:
    """Validate a nested dictionary with a model; report all errors, and those in `already`, in one
    `ConfigError`.
    """
    found = list(already)
    try:
        config = model.model_validate(content)
    except ValidationError as error:
        found += problems(model, error)
    if not found:
        return config
    lines = found[0] if len(found) == 1 else "\n  " + "\n  ".join(found)
    raise ConfigError(f"{source}: {lines}")


def _raise_bug(cause: object) -> None:
    if isinstance(cause, Exception) and not isinstance(cause, PrdpError) and _is_ours(cause):
        raise cause from None


def _is_ours(error: Exception) -> bool:
    """Whether a validator of this package raised the error, not one of a user's component, in which
    a ValueError means a wrong value, as usual in pydantic.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or Path(frames[-1].filename).is_relative_to(_PACKAGE)


def _path(model: type[BaseModel], error: dict[str, Any]) -> KeyPath:
    """The path of the wrong key. If the discriminator of a union is wrong, pydantic's location is
    that of the union, so the key is appended.
    """
    path = key_path(model, error["loc"])
    tagged = error["type"] in ("union_tag_invalid", "union_tag_not_found")
    return replace(path, keys=(*path.keys, _discriminator(error))) if tagged else path


def _message(path: KeyPath, error: dict[str, Any]) -> str:
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
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a section with keys, not {given!r}"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list, not {given!r}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = "" if kind == "value_error" or isinstance(given, dict) else f", not {given!r}"
    return f"{message[0].lower()}{message[1:]}{shown}"


def _discriminator(error: dict[str, Any]) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")


def _choices(path: KeyPath, error: dict[str, Any]) -> str:
    return ", ".join(map(repr, tags(path.annotation, _discriminator(error))))
