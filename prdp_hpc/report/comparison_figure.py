"""The figure of a comparison, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prdp_hpc.report.comparisons import ComparisonRecord
from prdp_hpc.report.panels import (
    COLOURS,
    LABEL_SIZE,
    Curve,
    epoch_axis,
    error_panel,
    height_for,
    label_errors,
    level_panel,
    panels,
    positive,
    same_task,
    save,
    work_panel,
)
from prdp_hpc.report.statistics import EQUAL_WITHIN
from prdp_hpc.report.tables import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND = "#DDDDDD"
SCHEDULES = ("gradient",)
"""Further variants with the same solver as PRDP and full refinement."""


def plot_comparison(comparison: ComparisonRecord, path: str | Path, title: str) -> None:
    """Draw a comparison, finished or not, to the PNG file `path`: the mean and the range over the
    seeds of each variant.

    The three panels over epochs are: the error on a logarithmic scale, with a band within 10 % of
    the last error of full refinement; the level; and the cumulative inner iterations, with the
    fraction that PRDP has saved up to the last epoch that both have finished. Constant levels have
    thin lines. Baselines have no line in the panel of levels, because their solver is another one.
    """
    same_task([record for records in comparison.variants.values() for record in records])
    # PRDP is drawn last with a narrow line, so that a wide line below it with equal errors remains
    # visible.
    prdp, full = _prdp_and_full(comparison)
    constants, others = _constants(comparison), _others(comparison)
    schedules = [curve for name, curve in others.items() if name in SCHEDULES]
    curves = [*constants, *others.values(), full, prdp]
    saved, subtitle = _outcome(prdp, full)
    figure, (error, level, work) = panels(
        title, subtitle, (2.0, 1.2, 1.2), height_for(curves, 7.4), curves
    )
    if error_panel(error, curves):
        _band(error, full)
        label_errors(error, curves)
    iterations = prdp.column("level").min() >= 1
    of_one_kind = [
        curve
        for curve in (*constants, full, *schedules, prdp)
        if (curve.column("level").min() >= 1) == iterations
    ]
    level_panel(level, of_one_kind)
    work_panel(work, curves, [*[""] * (len(curves) - 1), f"  ({saved})" if saved else ""])
    epoch_axis(work, curves)
    save(figure, path)


def _prdp_and_full(comparison: ComparisonRecord) -> tuple[Curve, Curve]:
    prdp, full = comparison.variants["prdp"], comparison.variants["full"]
    return Curve(prdp, "PRDP", COLOURS[0], width=1.5), Curve(
        full, "Full refinement", COLOURS[1], width=3.2
    )


def _constants(comparison: ComparisonRecord) -> list[Curve]:
    """Thin grey lines, darker from coarse to fine."""
    names = [
        name
        for name in comparison.variants
        if name.startswith("constant_") and comparison.variants[name]
    ]
    shades = np.linspace(0.55, 0.25, len(names))
    return [
        Curve(
            comparison.variants[name],
            name.replace("_", " "),
            str(round(float(shade), 2)),
            width=0.9,
        )
        for name, shade in zip(names, shades, strict=True)
    ]


def _others(comparison: ComparisonRecord) -> dict[str, Curve]:
    """Further schedules and baselines."""
    names = [
        name
        for name in comparison.variants
        if name not in ("prdp", "full") and not name.startswith("constant_")
    ]
    found = [(name, comparison.variants[name]) for name in names if comparison.variants[name]]
    colours = [COLOURS[2 + index % (len(COLOURS) - 2)] for index in range(len(found))]
    return {
        name: Curve(runs, label(name), colour)
        for (name, runs), colour in zip(found, colours, strict=True)
    }


def _band(ax: Axes, full: Curve) -> None:
    errors = positive(full.column("error")).mean(axis=0)
    finite = errors[np.isfinite(errors)]
    if not finite.size:
        return
    low, high = finite[-1] * (1 - EQUAL_WITHIN), finite[-1] * (1 + EQUAL_WITHIN)
    ax.axhspan(low, high, color=BAND, linewidth=0)
    # The text is below the band, where only curves better than full refinement can be.
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


def _outcome(prdp: Curve, full: Curve) -> tuple[str, str]:
    """The savings of PRDP at the last epoch that both have finished, as a note and a sentence."""
    common = np.intersect1d(prdp.epochs, full.epochs)
    if not common.size:
        return "", ""
    ours, theirs = (np.flatnonzero(curve.epochs == common[-1])[0] for curve in (prdp, full))
    work, full_work = prdp.work.mean(axis=0)[ours], full.work.mean(axis=0)[theirs]
    error, full_error = (
        prdp.column("error").mean(axis=0)[ours],
        full.column("error").mean(axis=0)[theirs],
    )
    if full_work <= 0:
        return "", ""
    fraction = abs(1 - work / full_work) * 100
    sentence = (
        f"After {common[-1]:g} epochs: {fraction:.0f} % {'fewer' if work <= full_work else 'more'} "
        "inner iterations"
    )
    if full_error > 0 and np.isfinite(error / full_error):
        sentence += f", {error / full_error:.3g} times full refinement's error"
    if len(prdp.records) > 1:
        sentence += f" (means of {len(prdp.records)} seeds)"
    return f"{fraction:.0f} % {'saved' if work <= full_work else 'more'}", sentence
