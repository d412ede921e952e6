"""The files of configs: shipped ones by name, reading YAML, and changes by `section.key=value`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from prdp_hpc.config.errors import ConfigError, nearest


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, which PyYAML would silently overwrite, and reads `1e-3` as a number,
    as YAML 1.2 does.
    """


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as a number."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(  # type: ignore[no-untyped-call]
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str | int | float):
            raise ConfigError(
                f"{key!r}: a key must be a word (line {key_node.start_mark.line + 1})"
            )
        if key in seen:
            raise ConfigError(f"{key}: given twice (line {key_node.start_mark.line + 1}); keep one")
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, example: str = "task: emulator", empty: bool = False) -> dict[str, Any]:
    """Read the sections of a YAML file; raise `ConfigError` if it cannot be read, is not valid YAML
    or contains a key twice.

    `example` is shown if it has no keys; `empty`: whether it may have no content.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; give the YAML file of a config")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        there = sorted(other.name for other in path.parent.glob("*.y*ml"))
        raise ConfigError(
            f"{path}: no such config file" + (f"; {nearest(path.name, there)}" if there else "")
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; give another file, or the right to read it"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file; give the YAML file of a config") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None and empty:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: must contain keys and sections, e.g. {example!r}, not {_kind(content)}"
        )
    return content


def to_yaml(content: Any, **style: Any) -> str:
    """The content as YAML, which `read_yaml` reads back; keys in their order."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, **style))


def apply_override(content: dict[str, Any], override: str) -> None:
    """Change one key of a config, given as `section.key=value`; the value is YAML."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(re.fullmatch(r"\w+", key) for key in keys):
        raise ConfigError(
            f"{override!r} is not of the form section.key=value, e.g. training.epochs=10"
        )
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{dotted}: the value {text!r} is not valid YAML: {' '.join(str(error).split())}"
        ) from None
    section = content
    for depth, key in enumerate(keys[:-1]):
        if section.get(key) is None:
            section[key] = {}
        inner = section[key]
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {'.'.join(keys[: depth + 1])} is a value, not a section")
        section = inner
    section[keys[-1]] = value


def _kind(content: Any) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"


SHIPPED = Path(__file__).resolve().parents[1] / "configs"
"""The folder of the shipped configs."""


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
