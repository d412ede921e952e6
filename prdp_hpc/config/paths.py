"""Map the location in a pydantic error to the key in the YAML file.

A location contains more than keys: the member of a union that pydantic tried (a tag such as `unet`,
or a type such as `int`), and `[key]` if the key of a dictionary is wrong. Each of these words may
also be a key, so only the annotations of the models determine which parts are keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Location = tuple[int | str, ...]


@dataclass(frozen=True)
class KeyPath:
    """The keys of a value in the YAML, the keys that are allowed beside it, and its type."""

    keys: Location
    siblings: tuple[str, ...] = ()
    annotation: Any = None

    @property
    def dotted(self) -> str:
        """The keys joined by dots, as in `section.key=value`."""
        return ".".join(map(str, self.keys))

    def below(self, key: int | str) -> KeyPath:
        """The same path below `key`."""
        return replace(self, keys=(key, *self.keys))


def key_path(model: type[BaseModel], location: Location) -> KeyPath:
    """The keys to which a pydantic error of `model` refers."""
    return next(_readings(model, location, ()), KeyPath(location))


def tags(annotation: Any, discriminator: str) -> tuple[Any, ...]:
    """The values of the key `discriminator` in the models of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(discriminator)
        value = None if field is None else field.annotation
        return get_args(value) if get_origin(value) is Literal else ()
    return tuple(tag for inner in get_args(annotation) for tag in tags(inner, discriminator))


def _readings(annotation: Any, location: Location, siblings: tuple[str, ...]) -> Iterator[KeyPath]:
    """All interpretations of a location within a type, the most probable one first."""
    if get_origin(annotation) is Annotated:
        yield from _readings(get_args(annotation)[0], location, siblings)
    elif not location:
        yield KeyPath((), siblings, annotation)
    elif get_origin(annotation) in (Union, UnionType):
        yield from _through_union(get_args(annotation), location, siblings)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _through_model(annotation, location)
    elif get_origin(annotation) is dict:
        rest = () if location[1:] == ("[key]",) else location[1:]
        inner = _readings(get_args(annotation)[1], rest, siblings)
        yield from (reading.below(location[0]) for reading in inner)
    elif get_origin(annotation) in (tuple, list) and isinstance(location[0], int):
        inner = _readings(_member(get_args(annotation), location[0]), location[1:], siblings)
        yield from (reading.below(location[0]) for reading in inner)


def _member(members: tuple[Any, ...], number: int) -> Any:
    """The type of one entry of a list or tuple, which may have one type per entry."""
    one_type = len(members) == 1 or Ellipsis in members
    return members[0 if one_type else number]


def _through_union(
    members: tuple[Any, ...], location: Location, siblings: tuple[str, ...]
) -> Iterator[KeyPath]:
    """Interpretations in a union. The location starts with the member that pydantic tried, unless
    the union has only one besides None.
    """
    members = tuple(member for member in members if member is not NoneType)
    if len(members) == 1:
        yield from _readings(members[0], location, siblings)
        return
    for member in sorted(members, key=lambda member: not _is_named(member, location[0])):
        yield from _readings(member, location[1:], siblings)


def _through_model(model: type[BaseModel], location: Location) -> Iterator[KeyPath]:
    key, rest, siblings = location[0], location[1:], tuple(model.model_fields)
    field = model.model_fields.get(str(key))
    if field is not None:
        inner = _readings(field.annotation, rest, siblings)
        yield from (reading.below(key) for reading in inner)
    elif not rest:
        yield KeyPath((key,), siblings)


def _is_named(member: Any, word: int | str) -> bool:
    """Whether a part of a location names this member of a union: one of its tags, or its class."""
    while get_origin(member) is Annotated:
        member = get_args(member)[0]
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return False
    return word == member.__name__ or any(word in tags(member, key) for key in member.model_fields)
