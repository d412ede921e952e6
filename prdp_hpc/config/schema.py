"""The JSON schema of configs, with which editors complete and check them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from prdp_hpc.config.components import fitting_names, resolve
from prdp_hpc.config.experiment import TASK, OwnTaskConfig
from prdp_hpc.config.slots import Slot

DIALECT = "http://json-schema.org/draft-07/schema#"
_DEFINITIONS = "#/definitions/"
_LIMITS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
}
_OwnName = Annotated[
    str, Field(pattern=":", description="Component in user code: module:Name or file.py:Name.")
]


def config_schema() -> dict[str, Any]:
    """The JSON schema (draft 7) of the configs of all tasks, with the built-in components, those
    of installed packages, and user-defined ones.
    """
    models = {word: with_components(_task_model(word)) for word in fitting_names(TASK.group)}
    own = with_components(OwnTaskConfig)
    adapters: list[Any] = [
        (name, "validation", TypeAdapter(model)) for name, model in [*models.items(), ("own", own)]
    ]
    _, schema = TypeAdapter.json_schemas(adapters, ref_template=_DEFINITIONS + "{model}")
    is_own = {"anyOf": [{"type": "object"}, {"type": "string", "pattern": ":"}]}
    # By the task, so that an editor reports the errors of that task alone.
    branches = [_branch({"const": name}, model) for name, model in models.items()]
    return {
        "$schema": DIALECT,
        "title": "prdp-hpc config",
        "type": "object",
        "required": ["task"],
        "properties": {"task": {"anyOf": [{"enum": list(models)}, is_own]}},
        "allOf": [*branches, _branch(is_own, own)],
        "definitions": _with_limits(schema["$defs"]),
    }


def _with_limits(schema: Any) -> Any:
    """Pydantic leaves limits of numbers in its own words where a validator runs before them."""
    if isinstance(schema, list):
        return [_with_limits(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    is_number = schema.get("type") in ("number", "integer")
    return {
        _LIMITS.get(key, key) if is_number else key: _with_limits(value)
        for key, value in schema.items()
    }


def _task_model(word: str) -> type[BaseModel]:
    component = resolve(TASK.group, word, Path())
    return component.target if component.built_in else OwnTaskConfig


def _branch(task: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {
        "if": {"properties": {"task": task}, "required": ["task"]},
        "then": {"$ref": _DEFINITIONS + model.__name__},
    }


def with_components(model: type[BaseModel]) -> type[BaseModel]:
    """A copy of a config's model in which each slot has the models of the components that fit."""
    slots: tuple[Slot, ...] = getattr(model, "slots", ())
    kinds = {slot.path[:-1] if slot.whole else slot.path: _choices(slot) for slot in slots}
    optional = {slot.path[:-1] for slot in slots if slot.whole and slot.default}
    return _with_types(model, kinds, model.__name__.removesuffix("Config"), optional)


def _with_types(
    model: type[BaseModel],
    kinds: Mapping[tuple[str, ...], Any],
    prefix: str,
    optional: Collection[tuple[str, ...]] = (),
) -> type[BaseModel]:
    """A copy of a model with other types at these paths, `optional` ones of them not required."""
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in kinds):
        field = model.model_fields[name]
        inside = {path[1:]: kind for path, kind in kinds.items() if path[0] == name}
        annotation: Any = field.annotation
        kind = inside[()] if () in inside else _with_types(annotation, inside, prefix)
        required = field.is_required() and (name,) not in optional
        default: Any = {} if required else {"default_factory": lambda: None}
        fields[name] = (kind, Field(description=field.description, **default))
    is_task = model.__name__.endswith("Config")
    name = model.__name__ if is_task else prefix + model.__name__
    return create_model(name, __base__=model, __doc__=model.__doc__, **fields)


def _choices(slot: Slot) -> Any:
    """The type of a slot: a section per component, and one for user-defined components."""
    words = fitting_names(slot.group, slot.has_steps)
    sections: list[Any] = [_section(slot, word) for word in words]
    own: dict[str, Any] = {_key(slot): (_OwnName, ...)}
    name = f"Own{slot.group.capitalize()}"
    sections.append(create_model(name, __config__=ConfigDict(extra="allow"), **own))
    if not slot.whole:
        sections += [Literal[tuple(words)], _OwnName]
    choice: Any = reduce(or_, sections)
    return tuple.__class_getitem__((choice, ...)) if slot.many else choice


def _key(slot: Slot) -> str:
    return slot.path[-1] if slot.whole else "kind"


@cache
def _section(slot: Slot, word: str) -> type[BaseModel]:
    """The model of a component's section, which names it by `word`."""
    model = resolve(slot.group, word, Path()).model
    default = word if slot.whole and word == slot.default else ...
    named: dict[str, Any] = {_key(slot): (Literal[word], default)}
    if model is not None:
        return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **named)
    name = f"{word.capitalize()}{slot.path[-1].capitalize()}"
    return create_model(name, __config__=ConfigDict(extra="allow"), **named)
