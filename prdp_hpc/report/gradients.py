"""Table and figure of the error of gradients against the iterations of a solve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prdp_hpc.console import Report, Table
from prdp_hpc.report.panels import COLOURS, GRID, INK, LABEL_SIZE, empty_figure, positive, save

ROWS = 12


def gradients_table(content: Mapping[str, Any]) -> Report:
    """The content of `gradients.json` as text, with about a dozen of its levels."""
    levels, errors = content["levels"], content["errors"]
    chosen = sorted(
        {round(index) for index in np.linspace(0, len(levels) - 1, min(ROWS, len(levels)))}
    )
    rows = [
        [str(levels[index]), *(f"{column[index]:.2e}" for column in errors.values())]
        for index in chosen
    ]
    table = Table([["K", *errors], *rows], ">" * (1 + len(errors)))
    return Report([f"{_title(content)}: relative error of the gradient", table])


def plot_gradients(content: Mapping[str, Any], path: str | Path) -> None:
    """Draw the errors against K on a logarithmic scale to the PNG file `path`, with one line per
    kind of differentiation.
    """
    figure = empty_figure(4.2)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.1, right=0.97, top=0.84, bottom=0.13)
    figure.text(0.018, 0.96, _title(content), fontsize=13, fontweight="bold", color=INK, va="top")
    axes.set_title("Relative error of the gradient", loc="left", fontsize=LABEL_SIZE + 1, color=INK)
    styles = zip(content["errors"].items(), COLOURS, ("-", "--"), strict=False)
    for (name, column), colour, dash in styles:
        values = positive(np.asarray(column, dtype=float))
        style = {
            "color": colour,
            "linestyle": dash,
            "linewidth": 1.5,
            "marker": "o",
            "markersize": 3.2,
        }
        axes.plot(content["levels"], values, label=name, **style)
    axes.set_yscale("log")
    # Files of earlier versions do not have this key.
    counted = content.get("counted", "inner iterations")
    axes.set_xlabel(f"K: {counted} per solve", fontsize=LABEL_SIZE + 1, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(which="both", labelsize=LABEL_SIZE, colors=INK)
    axes.legend(frameon=False, fontsize=LABEL_SIZE, labelcolor=INK)
    save(figure, path)


def _title(content: Mapping[str, Any]) -> str:
    return f"{content['name']} ({content['ksp']}, {content['pc']})"
