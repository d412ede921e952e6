"""The figure of a comparison: the last state that its variants predict, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prdp_hpc.report.field_figure import (
    BAR,
    BOTTOM,
    DIFFERENCE_COLOURS,
    FIELD_COLOURS,
    GAP,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    colour_bar,
    draw_map,
    frame,
    heading,
    label_map,
    limits,
    placed,
    shape_ratio,
    time_label,
    titled_figure,
)
from prdp_hpc.report.field_series import FieldSeries
from prdp_hpc.report.panels import COLOURS, INK, LABEL_SIZE, save
from prdp_hpc.report.tables import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANNELS, VARIANTS = 3, 5
"""Most channels and variants of the figure."""


def plot_variants(variants: Mapping[str, FieldSeries], path: str | Path, title: str) -> None:
    """Draw what variants predict for the same sample, and the differences from the truth, to the
    PNG file `path`. `variants` are series by name, all with the same states.
    """
    shown = dict(list(variants.items())[:VARIANTS])
    first = next(iter(shown.values()))
    state = int(first.known[-1]) if len(first.known) else len(first.steps) - 1
    draw = _lines if len(first.axes) == 1 else _maps
    save(draw(shown, state, title), path)


def _titled(first: FieldSeries, state: int, title: str, size: tuple[float, float]) -> Figure:
    figure = titled_figure(first, *size, title=title)
    figure.text(
        0.12 / size[0],
        1 - 0.62 / size[1],
        f"{first.title.rpartition(': ')[2]}, {time_label(first, state)}",
        fontsize=LABEL_SIZE + 1,
        color=INK,
        va="top",
    )
    return figure


def _maps(variants: Mapping[str, FieldSeries], state: int, title: str) -> Figure:
    """Columns: the truth and the variants; rows: fields and differences of each channel."""
    first = next(iter(variants.values()))
    channels = range(min(len(first.channels), CHANNELS))
    columns = 1 + len(variants)
    size = min(2.6, (WIDTH - LEFT - RIGHT - BAR) / columns - GAP)
    height = size * shape_ratio(first)
    tallest = 8.0 / (2 * len(channels))
    size, height = (size * tallest / height, tallest) if height > tallest else (size, height)
    whole = TOP + 0.2 + BOTTOM + 2 * len(channels) * (height + GAP)
    wide = max(LEFT + columns * (size + GAP) + BAR + RIGHT, 7.0)
    figure = _titled(first, state, title, (wide, whole))
    for channel in channels:
        for row, colours in enumerate((FIELD_COLOURS, DIFFERENCE_COLOURS)):
            place = 2 * channel + row
            bottom = whole - TOP - 0.2 - (place + 1) * (height + GAP) + GAP
            ends = _limits(variants, channel, state, colours)
            shown: list[Any] = [] if row else [("Truth", first.truth[state, channel])]
            for name, series in variants.items():
                fields = series.difference if row else series.prediction
                shown.append((label(name), fields[state, channel]))
            for column, (name, field) in enumerate(shown, start=row):
                ax = placed(figure, LEFT + column * (size + GAP), bottom, size, height)
                image = draw_map(ax, first, field, colours, ends)
                label_map(ax, column == row, place == 2 * len(channels) - 1)
                if place == 0:
                    ax.set_title(name, fontsize=LABEL_SIZE + 1, color=INK, pad=4)
                if column == row:
                    own = f"{first.channels[channel]}\n" if len(channels) > 1 else ""
                    heading(ax, own + ("Difference" if row else "Field"))
            left = LEFT + columns * (size + GAP) - GAP / 3
            bar = placed(figure, left, bottom, 0.11, height)
            colour_bar(figure, image, bar, np.stack([field for _, field in shown]), ends)
    return figure


def _limits(variants: Mapping[str, FieldSeries], channel: int, state: int, colours: str) -> Any:
    """The common limits of all variants."""
    every = [limits(series, channel, [state], colours) for series in variants.values()]
    return min(low for low, _ in every), max(high for _, high in every)


def _lines(variants: Mapping[str, FieldSeries], state: int, title: str) -> Figure:
    """One row per channel: the fields, and their differences from the truth."""
    first = next(iter(variants.values()))
    channels = range(min(len(first.channels), CHANNELS))
    height = TOP + 0.2 + BOTTOM + 3.0 * len(channels)
    figure = _titled(first, state, title, (WIDTH, height))
    grid = figure.add_gridspec(
        len(channels),
        2,
        left=0.075,
        right=0.985,
        top=1 - (TOP + 0.2) / height,
        bottom=BOTTOM / height,
        wspace=0.18,
        hspace=0.3,
    )
    x = first.axes[0]
    for channel in channels:
        left, right = (figure.add_subplot(grid[channel, column]) for column in range(2))
        left.plot(x, first.truth[state, channel], color="#999999", lw=3.2, label="Truth")
        for index, (name, series) in enumerate(variants.items()):
            style: dict[str, Any] = {"color": COLOURS[index], "lw": 1.5}
            style["ls"] = (0, (4, 1.5)) if index else "-"
            left.plot(x, series.prediction[state, channel], label=label(name), **style)
            right.plot(x, series.difference[state, channel], label=label(name), **style)
        left.set_ylabel(first.channels[channel], fontsize=LABEL_SIZE, color=INK)
        right.set_ylabel("prediction − truth", fontsize=LABEL_SIZE, color=INK)
        for ax in (left, right):
            ax.set_xlim(float(x[0]), float(x[-1]))
            frame(ax)
            if channel == channels[-1]:
                ax.set_xlabel("x", fontsize=LABEL_SIZE, color=INK)
        left.legend(fontsize=LABEL_SIZE - 1, frameon=False, labelcolor=INK)
    return figure
