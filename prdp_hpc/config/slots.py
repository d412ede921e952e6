"""Slots: the keys of a config that name a component, and the models that validate its keys.

The model of a config does not contain the keys of user-defined components. Therefore the names are
looked up first, and the config is validated by a copy of its model in which each such section has
the model of its component. Wrong keys then have the same messages for built-in and user-defined
components.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from prdp_hpc.config.components import (
    OWN,
    Component,
    Found,
    Named,
    component_of,
    fitting_names,
    own_keys,
    resolve,
    resolve_all,
    section_model,
)

Changes = dict[tuple[str, ...], Any]


@dataclass(frozen=True)
class Slot:
    """One key that names a component.

    Attributes
    ----------
    path : the keys to the name, e.g. ("physics", "pde").
    group : one of `prdp_hpc.config.components.BUILT_IN`.
    default : the default name; None if a name is required.
    whole : whether all other keys of the section belong to the component. Otherwise its keys are
        given in a mapping instead of the name: `{kind: NAME, key: value}`.
    many : whether the value is a list of names, or of mappings as above, by default of one name.
    has_steps : for built-in PDEs, whether only those with time steps are accepted (True) or only
        those without (False); None: all.
    """

    path: tuple[str, ...]
    group: str
    default: str | None = None
    whole: bool = False
    many: bool = False
    has_steps: bool | None = None

    @property
    def dotted(self) -> str:
        """The keys joined by dots, as in `section.key=value`."""
        return ".".join(self.path)


@dataclass
class Filled:
    """The content of a config and its components.

    Attributes
    ----------
    model : the model that validates the content.
    content : the content, with absolute paths in the names.
    components : the components by dotted key.
    problems : errors in names, as `key: what is wrong`.
    """

    model: Any
    content: dict[str, Any]
    components: dict[str, Component] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Imports:
    """Which user-defined components may be imported, and which ones are needed.

    Attributes
    ----------
    own : the names that may be imported; None: all names in the config.
    needed : dotted keys of slots. A component of another slot is left out if it must not be
        imported. None: all slots.
    """

    own: tuple[str, ...] | None = None
    needed: tuple[str, ...] | None = None

    def permitted(self, name: str) -> str | None:
        """The caller's name for the same component; None if it must not be imported."""
        if self.own is None or ":" not in name:
            return name
        found = next((given for given in self.own if _short(given) == _short(name)), None)
        return None if found is None else _from_here(found)

    def needs(self, slot: Slot) -> bool:
        """Whether the slot's component is needed."""
        return self.needed is None or slot.dotted in self.needed


ALL = Imports()


def fill(
    model: type[BaseModel],
    slots: Iterable[Slot],
    content: Mapping[str, Any],
    folder: Path,
    imports: Imports = ALL,
) -> Filled:
    """Look up the components of `content`; relative files start at `folder`."""
    filled = Filled(model, deepcopy(dict(content)))
    changes: Changes = {}
    given = [one for slot in slots for one in _given(slot, filled, changes, imports)]
    found = resolve_all([one.named for one in given], folder)
    for one, own in zip(given, found, strict=True):
        if own.component is None:
            filled.problems.append(f"{one.where}: {own.problem}")
        else:
            filled.components[one.where] = own.component
    for slot in dict.fromkeys(one.slot for one in given):
        pairs = [pair for pair in zip(given, found, strict=True) if pair[0].slot is slot]
        put = _put_list if slot.many else _put
        put(slot, pairs, filled.content, changes)
    filled.model = _changed(model, tuple(sorted(changes.items())))
    return filled


@dataclass(frozen=True, eq=False)
class _Given:
    """A name that a config gives.

    Attributes
    ----------
    slot : its slot.
    where : its dotted key.
    named : the name, as it is looked up.
    place : the mapping that holds it, or the value of a list's entry.
    """

    slot: Slot
    where: str
    named: Named
    place: Any


def _given(slot: Slot, filled: Filled, changes: Changes, imports: Imports) -> Iterator[_Given]:
    """The names of one slot that are to be looked up."""
    names = _in_list if slot.many else _in_section
    for where, place, key, name in names(slot, filled, changes):
        permitted = imports.permitted(name)
        if permitted is not None:
            yield _Given(slot, where, Named(slot.group, permitted, slot.has_steps, key), place)
            continue
        if imports.needs(slot):
            filled.problems.append(f"{where}: {_refusal(name)}")
        if not slot.many:
            _leave_out(slot, filled.content, changes)


def _in_section(
    slot: Slot, filled: Filled, changes: Changes
) -> Iterator[tuple[str, Any, str | None, str]]:
    """The name in a section: its dotted key, its mapping, the key of a section, and the name."""
    for place, key in _named(slot, filled.content):
        if isinstance(place[key], str):
            is_section = slot.whole or key != slot.path[-1]
            yield slot.dotted, place, key if is_section else None, place[key]
            continue
        filled.problems.append(_unnamed(slot, place[key]))
        if slot.whole:
            changes[slot.path[:-1]] = Any
        else:
            _leave_out(slot, filled.content, changes)


def _in_list(
    slot: Slot, filled: Filled, changes: Changes
) -> Iterator[tuple[str, Any, str | None, str]]:
    """The same for each entry of a list."""
    (key,) = slot.path
    values = filled.content.setdefault(key, [] if slot.default is None else [slot.default])
    if not isinstance(values, list):
        return
    # Only entries whose component is imported are kept.
    filled.content[key], changes[slot.path] = [], tuple[()]
    for number, value in enumerate(values):
        has_keys = isinstance(value, dict) and "kind" in value
        named = value["kind"] if has_keys else value
        where = f"{key}.{number}"
        if isinstance(named, str):
            yield where, value, "kind" if has_keys else None, named
            continue
        words = ", ".join(map(repr, fitting_names(slot.group)))
        place = f"{where}.kind" if has_keys else where
        filled.problems.append(f"{place}: must name one of {words}, or {OWN}")


def _put(
    slot: Slot, pairs: Sequence[tuple[_Given, Found]], content: dict[str, Any], changes: Changes
) -> None:
    """Put the component of a slot into the content, and the model of its keys into the changes."""
    for one, own in pairs:
        if own.component is None:
            _leave_out(slot, content, changes)
            continue
        one.place[one.named.key or slot.path[-1]] = own.component.name
        if own.section is not None:
            changes[slot.path[:-1] if slot.whole else slot.path] = own.section


def _put_list(
    slot: Slot, pairs: Sequence[tuple[_Given, Found]], content: dict[str, Any], changes: Changes
) -> None:
    """The same for the components of a list."""
    kinds: list[Any] = []
    for one, own in pairs:
        if own.component is None:
            continue
        name = own.component.name
        content[slot.path[0]].append(one.place | {"kind": name} if own.section else name)
        kinds.append(own.section or str)
    changes[slot.path] = tuple[tuple(kinds)]  # type: ignore[misc]


def made(group: str, value: Any) -> tuple[Any, dict[str, Any]]:
    """The class that a validated value of a slot names, and the keys for its constructor."""
    if isinstance(value, str):
        component = resolve(group, value, Path())
        if component.model is None:
            return component.load(), {}
        value = section_model(component, "kind")()
    return component_of(value), own_keys(value)


def _named(slot: Slot, content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The mapping and the key of a slot's name, if it has one. Values of other types are left to
    the models, which reject them, except in sections whose model depends on the name.
    """
    place: Any = content
    for key in slot.path[:-1]:
        if slot.default is not None:
            place.setdefault(key, {})
        place = place.get(key)
        if not isinstance(place, dict):
            if slot.whole and place is not None:
                yield {key: place}, key
            return
    key = slot.path[-1]
    if slot.default is not None:
        place.setdefault(key, slot.default)
    has_keys = isinstance(place.get(key), dict) and not slot.whole
    if has_keys:
        place, key = place[key], "kind"
    if slot.whole or has_keys:
        place.setdefault(key, None)
    if slot.whole or has_keys or isinstance(place.get(key), str):
        yield place, key


def _unnamed(slot: Slot, value: Any) -> str:
    """The message for a section without the name of its component."""
    words = ", ".join(map(repr, fitting_names(slot.group, slot.has_steps)))
    if not slot.whole:
        where = f"{slot.dotted}: the key kind" if value is None else f"{slot.dotted}.kind: it"
        return f"{where} must name one of {words}, or {OWN}"
    section, key = slot.path
    if value is None or isinstance(value, dict):
        return f"{slot.dotted}: must be given, one of {words}, or {OWN}"
    return f"{section}: must be a section with the key {key}, not {value!r}"


def _leave_out(slot: Slot, content: dict[str, Any], changes: Changes) -> None:
    """Replace a component that is not imported by the slot's default, or accept any keys."""
    if slot.default is None:
        changes[slot.path[:-1] if slot.whole else slot.path] = Any
    elif slot.whole:
        content[slot.path[0]] = {slot.path[1]: slot.default}
    else:
        content[slot.path[0]][slot.path[1]] = slot.default


def _refusal(name: str) -> str:
    return (
        f"{name!r} is user code, which is not imported automatically for a run folder: permit it "
        f"with --component {name} or components=[{name!r}]"
    )


def _from_here(name: str) -> str:
    """The name with an absolute path of its file, which is relative to the working directory."""
    where, _, attribute = name.rpartition(":")
    return f"{Path(where).resolve()}:{attribute}" if where.endswith(".py") else name


def _short(name: str) -> str:
    where, _, attribute = name.rpartition(":")
    return f"{Path(where).name}:{attribute}"


@lru_cache(maxsize=256)
def _changed(model: type[BaseModel], changes: tuple[tuple[tuple[str, ...], Any], ...]) -> Any:
    """A copy of a model in which the fields at these paths have the given types."""
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path, _ in changes):
        inside = tuple((path[1:], kind) for path, kind in changes if path[0] == name)
        if name not in model.model_fields:
            continue
        whole = next((kind for path, kind in inside if not path), None)
        inner: Any = model.model_fields[name].annotation
        fields[name] = (_changed(inner, inside) if whole is None else whole, ...)
    if not fields:
        return model
    return create_model(
        model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
    )
