"""The figure of a sample: true and predicted fields and their difference at a few time steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prdp_hpc.report.beyond import beyond, beyond_note
from prdp_hpc.report.field_series import Array, FieldSeries
from prdp_hpc.report.panels import COLOURS, GRID, INK, LABEL_SIZE, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 12.0  # inches
TICKS = 7
"""Most labelled times of a map over x and time."""
CHANNELS = 4
"""Most channels of a figure."""
COLUMNS = 6
"""Most columns of a figure of several channels."""
FIELD_COLOURS, DIFFERENCE_COLOURS, SPREAD_COLOURS = "viridis", "RdBu_r", "magma"
LEFT, RIGHT, TOP, BOTTOM = 1.05, 0.25, 0.95, 0.6  # inches
GAP, BAR = 0.12, 0.5  # inches between maps, and for a colour bar with its labels


def plot_fields(series: FieldSeries, path: str | Path) -> None:
    """Draw one sample to the PNG file `path`.

    Rows are truth, prediction, difference and, for an ensemble, spread. In two dimensions, and for
    the middle plane of three, columns are time steps, for several channels of each channel. In one
    dimension the fields at some time steps are lines, with the development over time below.
    """
    save(lines_figure(series) if len(series.axes) == 1 else maps_figure(series), path)


def rows_of(series: FieldSeries) -> dict[str, tuple[Array, str]]:
    """The rows of a figure by heading: arrays `(S, C, *points)` and the kind of their colours."""
    found = {}
    if len(series.known):
        found["Truth"] = (series.truth, FIELD_COLOURS)
    found["Mean" if series.spread.size else "Prediction"] = (series.prediction, FIELD_COLOURS)
    if len(series.known):
        found["Difference"] = (series.difference, DIFFERENCE_COLOURS)
    if series.spread.size:
        found["Spread"] = (series.spread, SPREAD_COLOURS)
    return found


def limits(series: FieldSeries, channel: int, states: Sequence[int], colours: str) -> Any:
    """The common colour limits of a channel: those of the truth for fields, symmetric ones for
    differences.
    """
    index = list(states)
    if colours == DIFFERENCE_COLOURS:
        most = _largest(series.difference[index, channel])
        return -most, most
    if colours == SPREAD_COLOURS:
        return 0.0, _largest(series.spread[index, channel])
    shown = series.truth[index, channel]
    if not np.isfinite(shown).any():
        shown = series.prediction[index, channel]
    finite = shown[np.isfinite(shown)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _largest(values: Array) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def maps_figure(series: FieldSeries) -> Figure:
    """The figure for two-dimensional fields and planes."""
    if len(series.steps) == 1 and len(series.channels) == 1:
        return _one_state(series)
    channels = range(min(len(series.channels), CHANNELS))
    states = series.shown(max(1, COLUMNS // len(channels)) if len(channels) > 1 else 5)
    rows = rows_of(series)
    blocks = len(channels)
    room = WIDTH - LEFT - RIGHT - blocks * BAR - (blocks - 1) * 3 * GAP
    size = min(room / (blocks * len(states)) - GAP, 2.4)
    height = size * shape_ratio(series)
    size, height = (size * 2.0 / height, 2.0) if height > 2.0 else (size, height)
    whole = TOP + BOTTOM + len(rows) * (height + GAP)
    wide = LEFT + RIGHT + blocks * (len(states) * (size + GAP) + BAR) + (blocks - 1) * 3 * GAP
    figure = titled_figure(series, max(wide, 7.0), whole)
    for row, (kind, (fields, colours)) in enumerate(rows.items()):
        bottom = whole - TOP - (row + 1) * (height + GAP) + GAP
        left = LEFT
        for channel in channels:
            low, high = limits(series, channel, states, colours)
            for state in states:
                ax = placed(figure, left, bottom, size, height)
                image = draw_map(ax, series, fields[state, channel], colours, (low, high))
                if not np.isfinite(fields[state, channel]).any():
                    _note(ax, "not known")
                first = state == states[0]
                label_map(ax, first and channel == 0, row == len(rows) - 1)
                if row == 0:
                    text = time_label(series, state)
                    name = f"{series.channels[channel]}\n" if first and blocks > 1 else ""
                    ax.set_title(name + text, fontsize=LABEL_SIZE, color=INK, pad=4)
                if first and channel == 0:
                    heading(ax, kind)
                left += size + GAP
            bar = placed(figure, left - GAP / 3, bottom, 0.11, height)
            colour_bar(figure, image, bar, fields[list(states), channel], (low, high))
            left += BAR + 3 * GAP
    return figure


def _one_state(series: FieldSeries) -> Figure:
    """The figure for a field without time steps: truth, field and difference side by side."""
    rows = rows_of(series)
    size = 3.0
    height = min(size * shape_ratio(series), 5.0)
    whole, step = TOP + BOTTOM + height, size + BAR + 4 * GAP
    figure = titled_figure(series, LEFT + len(rows) * step + RIGHT, whole)
    for column, (heading, (fields, colours)) in enumerate(rows.items()):
        left, ends = LEFT + column * step, limits(series, 0, [0], colours)
        ax = placed(figure, left, BOTTOM, size, height)
        image = draw_map(ax, series, fields[0, 0], colours, ends)
        ax.set_title(heading, fontsize=LABEL_SIZE + 1, color=INK, pad=4)
        label_map(ax, column == 0, bottom=True)
        bar = placed(figure, left + size + GAP / 2, BOTTOM, 0.11, height)
        colour_bar(figure, image, bar, fields[:, 0], ends)
    return figure


def titled_figure(
    series: FieldSeries, width: float, height: float, title: str | None = None
) -> Figure:
    """An empty figure with the title of the series or another one; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    words = [series.section] if series.section else []
    if len(series.channels) == 1:
        words.insert(0, series.channels[0])
    if len(series.channels) > CHANNELS:
        words.append(f"the first {CHANNELS} of {len(series.channels)} channels")
    figure.text(
        0.12 / width,
        1 - 0.12 / height,
        series.title if title is None else title,
        fontsize=13,
        fontweight="bold",
        color=INK,
        va="top",
    )
    figure.text(
        0.12 / width,
        1 - 0.40 / height,
        ", ".join(words),
        fontsize=LABEL_SIZE + 1,
        color=INK,
        va="top",
    )
    return figure


def shape_ratio(series: FieldSeries) -> float:
    """Height of a map divided by its width, at equal scales up to 4 to 1."""
    y, x = (_extent(axis) for axis in series.axes)
    return float(np.clip((y[1] - y[0]) / (x[1] - x[0]), 0.25, 4.0))


def draw_map(ax: Axes, series: FieldSeries, field: Array, colours: str, ends: Any) -> Any:
    """Draw a field with x to the right and y upwards."""
    from matplotlib import colormaps

    shades = colormaps[colours].with_extremes(bad="#DDDDDD")
    y, x = (_extent(axis) for axis in series.axes)
    return ax.imshow(
        np.ma.masked_invalid(field),
        origin="lower",
        extent=(*x, *y),
        aspect="auto",
        cmap=shades,
        vmin=ends[0],
        vmax=ends[1],
        interpolation="nearest",
    )


def colour_bar(figure: Figure, image: Any, ax: Axes, shown: Array, ends: Any) -> None:
    """A colour bar, with a tip where values are outside of its ends."""
    finite = shown[np.isfinite(shown)]
    slack = 1e-6 * (ends[1] - ends[0])
    below = bool(finite.size) and finite.min() < ends[0] - slack
    above = bool(finite.size) and finite.max() > ends[1] + slack
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}
    bar = figure.colorbar(image, cax=ax, extend=extend.get((below, above), "neither"))
    bar.ax.tick_params(labelsize=LABEL_SIZE - 2, colors=INK, length=2)
    bar.ax.locator_params(nbins=4)
    bar.formatter.set_powerlimits((-2, 3))
    bar.ax.yaxis.get_offset_text().set(size=LABEL_SIZE - 2, color=INK)
    bar.outline.set_visible(False)


def time_label(series: FieldSeries, state: int) -> str:
    """The step and the time of a state."""
    step, time = int(series.steps[state]), float(series.times[state])
    if len(series.steps) == 1 and step == 0:
        return ""
    return f"step {step}" if time == step else f"step {step}, t = {time:.3g}"


def _extent(axis: Array) -> tuple[float, float]:
    half = 0.5 * float(axis[1] - axis[0]) if len(axis) > 1 else 0.5
    return float(axis[0]) - half, float(axis[-1]) + half


def placed(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the lower left corner."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )


def label_map(ax: Axes, left: bool, bottom: bool) -> None:
    """Label the axes of a map at the left and the lower edge of the figure."""
    from matplotlib.ticker import FormatStrFormatter

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FormatStrFormatter("%.4g"))
    ax.tick_params(labelsize=LABEL_SIZE - 2, colors=INK, length=2)
    ax.locator_params(nbins=3)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if bottom:
        ax.set_xlabel("x", fontsize=LABEL_SIZE, color=INK, labelpad=1)
    else:
        ax.set_xticklabels([])
    if left:
        ax.set_ylabel("y", fontsize=LABEL_SIZE, color=INK, labelpad=2)
    else:
        ax.set_yticklabels([])


def heading(ax: Axes, text: str) -> None:
    """Write the heading of a row to the left of its first map."""
    ax.annotate(
        text,
        (0, 0.5),
        xytext=(-56, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="center",
        fontsize=LABEL_SIZE + 1,
        color=INK,
    )


def _note(ax: Axes, text: str, height: float = 0.5) -> None:
    style = {"ha": "center", "va": "center", "fontsize": LABEL_SIZE, "color": "#777777"}
    ax.text(0.5, height, text, transform=ax.transAxes, **style)


def lines_figure(series: FieldSeries) -> Figure:
    """The figure for one-dimensional fields: lines at some steps, and maps over x and time."""
    channels = range(min(len(series.channels), CHANNELS))
    states = series.shown(4)
    overview = len(series.steps) > 2
    height = TOP + BOTTOM + len(channels) * (2.1 + (2.5 if overview else 0.0))
    figure = titled_figure(series, WIDTH, height)
    top = 1 - TOP / height
    parts = [2.1, 2.5] if overview else [2.1]
    grid = figure.add_gridspec(
        len(channels) * len(parts),
        1,
        left=0.07,
        right=0.945,
        top=top,
        bottom=BOTTOM / height,
        hspace=0.38,
        height_ratios=parts * len(channels),
    )
    for channel in channels:
        row = channel * len(parts)
        _lines(figure, grid[row], series, channel, states)
        if overview:
            _overview(figure, grid[row + 1], series, channel)
    return figure


def _lines(
    figure: Figure, place: Any, series: FieldSeries, channel: int, states: Sequence[int]
) -> None:
    inner = place.subgridspec(1, len(states), wspace=0.08)
    x = series.axes[0]
    ends = limits(series, channel, range(len(series.steps)), FIELD_COLOURS)
    margin = 0.12 * (ends[1] - ends[0])
    for column, state in enumerate(states):
        ax = figure.add_subplot(inner[column])
        truth, found = series.truth[state, channel], series.prediction[state, channel]
        ax.plot(x, truth, color="#999999", lw=3.2, label="truth")
        name = "mean" if series.spread.size else "prediction"
        ax.plot(x, found, color=COLOURS[0], lw=1.5, ls=(0, (4, 1.5)), label=name)
        if series.spread.size:
            spread = series.spread[state, channel]
            style = {"color": COLOURS[0], "alpha": 0.2, "lw": 0}
            ax.fill_between(x, found - spread, found + spread, label="± spread", **style)
        ax.set_ylim(ends[0] - margin, ends[1] + margin)
        beyond_note(ax, beyond(found, ax.get_ylim()))
        ax.set_xlim(*_extent(x))
        ax.set_title(time_label(series, state), fontsize=LABEL_SIZE, color=INK, pad=4)
        frame(ax)
        if column:
            ax.set_yticklabels([])
        else:
            ax.set_ylabel(series.channels[channel], fontsize=LABEL_SIZE, color=INK)
            ax.legend(fontsize=LABEL_SIZE - 1, frameon=False, labelcolor=INK, handlelength=2.2)
        if len(series.steps) <= 2:
            ax.set_xlabel("x", fontsize=LABEL_SIZE, color=INK)


def _overview(figure: Figure, place: Any, series: FieldSeries, channel: int) -> None:
    """Maps over x (to the right) and time (upwards)."""
    rows = rows_of(series)
    inner = place.subgridspec(1, len(rows), wspace=0.3)
    every = range(len(series.steps))
    for column, (heading, (fields, colours)) in enumerate(rows.items()):
        ax = figure.add_subplot(inner[column])
        values = fields[:, channel]
        ends = limits(series, channel, every, colours)
        x, t = _extent(series.axes[0]), _extent(series.times)
        image = draw_span(ax, values, (*x, *t), colours, ends)
        ax.set_title(heading, fontsize=LABEL_SIZE + 1, color=INK, pad=4)
        ax.set_xlabel("x", fontsize=LABEL_SIZE, color=INK, labelpad=1)
        if column == 0:
            ax.set_ylabel("time", fontsize=LABEL_SIZE, color=INK)
        ax.set_yticks(*_ticks(series.times))
        ax.tick_params(labelsize=LABEL_SIZE - 2, colors=INK, length=2)
        ax.spines[:].set_visible(False)
        if not np.isfinite(values[-1]).any():
            middle = (len(series.known) + len(series.steps)) / 2 / len(series.steps)
            _note(ax, "not known", middle)
        box = ax.inset_axes((1.02, 0.0, 0.035, 1.0))
        colour_bar(figure, image, box, values, ends)


def _ticks(times: Array) -> tuple[Array, list[str]]:
    """Up to `TICKS` evenly spaced times of states, and their labels."""
    shown = times[:: -(-len(times) // TICKS)]
    return shown, [f"{time:.4g}" for time in shown]


def draw_span(ax: Axes, values: Array, extent: Any, colours: str, ends: Any) -> Any:
    """Draw values `(S, points)` over x and time; what is not known is grey."""
    from matplotlib import colormaps

    shades = colormaps[colours].with_extremes(bad="#DDDDDD")
    return ax.imshow(
        np.ma.masked_invalid(values),
        origin="lower",
        extent=extent,
        aspect="auto",
        cmap=shades,
        vmin=ends[0],
        vmax=ends[1],
        interpolation="nearest",
    )


def frame(ax: Axes) -> None:
    """The frame of a panel with lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#999999")
    ax.grid(color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", labelsize=LABEL_SIZE - 1, colors=INK)
