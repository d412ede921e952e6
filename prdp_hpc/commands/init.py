"""`prdp-hpc init`: a first config with comments, from options or from questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prdp_hpc.commands.starting import NETWORKS, POINTS, TASKS, Choices, starting_config
from prdp_hpc.config import validate
from prdp_hpc.config.commented import commented_yaml
from prdp_hpc.console import show
from prdp_hpc.errors import InputError

_HEAD = "# Written by `prdp-hpc init`; `prdp-hpc config --schema` gives editors the allowed keys."


def init(arguments: argparse.Namespace) -> None:
    """Write the config and print how to train with it. A file that exists is not replaced."""
    choices = Choices(
        arguments.task or TASKS[0],
        arguments.pde,
        arguments.dimension,
        arguments.points,
        arguments.network,
        arguments.data,
    )
    if sys.stdin.isatty() and not arguments.defaults:
        try:
            choices = _asked(choices, arguments.task is not None)
        except EOFError:  # Ctrl-D
            raise InputError(
                "no config was written, because the input ended before the last question: answer "
                "all questions, or give options and --defaults"
            ) from None
    name = arguments.name or f"{choices.chosen_pde}_{choices.task}"
    path = Path(arguments.out or f"{name}.yaml")
    content = starting_config(name, choices)
    if choices.data is not None:
        content = _with_file(content, Path(choices.data))
    config = validate(content, str(path), path.parent)
    _write(path, f"{_HEAD}\n{commented_yaml(content, config)}")
    show(
        f"config: {path}\n\nprdp-hpc run {path}        # train\n"
        f"prdp-hpc config {path}     # all keys with their defaults"
    )


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            f"{path}: this file exists and is not replaced: give another one with --out, or "
            "another --name"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}; choose another --out"
        ) from None


def _asked(choices: Choices, task_given: bool) -> Choices:
    """Ask for what no option gives; an empty answer chooses the default."""
    if not task_given:
        choices = replace(choices, task=_choice("task", TASKS, choices.task))
    if choices.steps_in_time and choices.pde is None:
        choices = replace(choices, pde=_choice("PDE", choices.pdes, choices.pdes[0]))
    if choices.steps_in_time and choices.data is None:
        answer = input("HDF5 file of trajectories [generate them]: ").strip()
        choices = replace(choices, data=answer or None)
    if choices.data is None:
        choices = _asked_for_grid(choices)
    if choices.trains_network and choices.network is None:
        network = _choice("network", NETWORKS, choices.default_network)
        choices = replace(choices, network=network)
    return choices


def _asked_for_grid(choices: Choices) -> Choices:
    if choices.dimension is None and len(choices.dimensions) > 1:
        known = [str(dimension) for dimension in choices.dimensions]
        choices = replace(choices, dimension=int(_choice("dimension", sorted(known), known[0])))
    if choices.points is None:
        default = POINTS[choices.chosen_dimension]
        while True:
            answer = input(f"points per axis [{default}]: ").strip() or str(default)
            if answer.isdigit() and int(answer) >= 2:
                return replace(choices, points=int(answer))
            show("an integer of at least 2 is needed")
    return choices


def _choice(what: str, known: Sequence[str], default: str) -> str:
    while True:
        answer = input(f"{what} ({', '.join(known)}) [{default}]: ").strip() or default
        if answer in known:
            return answer
        show(f"choose one of {', '.join(known)}")


def _with_file(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same with the grid and the coefficients that the attributes of a data file give."""
    attributes = _attributes(path)
    grid, physics = dict(content["grid"]), dict(content["physics"])
    if "grid_shape" in attributes:
        grid["shape"] = attributes["grid_shape"]
    if "boundary" in attributes:
        words = str(attributes["boundary"]).split(",")
        grid["boundary"] = words if len(words) > 1 else words[0]
    if "length" in attributes:
        grid["length"] = attributes["length"]
    physics |= {key: value for key, value in attributes.items() if key in physics and key != "pde"}
    return content | {"grid": grid, "physics": physics}


def _attributes(path: Path) -> dict[str, Any]:
    """The attributes of an HDF5 file as plain numbers, words and lists."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = dict(file.attrs.items())
    except OSError as error:
        raise InputError(
            f"--data {path}: cannot be read as HDF5: {error}; give a file of the layout in "
            "docs/howto/data.md"
        ) from None
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(one) for one in value] if isinstance(value, list) else value
