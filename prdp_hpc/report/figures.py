"""Figures of runs, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prdp_hpc.report.panels import (
    COLOURS,
    Curve,
    epoch_axis,
    error_panel,
    height_for,
    label_errors,
    level_panel,
    panels,
    same_task,
    save,
    work_panel,
)
from prdp_hpc.report.runs import ReportError, RunRecord

DASHES = (("-", ""), ("--", " (dashed)"), (":", " (dotted)"))
LONGEST_NAME = 22


def plot_run(record: RunRecord, path: str | Path) -> None:
    """Draw one run to the PNG file `path`: the error on a logarithmic scale and the level, over
    epochs.

    The level of an epoch is the one at which it was trained, so that of epoch 5 is drawn from 4
    to 5.
    """
    curves = [Curve((record,), "", COLOURS[0])]
    figure, (error, level) = panels(record.name, "", (2.0, 1.0), 5.2, curves)
    if error_panel(error, curves):
        label_errors(error, curves)
    level_panel(level, curves)
    epoch_axis(level, curves)
    save(figure, path)


def plot_runs(records: Sequence[RunRecord], path: str | Path) -> None:
    """Draw several runs in one figure to the PNG file `path`: error, level and inner iterations,
    over epochs.

    Raises `ReportError` if no run is given, or if runs of inverse problems and of networks are
    mixed, whose errors cannot be compared.
    """
    if not records:
        raise ReportError("no run to plot: give at least one run folder, e.g. runs/heat_2d")
    same_task(records)
    curves = []
    for index, (record, label) in enumerate(zip(records, _labels(records), strict=True)):
        dash, output = DASHES[index // len(COLOURS) % len(DASHES)]
        curves.append(
            Curve((record,), _shorten(label) + output, COLOURS[index % len(COLOURS)], dash=dash)
        )
    title = f"{len(records)} runs" if len(records) > 1 else records[0].name
    figure, (error, level, work) = panels(
        title, "", (2.0, 1.2, 1.2), height_for(curves, 7.2), curves
    )
    if error_panel(error, curves):
        label_errors(error, curves)
    level_panel(level, curves)
    work_panel(work, curves, [""] * len(curves))
    epoch_axis(work, curves)
    save(figure, path)


def _labels(records: Sequence[RunRecord]) -> list[str]:
    names = [record.name for record in records]
    if len(set(names)) == len(names):
        return names
    return [str(record.path) for record in records]


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
