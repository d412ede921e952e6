"""What `prdp-hpc inspect` finds in a data file: contents, numbers, a config and its residual."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.config import ConfigError, SupervisedConfig
from prdp_hpc.config.experiment import validate
from prdp_hpc.config.slots import made
from prdp_hpc.config.yaml_files import apply_override, read_yaml
from prdp_hpc.data import GROUPS, DataError, check_numbers, check_spacing
from prdp_hpc.data.formats.contents import Row, contents
from prdp_hpc.data.formats.detect import first_file, format_of
from prdp_hpc.data.formats.files import DataFiles, listed, named
from prdp_hpc.data.hdf5_axes import guessed_grid
from prdp_hpc.data.layout import TEST, BadTrajectoryError
from prdp_hpc.data.opening import open_dataset
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.inspected_places import Place, few, places
from prdp_hpc.experiments.inspection import physics_residual, states_reader
from prdp_hpc.experiments.physics_residual import PhysicsResidual
from prdp_hpc.experiments.suggestion import Suggestion, placeholder
from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.stepper import attributes, made_stepper

MOST_SEGMENTS = 10
"""Number of parts into which a single trajectory is divided, if it is long enough."""
FEWEST_STATES = 3
"""Number of states that a trajectory of an emulator needs."""


@dataclass
class Numbers:
    """Smallest and largest number and sums of a channel over the inspected states."""

    smallest: float = np.inf
    largest: float = -np.inf
    sum: float = 0.0
    count: int = 0

    def add(self, values: Any) -> None:
        """Include numbers."""
        if values.size:
            self.smallest = min(self.smallest, float(values.min()))
            self.largest = max(self.largest, float(values.max()))
            self.sum += float(values.sum(dtype=np.float64))
            self.count += values.size


@dataclass
class Inspection:
    """What a data file contains.

    Attributes
    ----------
    file : the first file.
    more : number of further names of files that were given.
    format : name of the format.
    rows, attributes : arrays and attributes of the first file.
    data : the data set.
    suggestion : a config that fits; None if one was given.
    config : the config with which the data are compared.
    numbers : smallest, largest and mean number by channel.
    bad : messages about trajectories with NaN or infinity.
    mismatches : numbers of the file that are not those of the config.
    residual : the physics residual; None if it was not computed.
    reason : why it was not computed.
    missing : why a run cannot use the data, which have only one of the groups it needs; empty if it
        can.
    """

    file: Path
    format: str
    rows: list[Row]
    attributes: dict[str, Any]
    data: Any
    config: SupervisedConfig
    suggestion: Suggestion | None = None
    numbers: list[Numbers] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    residual: PhysicsResidual | None = None
    reason: str = ""
    missing: str = ""
    more: int = 0


def inspect_data(
    path: DataFiles,
    comm: MPI.Comm,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    form: str | None = None,
    samples: int = 3,
) -> Inspection:
    """Inspect a data file; collective. At most two states at a time are in memory.

    Parameters
    ----------
    path : str, Path or sequence of them
        The data, as for `data.file`.
    comm : mpi4py.MPI.Comm
        The ranks, which share the grid.
    config : str or Path, optional
        A config whose grid and PDE are compared with the data. Default: a suggested one.
    overrides : sequence of str, default ()
        Changes of the config, `section.key=value`.
    form : str, optional
        Name of the format. Default: that of the config, or the one that fits the file.
    samples : int, default 3
        Number of trajectories that are read; 0: all.

    Returns
    -------
    Inspection
        What was found.

    Raises
    ------
    InputError
        If the file cannot be read, or if the config is invalid or has another grid.
    """
    opened = call_together(comm, lambda: _opened(path, config, overrides, form))
    section = opened.config.grid
    grid = Grid(section.shape, section.boundary, comm, section.length)
    if opened.suggestion is not None and opened.suggestion.known:
        names = tuple(made_stepper(opened.config.physics, grid).channels)
        opened = call_together(comm, lambda: _with_channels(opened, names, path))
    if opened.suggestion is not None:
        opened = call_together(comm, lambda: _with_segments(opened, path))
    good, bad = _statistics(opened, comm, grid, places(opened.data, samples))
    if opened.suggestion is not None:
        _leave_out(opened, bad)
    _compare(opened, grid, path)
    _add_residual(opened, comm, few(good))
    return opened


def _add_residual(found: Inspection, comm: MPI.Comm, where: Sequence[Place]) -> None:
    if found.suggestion is not None and not found.suggestion.known:
        found.reason = "the PDE is not known: give --config CONFIG"
    elif not where:
        found.reason = "all trajectories that were read are bad"
    else:
        try:
            found.residual = physics_residual(found.config, found.data, comm, where)
        except InputError as error:  # on all ranks
            if found.suggestion is None:
                raise
            found.reason = str(error)


def _opened(
    path: DataFiles, config: str | Path | None, overrides: Sequence[str], form: str | None
) -> Inspection:
    content = {} if config is None else read_yaml(Path(config))
    for override in overrides:
        apply_override(content, override)
    data_section = content.setdefault("data", {})
    names = [str(one) for one in listed(path)]
    data_section["file"] = names if len(names) > 1 else names[0]
    given = data_section.get("format")
    keys = {} if not isinstance(given, dict) else {k: v for k, v in given.items() if k != "kind"}
    named = given.get("kind") if isinstance(given, dict) else given
    name = form or (named if named not in (None, "hdf5") else None) or format_of(path)
    data_section["format"] = {"kind": name, **keys} if keys else name
    if config is None:
        return _without_config(path, name, keys, content, overrides)
    checked = validate(content, str(config), Path(config).parent)
    if not isinstance(checked, SupervisedConfig):
        raise ConfigError(f"{config}: task: an inverse problem is not trained on trajectories")
    data, missing = _data_set(path, checked.data.format, tuple(checked.grid.shape))
    return _described(path, name, data, checked, missing)


def _without_config(
    path: DataFiles,
    name: str,
    keys: dict[str, Any],
    content: dict[str, Any],
    overrides: Sequence[str],
) -> Inspection:
    # The grid and the PDE are not known yet; this config only validates the keys of the format.
    first = {"task": "emulator", "name": "a", "grid": {"shape": [2]}}
    first |= {"physics": placeholder(), "data": content["data"]}
    checked = validate(first, str(named(path)))
    assert isinstance(checked, SupervisedConfig)
    changes: dict[str, Any] = {}
    for override in overrides:
        apply_override(changes, override)
    given = changes.get("grid", {}).get("shape")
    data, missing = _data_set(path, checked.data.format, None if given is None else tuple(given))
    if not hasattr(data, "shape"):
        raise InputError(
            f"{named(path)}: the data set of the format {name} has no attribute shape with the "
            "points of its grid: give --config CONFIG"
        )
    suggestion = Suggestion(path, name, data, keys, changes)
    note = _guessed(path)[1] if name == "hdf5" and given is None else ""
    if note:
        suggestion.notes.append(note)
    for override in overrides:
        apply_override(suggestion.content, override)
    found = _described(path, name, data, suggestion.validated(), missing)
    found.suggestion = suggestion
    return found


def _with_channels(found: Inspection, names: tuple[str, ...], path: DataFiles) -> Inspection:
    """The same with the channels of the PDE, if the file has them all and others."""
    there = getattr(found.data, "all_channels", ())
    if names == getattr(found.data, "channels", names) or not set(names) <= set(there):
        return found
    assert found.suggestion is not None
    found.suggestion.add_keys(channels=list(names))
    return _opened_again(found, path)


def _opened_again(found: Inspection, path: DataFiles) -> Inspection:
    """The same with the keys of the suggested config."""
    assert found.suggestion is not None
    config = found.suggestion.validated()
    data, missing = _data_set(path, config.data.format, tuple(config.grid.shape))
    return replace(found, data=data, config=config, missing=missing)


def _with_segments(found: Inspection, path: DataFiles) -> Inspection:
    """The same with a single trajectory in parts, so that some of it can be validated."""
    data = found.data
    counts = [data.count(group) for group in getattr(data, "groups", GROUPS)]
    one = sum(counts) == 1 and found.format != "hdf5" and hasattr(data, "all_channels")
    segments = min(MOST_SEGMENTS, (data.steps + 1) // FEWEST_STATES)
    if not one or segments < 2 or found.suggestion is None:
        return found
    found.suggestion.add_keys(segments=segments)
    found.suggestion.notes.append(
        f"data.format.segments: the file has one trajectory, so it is divided into {segments} parts"
    )
    return _opened_again(found, path)


def _leave_out(found: Inspection, bad: Sequence[BadTrajectoryError]) -> None:
    """Leave the bad trajectories out of the suggested config, and name what prevents a run."""
    assert found.suggestion is not None
    excluded: dict[str, list[int]] = {}
    for one in bad:
        if one.key:
            excluded.setdefault(one.key.rpartition(".")[2], []).append(one.number)
    found.suggestion.add_keys(**{key: sorted(set(many)) for key, many in excluded.items()})
    found.config = found.suggestion.validated()
    data = found.data
    prevents = [found.missing, *(str(one) for one in bad if not one.key)]
    found.suggestion.notes += [f"data.file: {one}" for one in prevents if one][:1]
    if data.steps + 1 < FEWEST_STATES:
        found.suggestion.notes.append(
            f"task: the trajectories have {data.steps + 1} states, but an emulator needs "
            f"{FEWEST_STATES}"
        )


def _described(
    path: DataFiles, name: str, data: Any, config: SupervisedConfig, missing: str
) -> Inspection:
    file: Path = listed(path)[0]
    rows: list[Row] = []
    about: dict[str, Any] = {}
    with contextlib.suppress(DataError):  # files of a user-defined format
        file = first_file(path)
        rows, about = contents(file, name)
    more = len(listed(path)) - 1
    return Inspection(file, name, rows, about, data, config, missing=missing, more=more)


def _data_set(path: DataFiles, form: Any, shape: tuple[int, ...] | None) -> tuple[Any, str]:
    """The data set, with as many groups as it has, and why not with those that a run needs."""
    kind, keys = made("formats", form)
    if not hasattr(kind, "open"):
        return open_dataset(kind, path, shape, GROUPS, keys), ""
    if shape is None:
        shape = _guessed(path)[0]
    tries: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (groups, keys) for groups in (GROUPS, ("train",), ("validation",), (TEST,))
    ]
    if "validation" in keys:  # one trajectory cannot be divided
        tries.append((("train",), {**keys, "validation": 0}))
    errors = []
    for groups, own in tries:
        try:
            data = open_dataset(kind, path, shape, groups, own)
        except DataError as error:
            errors.append(error)
        else:
            needs = "a run needs the groups train and validation, but "
            return data, f"{needs}{errors[0]}" if errors else ""
    raise errors[0]


def _guessed(path: DataFiles) -> tuple[tuple[int, ...] | None, str]:
    """The likely points of files in our layout that do not name them, and how their axes are read
    then; None for other files.
    """
    try:
        return guessed_grid(first_file(path)) or (None, "")
    except DataError:  # files of a user-defined format
        return None, ""


def _statistics(
    found: Inspection, comm: MPI.Comm, grid: Grid, where: Sequence[Place]
) -> tuple[list[Place], list[BadTrajectoryError]]:
    """Fill in the numbers of the states; return those without NaN and infinity, and the errors
    about the others.
    """
    read, good, bad = states_reader(found.data), [], []
    own: list[Numbers] = []
    reported: set[tuple[str, int]] = set()
    for place in where:
        states = slice(place.state, place.state + 2, 1)
        try:
            pair = read(place.group, place.sample, states, grid.local_slices)
            finite = bool(np.isfinite(pair).all())
            problem = None if finite else (f"trajectory {place.sample} contains NaN", "", 0)
        except DataError as error:
            pair = None
            problem = (str(error), getattr(error, "key", ""), getattr(error, "number", 0))
        problems = [one for one in comm.allgather(problem) if one]
        if problems:
            message, key, number = problems[0]
            if message not in found.bad and (place.group, place.sample) not in reported:
                reported.add((place.group, place.sample))
                found.bad.append(message)
                bad.append(BadTrajectoryError(message, key, number))
            continue
        assert pair is not None
        own = own or [Numbers() for _ in range(pair.shape[1])]
        for channel, numbers in enumerate(own):
            numbers.add(pair[:, channel])
        good.append(place)
    for numbers in own:
        each = comm.allgather(numbers)
        found.numbers.append(
            Numbers(
                min(one.smallest for one in each),
                max(one.largest for one in each),
                sum(one.sum for one in each),
                sum(one.count for one in each),
            )
        )
    return good, bad


def _compare(found: Inspection, grid: Grid, path: DataFiles) -> None:
    """Compare the numbers of the file with those of the grid and the PDE."""
    stepper = made_stepper(found.config.physics, grid)
    try:
        check_numbers(found.data, attributes(stepper), str(named(path)))
    except DataError as error:
        found.mismatches.append(str(error))
    try:
        check_spacing(found.data, grid.spacing, str(named(path)))
    except DataError as error:
        found.mismatches.append(str(error))
