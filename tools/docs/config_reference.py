"""The page of all keys of a config, from the pydantic models that validate it."""

from __future__ import annotations

import types
import typing
from enum import Enum
from typing import Annotated, Any, Literal, Union

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prdp_hpc.config.components import BUILT_IN, load_object
from prdp_hpc.config.inverse_tasks import InverseConfig
from prdp_hpc.config.inversion import LBFGSSection
from prdp_hpc.config.models import Section

Model = type[BaseModel]

_COMMON = (
    "name", "seed", "output", "grid", "physics", "solver", "refinement", "comparison", "parallel",
    "tracking", "logging",
)  # fmt: skip
"""Keys that all tasks share."""

INTRODUCTION = """# Keys of a config

This page is generated from the models that validate a config.
How configs are written, changed and compared is described in
[Write a config](../howto/configuration.md).

A key is *required* unless a default is given.
`null` is YAML's word for no value.
A level that is an integer is a number of iterations; a level below 1 is a relative tolerance.

A config begins with its `task`, which determines the other sections:
"""


def page() -> str:
    """The whole page."""
    tasks = {name: load_object(where) for name, where in BUILT_IN["tasks"].items()}
    written: list[Model] = []
    lines = [INTRODUCTION]
    lines += [f"- [`{name}`](#task-{name}): {_first(model)}" for name, model in tasks.items()]
    lines += ["", _own(), ""]
    anchors: set[str] = set()
    lines += ["## All tasks", "", *_keys(InverseConfig, "", anchors, only=_COMMON)]
    for name, model in tasks.items():
        lines += [f"## Task `{name}` {{ #task-{name} }}", "", f"{_doc(model)} Besides the keys of "]
        lines += ["[all tasks](#all-tasks):", ""]
        lines += _keys(model, "", anchors, only=[k for k in model.model_fields if k not in _COMMON])
    sections: dict[str, list[Model]] = {}
    for model in tasks.values():
        for key, field in model.model_fields.items():
            for section in _models(field.annotation):
                sections.setdefault(key, [])
                if section not in sections[key]:
                    sections[key].append(section)
    sections["physics"] = [load_object(where) for where in BUILT_IN["physics"].values()]
    sections["network"] = [load_object(where) for where in BUILT_IN["networks"].values()]
    sections["training"].append(LBFGSSection)
    sections["tracking"] = [load_object(where) for where in BUILT_IN["trackers"].values()]
    for key, models in sections.items():
        anchor = _anchor(models[0]) if len(models) == 1 else key
        lines += [f"## Section `{key}` {{ #{anchor} }}", ""]
        for model in models:
            lines += _section(model, key, written, anchors, len(models))
    return "\n".join(lines)


def _own() -> str:
    return (
        "Wherever a config names a built-in kind it may name a class of your own, "
        "see [Your own components](../howto/own_components.md)."
    )


def _section(
    model: Model, key: str, written: list[Model], anchors: set[str], among: int
) -> list[str]:
    """The keys of a section, and of the sections in it."""
    if model in written:
        return []
    written.append(model)
    lines = []
    if among > 1 or "." in key:
        lines += [f"### {_title(model, key)} {{ #{_anchor(model)} }}", ""]
    lines += [_doc(model), "", *_keys(model, key, anchors)]
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            lines += _section(inner, f"{key}.{name}", written, anchors, 2)
    return lines


def _title(model: Model, key: str) -> str:
    kind = _kind(model)
    if kind is not None:
        return f"`{key}` with {kind}"
    return f"`{key}`" if "." in key else f"`{key}`: {_first(model).rstrip('.')}"


def _kind(model: Model) -> str | None:
    """The key and the value by which a section is chosen among others, e.g. `kind: iterations`."""
    for name in ("pde", "kind"):
        field = model.model_fields.get(name)
        if field is not None:
            chosen = typing.get_args(field.annotation) or (field.default,)
            if len(chosen) == 1 and isinstance(chosen[0], str):
                return f"`{name}: {chosen[0]}`"
    return None


def _anchor(model: Model) -> str:
    return model.__name__.strip("_").lower()


def _doc(model: Model) -> str:
    return " ".join((model.__doc__ or "").split())


def _first(model: Model) -> str:
    return _doc(model).split(". ")[0]


def _keys(
    model: Model, prefix: str, anchors: set[str], only: typing.Collection[str] = ()
) -> list[str]:
    """Each key with its type, default and description. The first model that has a key gets the
    key's own anchor, e.g. `#grid.shape`.
    """
    lines = []
    for name in only or model.model_fields:
        field = model.model_fields[name]
        key = f"{prefix}.{name}" if prefix else name
        default = "*required*" if field.is_required() else f"default {_default(field)}"
        anchor = key if "." in key and key not in anchors else f"{_anchor(model)}-{name}"
        anchors.add(anchor)
        lines += [f"`{key}`{{ #{anchor} }}: {_type(field)}; {default}"]
        lines += [f":   {' '.join((field.description or '').split())}", ""]
    return lines


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "as below"
    text = yaml.safe_dump(_plain(value), default_flow_style=True).strip().removesuffix("\n...")
    return f"`{text}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _type(field: FieldInfo) -> str:
    bounds = _bounds(field.metadata)
    name = _named(field.annotation)
    return f"{name} {bounds}" if bounds and bounds not in name else name


def _named(annotation: Any) -> str:
    """The description of a type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = _bounds(_metadata(arguments[1:]))
        name = _named(arguments[0])
        return f"{name} {bounds}" if bounds else name
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(part) for part in arguments))
    if origin is tuple:
        return f"list of {_named(arguments[0])}"
    if origin is dict:
        return f"mapping of {_named(arguments[0])} to {_named(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"[{_kind(annotation) or 'section'}](#{_anchor(annotation)})"
    return _WORDS.get(annotation, "section" if annotation is Any else str(annotation))


_WORDS = {
    str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null",
}  # fmt: skip


def _metadata(found: tuple[Any, ...]) -> list[Any]:
    """The bounds among the metadata of an annotated type."""
    flat: list[Any] = []
    for item in found:
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    return flat


def _bounds(metadata: typing.Iterable[Any]) -> str:
    signs = ((annotated_types.Gt, "gt", ">"), (annotated_types.Ge, "ge", "≥"),
             (annotated_types.Lt, "lt", "<"), (annotated_types.Le, "le", "≤"))  # fmt: skip
    found = [
        f"{sign} {getattr(item, name):g}"
        for item in metadata
        for kind, name, sign in signs
        if isinstance(item, kind)
    ]
    return " and ".join(found)


def _models(annotation: Any) -> list[Model]:
    """The sections that a key's value may be."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]
