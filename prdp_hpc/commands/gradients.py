"""`prdp-hpc gradients`: measure the error of implicit and unrolled gradients against K."""

from __future__ import annotations

import argparse
from pathlib import Path

from prdp_hpc.commands.provenance import provenance
from prdp_hpc.config import load_config
from prdp_hpc.console import show
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.experiments.gradients import gradient_errors
from prdp_hpc.experiments.run import process_mesh
from prdp_hpc.files import write_json
from prdp_hpc.report import gradients_table, plot_gradients


def gradients(arguments: argparse.Namespace) -> None:
    """Compute the errors, write them to `gradients.json`, print the table and draw the figure."""
    config = load_config(arguments.config, arguments.overrides)
    mesh = process_mesh(config)
    content = {"name": config.name, **gradient_errors(config, mesh), **provenance(arguments.line)}
    folder = Path(config.output) / f"{config.name}-gradients"
    figure = Path(arguments.out or folder / "figures" / "gradients.png")

    def write() -> None:
        write_json(folder / "gradients.json", content)
        plot_gradients(content, figure)

    on_root(mesh.world, write)
    if mesh.is_root:
        show(
            gradients_table(content),
            f"results: {folder / 'gradients.json'}\nfigure:  {figure}",
        )
    mesh.close()
