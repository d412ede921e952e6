"""A first config for a data file, from its sizes, coordinates and attributes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prdp_hpc.config import SupervisedConfig, validate
from prdp_hpc.config.components import Component, fitting_names, resolve
from prdp_hpc.config.yaml_files import to_yaml
from prdp_hpc.data.formats.files import DataFiles, listed
from prdp_hpc.errors import InputError

UNKNOWN = 1.0
TIME_STEP = 0.1
"""A time step that all PDEs allow, for files without one."""


class Suggestion:
    """A config that fits a data set.

    Attributes
    ----------
    content : the sections of the config; `given` has sections of the user, which are not noted as
        unknown.
    notes : what the file does not determine.
    known : whether the file names the PDE.
    """

    def __init__(
        self,
        path: DataFiles,
        form: str,
        data: Any,
        keys: dict[str, Any],
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.notes: list[str] = []
        about: dict[str, Any] = dict(getattr(data, "attributes", {}))
        about |= dict((given or {}).get("physics", {}))
        if getattr(data, "assumed", ""):
            self.notes.append(data.assumed)
        self.known = _is_known(about)
        physics = self.physics_of(about, self.notes)
        self.content: dict[str, Any] = {
            "task": "emulator",
            "name": _name(listed(path)[0]),
            "grid": self._grid(data, about),
            "physics": physics,
            "data": {"file": _names(path), **_format(form, keys)},
        }
        sections = {name: one for name, one in (given or {}).items() if isinstance(one, Mapping)}
        known = {f"{name}.{key}" for name, one in sections.items() for key in one}
        self.notes = [note for note in self.notes if note.partition(":")[0] not in known]

    def add_keys(self, **keys: Any) -> None:
        """Add keys of the format, e.g. channels; a list extends the one that was given."""
        section = self.content["data"]
        given = section.get("format")
        own = dict(given) if isinstance(given, dict) else {"kind": given}
        for key, value in keys.items():
            section["format"] = own
            own[key] = [*own.get(key, ()), *value] if key.startswith("exclude") else value

    def validated(self) -> SupervisedConfig:
        """The config."""
        config = validate(self.content, "the suggested config")
        if not isinstance(config, SupervisedConfig):
            raise InputError("the suggested config: task must train a network")
        return config

    def to_yaml(self) -> str:
        """The sections as YAML, with the notes as comments."""
        text = to_yaml(self.content, default_flow_style=None, width=88)
        return "".join(f"# {note}\n" for note in self.notes) + text

    def _grid(self, data: Any, about: dict[str, Any]) -> dict[str, Any]:
        shape = [int(n) for n in data.shape]
        words = getattr(data, "boundary", None) or str(about.get("boundary", "")).split(",")
        known = [word for word in words if word]
        if not known:
            self.notes.append("grid.boundary: the file does not contain it")
            known = ["periodic"]
        boundary = [_boundary(word) for word in (known * len(shape))[: max(len(known), len(shape))]]
        lengths = self._lengths(data, about, shape, boundary)
        return {"shape": shape, "boundary": _one(boundary), "length": _one(lengths)}

    def _lengths(
        self, data: Any, about: dict[str, Any], shape: list[int], boundary: list[str]
    ) -> list[float]:
        spacing = getattr(data, "spacing", None)
        if spacing is not None:
            sides = [1 if kind == "dirichlet" else 0 for kind in boundary]
            return [
                float(f"{h * (n + side):.7g}")
                for h, n, side in zip(spacing, shape, sides, strict=True)
            ]
        if "length" not in about:
            self.notes.append("grid.length: the file has no coordinates")
            return [1.0] * len(shape)
        given = about["length"]
        values = given.tolist() if hasattr(given, "tolist") else given
        listed = values if isinstance(values, list | tuple) else [values] * len(shape)
        return [float(one) for one in listed]

    @staticmethod
    def physics_of(about: dict[str, Any], notes: list[str]) -> dict[str, Any]:
        """The PDE that the attributes name, or the first one; adds what they do not contain to
        `notes`.
        """
        known = _is_known(about)
        name = str(about["pde"]) if known else fitting_names("physics", True)[0]
        if not known:
            found = f" ({about['pde']})" if about.get("pde") else ""
            notes.append(f"physics: no PDE is known for this file{found}: give yours")
        component: Component = resolve("physics", name, Path(), True)
        fields: Any = getattr(component.model, "model_fields", {})
        section: dict[str, Any] = {"pde": name}
        for key, field in fields.items():
            if key == "pde" or (not field.is_required() and key not in about):
                continue
            value = _number(about.get(key))
            if value is not None:
                section[key] = value
            elif field.is_required():
                section[key] = TIME_STEP if key == "dt" else UNKNOWN
                notes.append(f"physics.{key}: the file does not contain it")
        return section


def _is_known(about: dict[str, Any]) -> bool:
    return str(about.get("pde")) in fitting_names("physics", True)


def placeholder() -> dict[str, Any]:
    """A section `physics` that is valid on any grid."""
    return Suggestion.physics_of({}, [])


def _format(form: str, keys: dict[str, Any]) -> dict[str, Any]:
    if form == "hdf5":
        return {}
    given = {key: value for key, value in keys.items() if value is not None}
    return {"format": {"kind": form, **given}} if given else {"format": form}


def _names(path: DataFiles) -> str | list[str]:
    """The value of `data.file`."""
    names = [str(one) for one in listed(path)]
    return names if len(names) > 1 else names[0]


def _name(path: Path) -> str:
    found = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._-")
    return found or "data"


def _boundary(word: str) -> str:
    """The boundary of the grid for a word in a file. Points next to walls and open sides are cell
    centres, for which `physics.boundaries` gives the conditions.
    """
    return word if word in ("periodic", "dirichlet", "neumann") else "neumann"


def _one(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        return None
