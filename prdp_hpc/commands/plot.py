"""`prdp-hpc plot`: draw figures and print tables of runs, from their files only."""

from __future__ import annotations

import argparse
from pathlib import Path

from prdp_hpc.commands.compare import draw_fields, table_of
from prdp_hpc.commands.run import draw, fields_figure_of
from prdp_hpc.console import show
from prdp_hpc.report import (
    is_comparison,
    load_comparison,
    load_run,
    plot_comparison,
    plot_runs,
    run_table,
)


def plot(arguments: argparse.Namespace) -> None:
    """Draw the figure of one run, of several runs, or of a comparison, and print its table."""
    folders = [Path(run) for run in arguments.runs]
    if len(folders) == 1 and is_comparison(folders[0]):
        _plot_comparison(folders[0], arguments.out)
        return
    records = [load_run(folder) for folder in folders]
    places = []
    if len(records) == 1:
        figure = Path(arguments.out or folders[0] / "figures" / "error_and_level.png")
        draw(folders[0], figure)
        places = _fields(folders[0])
    else:
        figure = Path(arguments.out or "runs.png")
        plot_runs(records, figure)
    show(run_table(records), "\n".join([f"figure: {figure}", *places]))


def _fields(folder: Path) -> list[str]:
    """The line about the figure of fields, which not every task has."""
    figure = fields_figure_of(folder)
    return [f"fields: {figure}"] if figure.exists() else []


def _plot_comparison(folder: Path, out: str | None) -> None:
    comparison = load_comparison(folder)
    figure = Path(out or folder / "figures" / "comparison.png")
    plot_comparison(comparison, figure, comparison.name)
    draw_fields(comparison, comparison.name)
    table = [] if comparison.content is None else [table_of(comparison)]
    show(*table, "\n".join([f"figure: {figure}", *_fields(folder)]))
