"""`prdp-hpc compare`: PRDP against full refinement."""

from __future__ import annotations

import argparse
from pathlib import Path

from prdp_hpc.commands.run import remove, train_and_plot
from prdp_hpc.config import ExperimentConfig, load_config
from prdp_hpc.files import write_json
from prdp_hpc.learning.experiment import process_mesh, run_folder
from prdp_hpc.report import compare_summaries, comparison_table, load_run, plot_comparison

SCHEDULES = {"prdp": "prdp", "full": "constant"}


def compare(arguments: argparse.Namespace) -> None:
    """Train twice from the same seeds on the same data; print the table and draw the figure."""
    config = load_config(arguments.config, arguments.overrides)
    mesh = process_mesh(config)
    folder = run_folder(config).with_name(f"{config.name}-compare")
    if arguments.overwrite:
        remove(mesh, folder)
    summaries = {
        name: train_and_plot(_with_schedule(config, schedule, name), mesh, folder / name, arguments.resume)
        for name, schedule in SCHEDULES.items()
    }
    if mesh.is_root:
        comparison = compare_summaries(config.name, summaries["prdp"], summaries["full"])
        write_json(folder / "comparison.json", comparison)
        figure = folder / "figures" / "comparison.png"
        plot_comparison(load_run(folder / "prdp"), load_run(folder / "full"), figure, _title(config, folder))
        print(f"\n{comparison_table(comparison)}\n\nrun folders: {folder}\nfigure:      {figure}")
    mesh.close()


def _with_schedule(config: ExperimentConfig, schedule: str, name: str) -> ExperimentConfig:
    refinement = config.refinement.model_copy(update={"schedule": schedule})
    return config.model_copy(update={"refinement": refinement, "name": f"{config.name}-{name}"})


def _title(config: ExperimentConfig, folder: Path) -> str:
    points = " × ".join(str(n) for n in config.grid.shape)
    method = f"{config.solver.ksp} with {config.solver.pc}"
    return f"{config.name}: {config.physics.pde} on {points} points, {method}, seed {config.seed}"
