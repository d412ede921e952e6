"""The figure of spectra: error by time step, energy by wavenumber, and error by wavenumber."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prdp_hpc.report.field_figure import CHANNELS, WIDTH, frame, titled_figure
from prdp_hpc.report.field_series import Array, FieldSeries
from prdp_hpc.report.log_axis import tidy
from prdp_hpc.report.panels import COLOURS, INK, LABEL_SIZE, positive, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = {1: 3.3, 2: 2.9}  # inches; by number of channels, for more channels 2.6
SMALLEST = 1e-14
"""Energies below this share of the largest are rounding errors and are not drawn."""
MARGIN, MEAN = 1.15, "<"
"""Ratio of the ends of the axis and of the wavenumbers, and the marker of the mean."""
WAVENUMBER = "wavenumber |k|  (radians per unit of length)"


def plot_spectra(series: FieldSeries, path: str | Path) -> None:
    """Draw error by step, energy by wavenumber and error by wavenumber to the PNG file `path`; one
    row per channel.
    """
    channels = range(min(len(series.channels), CHANNELS))
    height = 1.0 + PANEL.get(len(channels), 2.6) * len(channels)
    panels = 3 if len(series.steps) > 1 else 2
    figure = titled_figure(series, WIDTH * panels / 3, height)
    grid = figure.add_gridspec(
        len(channels),
        panels,
        left=0.07,
        right=0.985,
        top=1 - 0.98 / height,
        bottom=0.55 / height,
        wspace=0.27,
        hspace=0.42,
    )
    for channel in channels:
        axes = [figure.add_subplot(grid[channel, column]) for column in range(panels)]
        name = f", {series.channels[channel]}" if len(channels) > 1 else ""
        if panels == 3:
            _errors(axes[0], series, channel)
        _energies(axes[-2], series, channel, name)
        _ratios(axes[-1], series, channel, name)
        for ax in axes:
            tidy(ax.xaxis)
            tidy(ax.yaxis)
    save(figure, path)


def _errors(ax: Axes, series: FieldSeries, channel: int) -> None:
    column = series.channels[channel]
    own = column in series.error_names
    if channel > 0 and not own:
        ax.set_axis_off()
        return
    name = column if own else "error"
    errors = positive(series.errors[series.error_names.index(name)])
    shown = f", {column}" if own and len(series.channels) > 1 else ""
    _titled(ax, f"Error by time step{shown}")
    if not np.isfinite(errors).any():
        _empty(ax, "the true states are not known")
        return
    first = not own or channel == 0
    if first and len(series.member_errors):
        for index, member in enumerate(series.member_errors):
            label = "one run" if index == 0 else None
            ax.plot(series.steps, positive(member), color="#999999", lw=0.9, label=label)
    label = "mean of the runs" if series.spread.size else None
    style = {"color": COLOURS[0], "lw": 1.8, "marker": "o", "ms": 3.5}
    ax.plot(series.steps, errors, **style, label=label)
    ax.set_yscale("log")
    ax.set_xlabel("time step", fontsize=LABEL_SIZE, color=INK)
    ax.set_ylabel("normalised squared error", fontsize=LABEL_SIZE, color=INK)
    ax.locator_params(axis="x", integer=True, nbins=7, min_n_ticks=1)
    frame(ax)
    if label:
        ax.legend(fontsize=LABEL_SIZE - 1, frameon=False, labelcolor=INK)


def _shown(series: FieldSeries) -> tuple[list[int], list[str]]:
    """Up to three states with known truth, and their colours from light to dark."""
    from matplotlib import colormaps

    known = [int(state) for state in series.known]
    later = [state for state in known if state > 0 or len(series.steps) == 1]
    states = later or series.shown(3)
    places = np.unique(np.linspace(0, len(states) - 1, min(3, len(states))).round().astype(int))
    shades = colormaps["viridis_r"](np.linspace(0.25, 0.9, len(places)))
    return [states[place] for place in places], list(shades)


def _energies(ax: Axes, series: FieldSeries, channel: int, name: str) -> None:
    _titled(ax, f"Energy by wavenumber{name}")
    states, shades = _shown(series)
    truth, found = series.truth_energy[:, channel], series.energy[:, channel]
    largest = np.nanmax([truth[states], found[states]])
    for state, shade in zip(states, shades, strict=True):
        _draw(ax, series, truth[state], largest, color=shade, lw=3.4, alpha=0.45)
        label = f"step {int(series.steps[state])}" if len(series.steps) > 1 else None
        style = {"color": shade, "lw": 1.4, "ls": (0, (4, 1.5)), "label": label}
        _draw(ax, series, found[state], largest, **style)
    _by_wavenumber(ax, series)
    ax.set_ylabel("energy  (Σ = mean square)", fontsize=LABEL_SIZE, color=INK)
    ax.plot([], [], color="#777777", lw=3.4, alpha=0.5, label="truth")
    ax.plot([], [], color="#777777", lw=1.4, ls=(0, (4, 1.5)), label="prediction")
    if not series.wavenumbers[0] and np.nanmax([truth[states, 0], found[states, 0]]) > 0:
        ax.plot([], [], color="#777777", ls="", marker=MEAN, ms=5, label="mean, k = 0")
    ax.legend(fontsize=LABEL_SIZE - 1, frameon=False, labelcolor=INK, handlelength=2.4)


def _ratios(ax: Axes, series: FieldSeries, channel: int, name: str) -> None:
    _titled(ax, f"Error by wavenumber{name}")
    if not len(series.known):
        _empty(ax, "the true states are not known")
        return
    states, shades = _shown(series)
    truth, found = series.truth_energy[:, channel], series.difference_energy[:, channel]
    for state, shade in zip(states, shades, strict=True):
        enough = truth[state] > SMALLEST * np.nanmax(truth[state])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(enough, found[state] / truth[state], np.nan)
        label = f"step {int(series.steps[state])}" if len(series.steps) > 1 else None
        _draw(ax, series, ratio, 0.0, color=shade, lw=1.8, label=label)
    ax.axhline(1.0, color="#999999", lw=0.9, ls=":")
    _by_wavenumber(ax, series)
    ax.set_ylabel("energy, difference / truth", fontsize=LABEL_SIZE, color=INK)
    if len(series.steps) > 1:
        ax.legend(fontsize=LABEL_SIZE - 1, frameon=False, labelcolor=INK)


def _draw(ax: Axes, series: FieldSeries, energy: Array, largest: float, **style: Any) -> None:
    """Draw the energies that are not rounding errors: a line, points where it has gaps on both
    sides, and at the left edge the energy of the mean.
    """
    values = positive(np.where(energy > SMALLEST * largest, energy, np.nan))
    inner = series.wavenumbers > 0
    wavenumbers, line = series.wavenumbers[inner], values[inner]
    padded = np.isfinite(np.r_[np.nan, line, np.nan])
    alone = np.flatnonzero(padded[1:-1] & ~padded[:-2] & ~padded[2:])
    ax.plot(wavenumbers, line, **style)
    points = {key: style[key] for key in ("color", "alpha") if key in style} | {"ls": ""}
    size = 3 + style["lw"]
    if alone.size:
        ax.plot(wavenumbers[alone], line[alone], marker=".", ms=size, **points)
    if np.isfinite(values[~inner]).any():
        ends = wavenumbers[0] / MARGIN, values[~inner][0]
        ax.plot(*ends, marker=MEAN, ms=2 + size, clip_on=False, **points)


def _by_wavenumber(ax: Axes, series: FieldSeries) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    inner = series.wavenumbers[series.wavenumbers > 0]
    ax.set_xlim(float(inner[0]) / MARGIN, float(inner[-1]) * MARGIN)
    ax.set_xlabel(WAVENUMBER, fontsize=LABEL_SIZE, color=INK)
    frame(ax)


def _titled(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=LABEL_SIZE + 1, color=INK, pad=7)


def _empty(ax: Axes, text: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color("#DDDDDD")
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color=INK, fontsize=LABEL_SIZE)
