"""`prdp-hpc plot`: figures and tables of runs, from their files alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from prdp_hpc.report import (
    comparison_table,
    is_comparison,
    load_comparison,
    load_run,
    plot_comparison,
    plot_run,
    plot_runs,
    run_table,
)


def plot(arguments: argparse.Namespace) -> None:
    """One run: its figure. Several: one figure of all. A comparison's folder: its figure and
    table.
    """
    folders = [Path(run) for run in arguments.runs]
    if len(folders) == 1 and is_comparison(folders[0]):
        _plot_comparison(folders[0], arguments.out)
        return
    records = [load_run(folder) for folder in folders]
    if len(records) == 1:
        figure = Path(arguments.out or folders[0] / "figures" / "error_and_level.png")
        plot_run(records[0], figure)
    else:
        figure = Path(arguments.out or "runs.png")
        plot_runs(records, figure)
    print(f"{run_table(records)}\n\nfigure: {figure}")


def _plot_comparison(folder: Path, out: str | None) -> None:
    comparison = load_comparison(folder)
    figure = Path(out or folder / "figures" / "comparison.png")
    plot_comparison(comparison, figure, comparison.name)
    if comparison.content is not None:
        print(comparison_table(comparison.content))
    print(f"\nfigure: {figure}")
