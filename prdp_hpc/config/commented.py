"""Configs as YAML with a comment per key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from prdp_hpc.config.yaml_files import to_yaml

WIDTH = 100


def commented_yaml(content: Mapping[str, Any], config: BaseModel) -> str:
    """The keys of `content` as YAML, each with its description in the models of `config`, the
    validated config of the same content.
    """
    return "\n".join(_lines(content, config, indent="")) + "\n"


def _lines(content: Mapping[str, Any], section: BaseModel, indent: str) -> Iterator[str]:
    for key, value in content.items():
        field = type(section).model_fields[key]
        comment = (field.description or "").strip()
        inner = getattr(section, key)
        if isinstance(inner, BaseModel) and isinstance(value, Mapping):
            yield from _with_comment(f"{indent}{key}:", comment, indent)
            yield from _lines(value, inner, indent + "  ")
        else:
            yield from _with_comment(f"{indent}{key}: {_flow(value)}", comment, indent)


def _with_comment(line: str, comment: str, indent: str) -> Iterator[str]:
    """The comment behind the line, or above it where both are too long."""
    if not comment:
        yield line
    elif len(line) + 4 + len(comment) <= WIDTH:
        yield f"{line}  # {comment}"
    else:
        yield f"{indent}# {comment}"
        yield line


def _flow(value: Any) -> str:
    text = to_yaml(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("...").strip()
