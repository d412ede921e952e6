"""The panels of figures: error, level and work over epochs, with labels at the ends of the lines.

matplotlib's `Figure` is used without pyplot, so that no display is needed and no global state
changes. matplotlib is loaded for the first figure only: all ranks of a training import this module,
but only one of them draws, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prdp_hpc.files import atomic_path
from prdp_hpc.metric_names import ITERATIONS
from prdp_hpc.report.log_axis import tidy
from prdp_hpc.report.runs import Column, ReportError, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

# Okabe and Ito's palette (2008), whose colours are distinguishable with any colour vision, without
# yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, GRID = "#333333", "#E6E6E6"
WIDTH = 8.4  # inches
LABEL_SIZE = 9.0
LABEL_GAP = 1.3 * LABEL_SIZE / 72  # inches from one label to the next


@dataclass(frozen=True)
class Curve:
    """One run, or the runs of one variant over several seeds, with the label at the end of the
    line, its colour, width and dash pattern.

    Several runs are drawn as their mean, with a band from the smallest to the largest value, over
    their common epochs.
    """

    records: tuple[RunRecord, ...]
    label: str
    colour: str
    width: float = 1.8  # points
    dash: str = "-"

    @property
    def epochs(self) -> Column:
        """The common epochs of all runs, from the first one; shape (epochs,)."""
        return min((record.metrics["epoch"] for record in self.records), key=len)

    def column(self, key: str) -> Column:
        """A column of the metrics; shape (runs, epochs)."""
        return np.stack([record.metrics[key][: len(self.epochs)] for record in self.records])

    @property
    def work(self) -> Column:
        """Cumulative inner iterations, forward and adjoint; shape (runs, epochs)."""
        forward, adjoint = (self.column(key) for key in ITERATIONS)
        total: Column = forward + adjoint
        return total

    @property
    def probed(self) -> Column:
        """The epochs before which the schedule of the first run measured gradients; bool, shape
        (epochs,).
        """
        metrics = self.records[0].metrics
        if "probe_solves" not in metrics:
            return np.zeros(len(self.epochs), dtype=bool)
        solves = metrics["probe_solves"][: len(self.epochs)]
        return np.diff(solves, prepend=solves[:1]) > 0

    @property
    def one_level(self) -> bool:
        """Whether adjoint solves are at the level of forward solves throughout."""
        return np.array_equal(self.column("level"), self.column("adjoint_level"))


def empty_figure(height: float) -> Figure:
    """A figure with the common width and a height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height))


def panels(
    title: str, subtitle: str, heights: Sequence[float], height: float, curves: Sequence[Curve]
) -> tuple[Figure, list[Axes]]:
    """An empty figure of panels stacked vertically, `height` inches high, with space for the labels
    of the curves on the right.
    """
    figure = empty_figure(height)
    axes = list(figure.subplots(len(heights), sharex=True, height_ratios=heights))
    top = 1.05 if subtitle else 0.85
    # The longest label: a name, `adjoint (- -)` and a number.
    longest = max(len(curve.label) + (0 if curve.one_level else 14) for curve in curves) + 11
    margin = 0.3 + 0.075 * longest
    figure.subplots_adjust(
        left=0.085,
        right=1 - margin / WIDTH,
        top=1 - top / height,
        bottom=0.55 / height,
        hspace=0.34,
    )
    figure.text(
        0.018, 1 - 0.18 / height, title, fontsize=13, fontweight="bold", color=INK, va="top"
    )
    figure.text(0.018, 1 - 0.45 / height, subtitle, fontsize=LABEL_SIZE + 1, color=INK, va="top")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#999999")
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", labelsize=LABEL_SIZE, colors=INK)
    return figure, axes


def height_for(curves: Sequence[Curve], least: float) -> float:
    """The height of three panels in inches, the smallest a fifth, with space for each label."""
    return max(least, 1.4 + 5 * LABEL_GAP * sum(1 if curve.one_level else 2 for curve in curves))


def epoch_axis(bottom: Axes, curves: Sequence[Curve]) -> None:
    """Label the epochs below the lowest panel."""
    bottom.set_xlabel("Epoch", fontsize=LABEL_SIZE + 1, color=INK)
    last = max(float(curve.epochs[-1]) for curve in curves)
    bottom.set_xlim(0, last if 0 < last < 1 else max(1, last))
    bottom.locator_params(axis="x", integer=last >= 1, nbins=8, min_n_ticks=1)


def error_panel(ax: Axes, curves: Sequence[Curve]) -> bool:
    """Draw the errors on a logarithmic scale; return whether any is above zero. The caller adds the
    labels at the ends afterwards, since its band may change the limits.
    """
    _heading(ax, _error_heading(curves[0].records[0]))
    for curve in curves:
        _lines(ax, curve, positive(curve.column("error")))
    if not _error_ends(curves):
        ax.set_yticks([])
        ax.text(
            0.5,
            0.5,
            "no error above zero yet",
            transform=ax.transAxes,
            ha="center",
            color=INK,
            fontsize=LABEL_SIZE,
        )
        return False
    ax.set_yscale("log")
    return True


def label_errors(ax: Axes, curves: Sequence[Curve]) -> None:
    """Write the last error of each curve beside the panel. Call this after everything that changes
    the limits.
    """
    _end_labels(ax, _error_ends(curves))
    tidy(ax.yaxis)


def level_panel(ax: Axes, curves: Sequence[Curve]) -> None:
    """Draw the forward levels, and the adjoint ones if they differ, and mark the epochs before
    which gradients were measured.
    """
    tolerances = min(curve.column("level").min() for curve in curves) < 1
    heading = (
        "Level: relative tolerance of solves (finer upwards)"
        if tolerances
        else "Level: inner iterations per solve"
    )
    probing = any(curve.probed.any() for curve in curves)
    _heading(ax, f"{heading}; ticks: after a probe" if probing else heading)
    ends = []
    for curve in curves:
        level, adjoint = curve.column("level"), curve.column("adjoint_level")
        _lines(ax, curve, level, step=True)
        probed = curve.probed
        style = {"linestyle": "none", "marker": "|", "markersize": 7, "color": curve.colour}
        ax.plot(curve.epochs[probed], level.mean(axis=0)[probed], **style, clip_on=False)
        end = level.mean(axis=0)[-1]
        if curve.one_level:
            ends.append((end, f"{curve.label}  {end:.3g}".strip(), curve.colour))
            continue
        mean = adjoint.mean(axis=0)
        ax.plot(
            curve.epochs,
            mean,
            color=curve.colour,
            lw=1.2,
            ls=(0, (4, 2)),
            drawstyle="steps-pre",
            clip_on=False,
        )
        ends.append((end, f"{curve.label} forward  {end:.3g}".strip(), curve.colour))
        ends.append(
            (mean[-1], f"{curve.label} adjoint (- -)  {mean[-1]:.3g}".strip(), curve.colour)
        )
    if tolerances:
        ax.set_yscale("log")
        tidy(ax.yaxis)
        ax.invert_yaxis()
    else:
        ax.set_ylim(bottom=0)
        ax.locator_params(axis="y", integer=True, nbins=5)
    _end_labels(ax, ends)


def work_panel(ax: Axes, curves: Sequence[Curve], notes: Sequence[str]) -> None:
    """Draw the cumulative inner iterations, with a note after the label of each curve."""
    _heading(ax, "Cumulative inner iterations, forward and adjoint")
    ends = []
    for curve, note in zip(curves, notes, strict=True):
        _lines(ax, curve, curve.work)
        end = float(curve.work.mean(axis=0)[-1])
        ends.append(
            (end, f"{curve.label}  {_thousands(0 if end < 1000 else 1)(end)}{note}", curve.colour)
        )
    ax.set_ylim(bottom=0)
    ax.locator_params(axis="y", nbins=5)
    ax.yaxis.set_major_formatter(_thousands())
    _end_labels(ax, ends)


def positive(values: Column) -> Column:
    """Values with NaN for those that a logarithmic axis cannot show: zero, and infinities of
    diverged runs.
    """
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def same_task(records: Sequence[RunRecord]) -> None:
    """Raise `ReportError` for a mixture of inverse problems and networks."""
    other = next((record for record in records if record.inverse != records[0].inverse), None)
    if other is not None:
        raise ReportError(
            f"{records[0].path} and {other.path}: one is an inverse problem, the other trains a "
            "network, and their errors cannot be compared; plot them separately"
        )


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure to the PNG file `path`."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", facecolor="white")


def _heading(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=LABEL_SIZE + 1, color=INK, pad=7, x=0.0)


def _error_heading(record: RunRecord) -> str:
    if record.inverse:
        return "Relative error of the parameters"
    if "misfit" in record.metrics:
        return "Misfit of the held-out experiments, in standard deviations of the noise"
    for key, column in record.metrics.items():
        step = key.removeprefix("error_")
        if step.isdigit() and np.array_equal(column, record.metrics["error"], equal_nan=True):
            return (
                f"Validation error after {step} step{'s' if step != '1' else ''} (normalised MSE)"
            )
    return "Validation error (normalised MSE)"


def _error_ends(curves: Sequence[Curve]) -> list[tuple[float, str, str]]:
    ends = []
    for curve in curves:
        errors = positive(curve.column("error")).mean(axis=0)
        finite = np.flatnonzero(np.isfinite(errors))
        if finite.size:
            last = float(errors[finite[-1]])
            ends.append((last, f"{curve.label}  {last:.2e}".strip(), curve.colour))
    return ends


def _lines(ax: Axes, curve: Curve, values: Column, step: bool = False) -> None:
    """Draw the mean and the band of values over the runs; `values` of shape (runs, epochs)."""
    mean = values.mean(axis=0)
    if len(values) > 1:
        band = {"step": "pre"} if step else {}
        low, high = values.min(axis=0), values.max(axis=0)
        ax.fill_between(curve.epochs, low, high, color=curve.colour, alpha=0.2, linewidth=0, **band)
    # A single point has no visible line. Without clipping, a line along the edge of the axes keeps
    # its width.
    marker = "o" if np.isfinite(mean).sum() < 2 else None
    style: dict[str, Any] = {
        "color": curve.colour,
        "linestyle": curve.dash,
        "linewidth": curve.width,
    }
    style["drawstyle"] = "steps-pre" if step else "default"
    ax.plot(
        curve.epochs,
        mean,
        **style,
        marker=marker,
        markersize=5,
        clip_on=False,
        solid_capstyle="butt",
    )


def _end_labels(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each (value, text, colour) to the right of the axes at the height of its value, shifted
    where labels would overlap.
    """
    gap = LABEL_GAP * ax.figure.dpi / ax.get_window_extent().height
    pixels = ax.transData.transform([(0.0, value) for value, _, _ in ends])
    heights = ax.transAxes.inverted().transform(pixels)[:, 1]
    for height, (_, text, colour) in zip(spread(heights, gap), ends, strict=True):
        ax.text(
            1.015,
            height,
            text,
            transform=ax.transAxes,
            color=colour,
            fontsize=LABEL_SIZE,
            va="center",
        )


def spread(positions: Sequence[float] | Column, gap: float) -> list[float]:
    """Shift positions by as little as possible (least squares), so that they are at least `gap`
    apart in the same order.

    They stay between 0 and 1 if there is enough space. After `gap` times the index is subtracted,
    the condition is monotonicity, for which pooling neighbours is optimal.
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


def _thousands(places: int | None = None) -> EngFormatter:
    """Numbers like 270k, with a given number of decimals, or as many as needed."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(places=places, sep="")
