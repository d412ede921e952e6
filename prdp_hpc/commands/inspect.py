"""`prdp-hpc inspect`: what a data file contains, which config fits, and the physics residual."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.console import Table, show
from prdp_hpc.data import GROUPS
from prdp_hpc.experiments.best_factors import BestFactor
from prdp_hpc.experiments.inspected import Inspection, inspect_data
from prdp_hpc.experiments.physics_residual import FITS, Change, PhysicsResidual


def inspect(arguments: argparse.Namespace) -> None:
    """Print the contents of a data file, its numbers, a config and the physics residual."""
    world = MPI.COMM_WORLD
    files, overrides = _divided([*arguments.words, *arguments.overrides])
    found = inspect_data(
        files if len(files) > 1 else files[0],
        world,
        arguments.config,
        overrides,
        arguments.format,
        arguments.samples,
    )
    if world.rank == 0:
        show(*[part for part in _parts(found) if part])


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    """The files, and the changes to the config after them; a file may have `=` in its name."""
    are_files = [i == 0 or "=" not in word or Path(word).exists() for i, word in enumerate(words)]
    count = are_files.index(False) if False in are_files else len(words)
    return words[:count], words[count:]


def _parts(found: Inspection) -> list[str]:
    return [
        f"{found.file}{f' and {found.more} more' * bool(found.more)}: format {found.format}",
        Table([("array", "shape", "type", "storage"), *found.rows], "<<<<") if found.rows else "",
        _attributes(found),
        _data(found),
        _numbers(found),
        *[f"Bad trajectory: {one}" for one in found.bad],
        *[f"Not the config's: {one}" for one in found.mismatches],
        f"Not enough for a run: {found.missing}" * bool(found.missing and not found.suggestion),
        "" if found.suggestion is None else f"Config:\n\n{found.suggestion.to_yaml().rstrip()}",
        *_residual(found),
    ]


def _attributes(found: Inspection) -> str:
    about = {**found.attributes, **getattr(found.data, "attributes", {})}
    lines = [f"  {name}: {_short(value)}" for name, value in about.items()]
    return "\n".join(["Attributes:", *lines]) if lines else ""


def _short(value: Any) -> str:
    text = f"{value:.10g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 70 else f"{text[:67]}…"


def _data(found: Inspection) -> str:
    data = found.data
    groups = ", ".join(
        f"{data.count(group)} in {group}" for group in getattr(data, "groups", GROUPS)
    )
    shape = getattr(data, "shape", found.config.grid.shape)
    names = ", ".join("zyx"[-len(shape) :])
    lines = [
        f"Trajectories: {groups}, of {data.steps + 1} states",
        f"Grid: {' × '.join(map(str, shape))} points ({names})",
    ]
    spacing = getattr(data, "spacing", None)
    if spacing is not None:
        lines[1] += f", {' × '.join(f'{h:.6g}' for h in spacing)} apart"
    assumed: str = getattr(data, "assumed", "")
    if assumed and found.suggestion is None:  # of a suggested config it is a note
        lines.append(f"Assumed: {assumed}")
    if getattr(data, "boundary", None) is not None:
        lines[1] += f", boundary {', '.join(data.boundary)}"
    return "\n".join(lines)


def _numbers(found: Inspection) -> str:
    if not found.numbers:
        return ""
    names = _channel_names(found.data, len(found.numbers))
    rows = [("channel", "smallest", "mean", "largest")]
    for name, one in zip(names, found.numbers, strict=True):
        mean = one.sum / max(1, one.count)
        rows.append((name, f"{one.smallest:.4g}", f"{mean:.4g}", f"{one.largest:.4g}"))
    return Table(rows, "<>>>")


def _channel_names(data: Any, count: int) -> Sequence[str]:
    """The names of the channels: those of the reader, else those in the file, else numbers."""
    stored = str(getattr(data, "attributes", {}).get("channels", "")).split(",")
    for names in (getattr(data, "channels", ()), stored):
        if len(names) == count and all(names):
            return [str(name) for name in names]
    return [f"channel {i}" for i in range(count)]


def _residual(found: Inspection) -> list[str]:
    residual = found.residual
    if residual is None:
        return [f"Physics residual: not computed, because {found.reason}"]
    rows = [("group", "trajectory", "state", *residual.channels)]
    for place, each in residual.states:
        cells = ["no change" if math.isnan(one) else f"{one:.2e}" for one in each]
        rows.append((place.group, str(place.sample), str(place.state), *cells))
    name = str(found.config.physics.pde).rpartition(":")[2]
    head = (
        f"Physics residual: error of one step of {name} from each state, relative to the change "
        "of the data over the step"
    )
    return [head, Table(rows, "<>>" + ">" * len(residual.channels)), _verdict(found, residual)]


def _verdict(found: Inspection, residual: PhysicsResidual) -> str:
    lines: list[str] = []
    if math.isnan(residual.residual):
        return "The states do not change, so nothing can be compared."
    if residual.better is not None:
        choices = sorted(residual.equally_good, key=lambda change: _in_file(found, change))
        words = " or ".join(f"{_words(one)} ({_keys(found, one)})" for one in choices)
        lines.append(
            f"The residual is {residual.compared:.2e}, but {residual.better[1]:.2e} with {words}: "
            "give this, if it is what the file contains."
        )
    elif residual.residual < FITS:
        lines.append(
            f"The residual is {residual.residual:.2e}: grid, time step and coefficients fit."
        )
    else:
        lines.append(
            f"The residual is {residual.residual:.2e}, and no other order of axes or velocities, "
            "time step or coefficient has a much smaller one: the data were computed by another "
            "scheme, with shorter time steps, from another PDE, or on a domain with another "
            "grid.length."
        )
    for group, other in residual.unlike.items():
        lines.append(
            f"In the group {group} the residual is {other:.2e}: its data are not those of the same "
            "PDE with the same axes, time step and coefficients."
        )
    if residual.confirmed:
        words = " and ".join(f"{one.key} × {_range(one)}" for one in residual.best_factors)
        lines.append(f"These numbers are confirmed: all states fit best with {words}.")
    if residual.likelier:
        words = " or ".join(f"{_words(one)} ({_keys(found, one)})" for one, _ in residual.likelier)
        smaller = residual.likelier[0][1]
        lines.append(
            f"But all states fit better with {words}: the residual is {smaller:.2e}. "
            "Compare this with the description of the data."
        )
    lines += [_wrong(found, one) for one in residual.wrong]
    for change, other in residual.undetermined:
        lines.append(
            f"The data hardly determine {change.key}: the residual is {other:.2e} with "
            f"{_words(change)} ({_keys(found, change)}). Compare it with the description of the "
            "data."
        )
    if residual.invisible:
        lines.append(
            "With the axes in another order the residual is the same, so that a wrong order would "
            "not be found."
        )
    return "\n".join(lines)


def _wrong(found: Inspection, best: BestFactor) -> str:
    middle = getattr(found.config.physics, best.key) * statistics.geometric_mean(best.factors)
    return (
        f"But all states fit best with {best.key} × {_range(best)} "
        f"(about physics.{best.key}={middle:.2g}), although the error of the scheme hides how much "
        f"better: compare {best.key} with the description of the data."
    )


def _range(best: BestFactor) -> str:
    low, high = (f"{factor:.2g}" for factor in (min(best.factors), max(best.factors)))
    return f"{low} to {high}" if low != high else low


def _in_file(found: Inspection, change: Change) -> bool:
    """Whether the file contains the number that would be changed, so that it is probably right."""
    return change.key in getattr(found.data, "attributes", {})


def _words(change: Change) -> str:
    words = []
    if change.axes:
        words.append("the axes of the grid in another order")
    if change.channels:
        words.append("the velocities in another order")
    if change.lengths:
        words.append("another length of the domain")
    if change.key:
        words.append(f"{change.key} × {change.word}")
    return " and ".join(words)


def _keys(found: Inspection, change: Change) -> str:
    keys = []
    if change.axes:
        keys.append(_axes_key(found, change))
    if change.channels:
        names = list(getattr(found.data, "channels", ())) or list(range(len(change.channels)))
        order = ", ".join(str(names[i]) for i in change.channels)
        # Only the formats of other programs have a key for it.
        has_key = hasattr(found.data, "all_channels")
        keys.append(
            f"data.format.channels=[{order}]" if has_key else f"a file with the channels {order}"
        )
    if change.lengths:
        each = [f"{length:.8g}" for length in change.lengths]
        keys.append(
            f"grid.length={each[0] if len(set(each)) == 1 else '[' + ', '.join(each) + ']'}"
        )
    if change.key:
        value = getattr(found.config.physics, change.key) * change.factor
        keys.append(f"physics.{change.key}={value:.8g}")
    return " ".join(keys)


def _axes_key(found: Inspection, change: Change) -> str:
    """The key that exchanges the axes. They are permuted in our order, z, y, x."""
    ours = "zyx"[-len(change.axes) :]
    renamed = {ours[source]: ours[axis] for axis, source in enumerate(change.axes)}
    order = getattr(found.data, "stored_axes", None)
    if found.format in ("netcdf", "zarr"):
        return f"data.format.dims (exchange {', '.join(renamed)})"
    if found.format == "numpy":
        return f"data.format.layout (exchange {', '.join(renamed)})"
    if order is None:
        return f"a file with the axes {', '.join(renamed[axis] for axis in ours)}"
    return f"data.format.axes=[{', '.join(renamed[axis] for axis in order)}]"
