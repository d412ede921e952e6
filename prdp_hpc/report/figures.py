"""Figures of runs and comparisons, as PNG.

matplotlib's `Figure` is used without pyplot, so nothing looks for a display and no global state changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from prdp_hpc.files import atomic_path
from prdp_hpc.report.runs import Column, ReportError, RunRecord
from prdp_hpc.report.tables import EQUAL_WITHIN

# Okabe and Ito's palette (2008), told apart with any colour vision; yellow is left out, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = (("-", ""), ("--", " (dashed)"), (":", " (dotted)"))
INK, GRID, BAND = "#333333", "#E6E6E6", "#DDDDDD"
WIDTH = 8.4  # inches
LABEL_SIZE = 9.0
LABEL_GAP = 1.3 * LABEL_SIZE / 72  # inches from one label to the next
LONGEST_NAME = 22


@dataclass(frozen=True)
class _Curve:
    """One run's look: its record, the label at the end of its lines, colour, line width (points) and dash."""

    record: RunRecord
    label: str
    colour: str
    width: float = 1.8
    dash: str = "-"


def plot_run(record: RunRecord, path: str | Path) -> None:
    """Draw one run to the PNG file `path`: the error in log scale and the level, over epochs.

    An epoch's level is the one it was trained at, so the step up to epoch 5 covers the time from epoch 4 to 5.
    """
    curve = _Curve(record, "", COLOURS[0])
    figure, (error, level) = _panels(record.name, "", (2.0, 1.0), 5.2, _margin([curve]))
    _error_panel(error, [curve])
    _level_panel(level, [curve])
    _epochs(level, [curve])
    _save(figure, path)


def plot_runs(records: Sequence[RunRecord], path: str | Path) -> None:
    """Draw several runs over each other to the PNG file `path`: error, level and inner iterations, over epochs.

    Raises `ReportError` where no run is given, or runs of both tasks, whose errors are not of one kind.
    """
    if not records:
        raise ReportError("no run to plot: give at least one run folder, as in runs/heat_2d")
    _same_task(records)
    curves = []
    for index, (record, label) in enumerate(zip(records, _labels(records), strict=True)):
        dash, said = DASHES[index // len(COLOURS) % len(DASHES)]
        curves.append(_Curve(record, _shorten(label) + said, COLOURS[index % len(COLOURS)], dash=dash))
    title = f"{len(records)} runs" if len(records) > 1 else records[0].name
    # The smallest panel takes about a fifth of the height, and each run needs a label's room in it.
    height = max(7.2, 1.4 + 5 * LABEL_GAP * sum(1 if _one_level(record) else 2 for record in records))
    figure, (error, level, work) = _panels(title, "", (2.0, 1.2, 1.2), height, _margin(curves))
    _error_panel(error, curves)
    _level_panel(level, curves)
    _work_panel(work, curves, [""] * len(curves))
    _epochs(work, curves)
    _save(figure, path)


def plot_comparison(prdp_record: RunRecord, full_record: RunRecord, path: str | Path, title: str) -> None:
    """Draw PRDP against full refinement to the PNG file `path`.

    Three panels over epochs: the error in log scale, with the band within 10 % of full refinement's last error; the
    level; the inner iterations so far, with the fraction that PRDP saved up to the last epoch that both have finished.
    """
    _same_task([prdp_record, full_record])
    # Where the two errors are equal, the wide line still shows on both sides of the narrow one.
    curves = [_Curve(full_record, "Full refinement", COLOURS[1], width=3.2), _Curve(prdp_record, "PRDP", COLOURS[0], width=1.5)]
    saved, subtitle = _outcome(prdp_record, full_record)
    figure, (error, level, work) = _panels(title, subtitle, (2.0, 1.2, 1.2), 7.4, _margin(curves))
    _error_panel(error, curves, banded=full_record)
    _level_panel(level, curves)
    _work_panel(work, curves, ["", f"  ({saved})" if saved else ""])
    _epochs(work, curves)
    _save(figure, path)


def _panels(
    title: str, subtitle: str, heights: Sequence[float], height: float, margin: float
) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH, height))
    axes = list(figure.subplots(len(heights), sharex=True, height_ratios=heights))
    top = 1.05 if subtitle else 0.85
    figure.subplots_adjust(left=0.085, right=1 - margin / WIDTH, top=1 - top / height, bottom=0.55 / height, hspace=0.34)
    figure.text(0.018, 1 - 0.18 / height, title, fontsize=13, fontweight="bold", color=INK, va="top")
    figure.text(0.018, 1 - 0.45 / height, subtitle, fontsize=LABEL_SIZE + 1, color=INK, va="top")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#999999")
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", labelsize=LABEL_SIZE, colors=INK)
    return figure, axes


def _margin(curves: Sequence[_Curve]) -> float:
    """Room for the longest label right of the panels, in inches: a name, `adjoint (- -)` and a number."""
    longest = max(len(curve.label) + (0 if _one_level(curve.record) else 14) for curve in curves) + 11
    return 0.3 + 0.075 * longest


def _epochs(bottom: Axes, curves: Sequence[_Curve]) -> None:
    bottom.set_xlabel("Epoch", fontsize=LABEL_SIZE + 1, color=INK)
    bottom.set_xlim(0, max(1, *(int(curve.record.metrics["epoch"][-1]) for curve in curves)))
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _heading(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=LABEL_SIZE + 1, color=INK, pad=7, x=0.0)


def _error_panel(ax: Axes, curves: Sequence[_Curve], banded: RunRecord | None = None) -> None:
    inverse = curves[0].record.inverse
    _heading(ax, "Relative error of the parameters" if inverse else "Validation error after 2 steps (normalised MSE)")
    ends = []
    for curve in curves:
        epochs, errors = curve.record.metrics["epoch"], _positive(curve.record.metrics["error"])
        _line(ax, curve, epochs, errors)
        finite = np.flatnonzero(np.isfinite(errors))
        if finite.size:
            ends.append((errors[finite[-1]], f"{curve.label}  {errors[finite[-1]]:.2e}".strip(), curve.colour))
    if ends:
        ax.set_yscale("log")
        if banded is not None:
            _band(ax, banded)
        _end_labels(ax, ends)
    else:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no error above zero yet", transform=ax.transAxes, ha="center", color=INK, fontsize=LABEL_SIZE)


def _level_panel(ax: Axes, curves: Sequence[_Curve]) -> None:
    tolerances = min(curve.record.metrics["level"].min() for curve in curves) < 1
    _heading(ax, "Level: relative tolerance of a solve (finer upwards)" if tolerances else "Level: inner iterations of a solve")
    ends = []
    for curve in curves:
        epochs, level, adjoint = (curve.record.metrics[key] for key in ("epoch", "level", "adjoint_level"))
        _line(ax, curve, epochs, level, drawstyle="steps-pre")
        if _one_level(curve.record):
            ends.append((level[-1], f"{curve.label}  {level[-1]:g}".strip(), curve.colour))
            continue
        ax.plot(epochs, adjoint, color=curve.colour, linewidth=1.2, linestyle=(0, (4, 2)), drawstyle="steps-pre", clip_on=False)
        ends.append((level[-1], f"{curve.label} forward  {level[-1]:g}".strip(), curve.colour))
        ends.append((adjoint[-1], f"{curve.label} adjoint (- -)  {adjoint[-1]:g}".strip(), curve.colour))
    if tolerances:
        ax.set_yscale("log")
        ax.invert_yaxis()
    else:
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    _end_labels(ax, ends)


def _work_panel(ax: Axes, curves: Sequence[_Curve], notes: Sequence[str]) -> None:
    _heading(ax, "Inner iterations so far, forward and adjoint")
    ends = []
    for curve, note in zip(curves, notes, strict=True):
        work = curve.record.inner_iterations
        _line(ax, curve, curve.record.metrics["epoch"], work)
        ends.append((work[-1], f"{curve.label}  {_thousands(work[-1])}{note}", curve.colour))
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    _end_labels(ax, ends)


def _line(ax: Axes, curve: _Curve, x: Column, y: Column, drawstyle: str = "default") -> None:
    # A single point has no line to see; a line along the edge of the axes shall keep its width.
    marker = "o" if np.isfinite(y).sum() < 2 else None
    style: dict[str, Any] = {"color": curve.colour, "linestyle": curve.dash, "linewidth": curve.width, "drawstyle": drawstyle}
    ax.plot(x, y, **style, marker=marker, markersize=5, clip_on=False, solid_capstyle="butt")


def _one_level(record: RunRecord) -> bool:
    return np.array_equal(record.metrics["level"], record.metrics["adjoint_level"])


def _band(ax: Axes, full: RunRecord) -> None:
    errors = _positive(full.metrics["error"])
    finite = errors[np.isfinite(errors)]
    if not finite.size:
        return
    low, high = finite[-1] * (1 - EQUAL_WITHIN), finite[-1] * (1 + EQUAL_WITHIN)
    ax.axhspan(low, high, color=BAND, linewidth=0)
    # The text goes below the band, where a curve comes only when it is better than full refinement.
    bottom, top = ax.get_ylim()
    ax.set_ylim(min(bottom, low) / (top / bottom) ** 0.1, top)
    text = f"grey: within {EQUAL_WITHIN * 100:.0f} % of full refinement's last error"
    ax.annotate(
        text,
        (0.01, low),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, -2),
        textcoords="offset points",
        fontsize=LABEL_SIZE - 1,
        color="#666666",
        va="top",
    )


def _outcome(prdp: RunRecord, full: RunRecord) -> tuple[str, str]:
    """What PRDP saved, in short and as a sentence, at the last epoch that both have finished."""
    common = np.intersect1d(prdp.metrics["epoch"], full.metrics["epoch"])
    if not common.size:
        return "", ""
    ours, theirs = (np.flatnonzero(record.metrics["epoch"] == common[-1])[0] for record in (prdp, full))
    work, full_work = prdp.inner_iterations[ours], full.inner_iterations[theirs]
    error, full_error = prdp.metrics["error"][ours], full.metrics["error"][theirs]
    if full_work <= 0:
        return "", ""
    fraction = abs(1 - work / full_work) * 100
    sentence = f"After {common[-1]} epochs: {fraction:.0f} % {'fewer' if work <= full_work else 'more'} inner iterations"
    if full_error > 0 and np.isfinite(error / full_error):
        sentence += f", {error / full_error:.3g} times full refinement's error"
    return f"{fraction:.0f} % {'saved' if work <= full_work else 'more'}", sentence


def _end_labels(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each (value, text, colour) right of the axes at the height of its value, moved apart where they would touch."""
    gap = LABEL_GAP * ax.figure.dpi / ax.get_window_extent().height
    pixels = ax.transData.transform([(0.0, value) for value, _, _ in ends])
    heights = ax.transAxes.inverted().transform(pixels)[:, 1]
    for height, (_, text, colour) in zip(spread(heights, gap), ends, strict=True):
        ax.text(1.015, height, text, transform=ax.transAxes, color=colour, fontsize=LABEL_SIZE, va="center")


def spread(positions: Sequence[float] | Column, gap: float) -> list[float]:
    """Positions at least `gap` apart, in the same order, that move as little as possible (least squares).

    They stay within 0 and 1 where there is room for all of them. Subtracting `gap` times the rank turns the distance into
    an order, for which pooling neighbours is optimal.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([positions[index] - rank * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    room = max(0.0, 1.0 - (len(order) - 1) * gap)
    levels = [min(max(float(np.mean(pool)), 0.0), room) for pool in pools for _ in pool]
    placed = [0.0] * len(order)
    for rank, (index, level) in enumerate(zip(order, levels, strict=True)):
        placed[index] = level + rank * gap
    return placed


def _positive(values: Column) -> Column:
    # A log axis has no place for zero; a diverged run may also hold infinities.
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _thousands(number: float) -> str:
    return str(EngFormatter(places=0 if number < 1000 else 1, sep="")(number))


def _labels(records: Sequence[RunRecord]) -> list[str]:
    names = [record.name for record in records]
    if len(set(names)) == len(names):
        return names
    return [str(record.path) for record in records]


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"


def _same_task(records: Sequence[RunRecord]) -> None:
    other = next((record for record in records if record.inverse != records[0].inverse), None)
    if other is not None:
        raise ReportError(
            f"{records[0].path} and {other.path}: one is an inverse problem, the other an emulator, and their errors are"
            " not of one kind; plot them apart"
        )


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", facecolor="white")
