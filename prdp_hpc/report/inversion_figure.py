"""The figure of a field inversion: the fields, their differences, and error and level over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.files import file_errors
from prdp_hpc.metric_names import FIELDS
from prdp_hpc.report.log_axis import tidy
from prdp_hpc.report.panels import COLOURS, GRID, INK, LABEL_SIZE, empty_figure, positive, save
from prdp_hpc.report.runs import ReportError, RunRecord
from prdp_hpc.report.tables import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Field = NDArray[np.float64]
HEIGHT = 9.4  # inches
AGAIN = "run again to rewrite it"
FIELD_COLOURS, DIFFERENCE_COLOURS = "viridis", "RdBu_r"


@dataclass(frozen=True)
class Fields:
    """The fields of a run: `found`, the log of the coefficient, and `truth` if it is known."""

    found: Field
    truth: Field | None


def has_fields(folder: str | Path) -> bool:
    """Whether a run folder has fields."""
    return (Path(folder) / FIELDS).is_file()


def load_fields(folder: str | Path) -> Fields:
    """Read the fields of a run folder; raises `ReportError`."""
    path = Path(folder) / FIELDS
    try:
        with (
            file_errors(path, "cannot be read", "run again to rewrite it"),
            np.load(path) as own,
        ):
            truth = own.get("truth")
            return Fields(own["log_permeability"], truth)
    except (ValueError, KeyError) as error:
        raise ReportError(
            f"{path}: contains no fields ({error}); run again to rewrite it"
        ) from None


def plot_inversion(
    runs: Mapping[str, RunRecord], path: str | Path, title: str, subtitle: str = ""
) -> None:
    """Draw runs of one field inversion to the PNG file `path`. `runs` are given by variant: `prdp`
    and `full` of a comparison and further ones, or a single run. The fields of the first two are
    shown.

    The first row contains the true field, if it is known, and the found ones; the second row their
    differences from the true field and from each other. For three dimensions these are the middle
    slices perpendicular to the first axis. The panels below show the error of the field (or the
    validation error, without a true field) and the level over wall-clock seconds, for all runs.
    """
    shown = {name: load_fields(record.path) for name, record in list(runs.items())[:2]}
    truth = next(iter(shown.values())).truth
    figure = empty_figure(HEIGHT)
    figure.text(
        0.018, 1 - 0.18 / HEIGHT, title, fontsize=13, fontweight="bold", color=INK, va="top"
    )
    figure.text(0.018, 1 - 0.45 / HEIGHT, subtitle, fontsize=LABEL_SIZE + 1, color=INK, va="top")
    _maps(figure, shown, truth)
    below = figure.add_gridspec(
        2, 1, left=0.085, right=0.80, bottom=0.06, top=0.42, hspace=0.35, height_ratios=(1.5, 1.0)
    )
    error, level = (figure.add_subplot(below[row]) for row in range(2))
    _curves(error, level, runs)
    save(figure, path)


def _maps(figure: Figure, shown: Mapping[str, Fields], truth: Field | None) -> None:
    above = {} if truth is None else {f"True field, ln κ{_place(truth)}": truth}
    above |= {
        f"Found: {label(name)}{_place(fields.found) * (truth is None)}": fields.found
        for name, fields in reversed(list(shown.items()))
    }
    below = _differences(shown, truth)
    columns, count = max(len(above), len(below)), 2 if below else 1
    rows = figure.add_gridspec(
        count, columns, left=0.03, right=0.90, bottom=0.48, top=0.90, hspace=0.16, wspace=0.08
    )
    _row(figure, [rows[0, column] for column in range(columns)], above, FIELD_COLOURS)
    # Below the found fields that they belong to.
    under = range(columns - len(below), columns)
    _row(figure, [rows[count - 1, column] for column in under], below, DIFFERENCE_COLOURS)


def _differences(shown: Mapping[str, Fields], truth: Field | None) -> dict[str, Field]:
    found = {}
    if truth is not None:
        for name, fields in reversed(list(shown.items())):
            found[f"{label(name)} − true"] = fields.found - truth
    if {"prdp", "full"} <= set(shown):
        found["PRDP − full refinement"] = shown["prdp"].found - shown["full"].found
    return found


def _row(figure: Figure, places: Sequence[Any], fields: Mapping[str, Field], colours: str) -> None:
    """Draw maps side by side with a common colour scale."""
    slices = {name: _slice(field) for name, field in fields.items()}
    if not slices:
        return
    low = min(float(field.min()) for field in slices.values())
    high = max(float(field.max()) for field in slices.values())
    if colours == DIFFERENCE_COLOURS:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    image: Any = None
    for place, (name, field) in zip(places, slices.items(), strict=False):
        ax = figure.add_subplot(place)
        image = ax.imshow(field, origin="lower", vmin=low, vmax=high, cmap=colours, aspect="equal")
        ax.set_title(name, fontsize=LABEL_SIZE, color=INK, pad=4)
        ax.set_xticks([])
        ax.set_yticks([])
    box = places[0].get_position(figure)
    bar = figure.colorbar(
        image, cax=figure.add_axes((0.915, box.y0 + 0.01, 0.014, box.height - 0.01))
    )
    bar.ax.tick_params(labelsize=LABEL_SIZE - 1, colors=INK)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _place(field: Field) -> str:
    """Which slice of a field is shown, for its heading."""
    return f"\nslice {field.shape[0] // 2 + 1} of {field.shape[0]} along z" * (field.ndim == 3)


def _slice(field: Field) -> Field:
    """A two-dimensional view: a row for one axis, the middle slice for three."""
    if field.ndim == 3:
        return np.asarray(field[field.shape[0] // 2])
    return field if field.ndim == 2 else field[np.newaxis]


def _curves(error: Axes, level: Axes, runs: Mapping[str, RunRecord]) -> None:
    ends = max(float(record.metrics["total_seconds"][-1]) for record in runs.values())
    key, heading = "error", "Misfit of the held-out experiments, in standard deviations"
    if all("error_field" in record.metrics for record in runs.values()):
        key, heading = "error_field", "Relative error of the field, ‖ln κ − true‖ / ‖true‖"
    kinds = {name: bool(r.metrics["level"].min() >= 1) for name, r in runs.items()}
    first = next(iter(kinds.values()))
    for index, (name, record) in enumerate(runs.items()):
        colour, seconds = COLOURS[index % len(COLOURS)], record.metrics["total_seconds"]
        values = positive(record.metrics[key])
        style: dict[str, Any] = {"color": colour, "linewidth": 1.8 if index == 0 else 2.4}
        error.plot(seconds, values, **style, zorder=3 if index == 0 else 2)
        error.plot(seconds[-1:], values[-1:], "o", color=colour, markersize=4, zorder=4)
        if kinds[name] == first:
            # The level of an epoch is the one at which it was trained.
            level.plot(seconds, record.metrics["level"], **style, drawstyle="steps-pre")
        text = f"{label(name)}\n{values[-1]:.3g} in {seconds[-1]:.1f} s"
        error.text(
            1.015,
            0.98 - 0.26 * index,
            text,
            transform=error.transAxes,
            color=colour,
            fontsize=LABEL_SIZE,
            va="top",
        )
    error.set_yscale("log")
    tidy(error.yaxis)
    _frame(error, heading, ends)
    _levels(level, first, runs)
    _frame(level, level.get_title(loc="left"), ends)
    level.set_xlabel("Wall-clock seconds", fontsize=LABEL_SIZE + 1, color=INK)


def _levels(level: Axes, iterations: bool, runs: Mapping[str, RunRecord]) -> None:
    """Set the heading and scale of the levels; the heading lists runs with levels of the other
    type.
    """
    heading = "Level: iterations per solve" if iterations else "Level: relative tolerance"
    others = [
        f"{label(name)}: relative tolerance {record.metrics['level'][-1]:g}"
        for name, record in runs.items()
        if bool(record.metrics["level"].min() >= 1) != iterations
    ]
    if iterations:
        level.set_ylim(bottom=0)
        level.locator_params(axis="y", integer=True, nbins=5)
    else:
        level.set_yscale("log")
        level.invert_yaxis()
    note = f" ({'; '.join(others)})" if others else ""
    level.set_title(heading + note, loc="left")


def _frame(ax: Axes, heading: str, ends: float) -> None:
    ax.set_title(heading, loc="left", fontsize=LABEL_SIZE + 1, color=INK, pad=6)
    ax.set_xlim(0, ends * 1.01)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#999999")
    ax.grid(axis="y", which="both", color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", labelsize=LABEL_SIZE, colors=INK)
