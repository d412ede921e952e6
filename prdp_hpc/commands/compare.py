"""`prdp-hpc compare`: compare PRDP with full refinement, constant levels and other solvers, over
several seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prdp_hpc.commands.comparison_runs import chosen_run, runs_of, train_all
from prdp_hpc.commands.run import fields_figure_of, remove
from prdp_hpc.config import ExperimentConfig, load_config
from prdp_hpc.config.components import resolve
from prdp_hpc.config.variants import variants
from prdp_hpc.console import show
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.run import process_mesh, run_folder, run_lock
from prdp_hpc.files import to_json, write_json
from prdp_hpc.locks import locked
from prdp_hpc.report import (
    ComparisonRecord,
    compare_runs,
    comparison_table,
    has_fields,
    has_inversion_metrics,
    has_sample,
    inversion_table,
    load_comparison,
    load_run,
    load_sample,
    plot_comparison,
    plot_inversion,
    plot_variants,
    seed_folders,
)


def compare(arguments: argparse.Namespace) -> None:
    """Train each variant from the same seeds on the same data; print the table, draw the figure."""
    config = load_config(arguments.config, arguments.overrides)
    mesh = process_mesh(config)
    folder = run_folder(config).with_name(f"{config.name}-compare")
    if arguments.overwrite:
        with run_lock(mesh, folder):
            remove(mesh, folder)
    # Several jobs may train the runs of one comparison, but none may remove it meanwhile.
    with run_lock(mesh, folder, shared=True):
        figure = folder / "figures" / "comparison.png"
        if arguments.only is not None:
            run = chosen_run(runs_of(config, folder), arguments.only)
            train_all([run], mesh, arguments.resume)
        else:
            compare_variants(config, mesh, folder, figure, arguments.resume)
    if mesh.is_root and arguments.only is None:
        _show(folder, figure)
    mesh.close()


def _show(folder: Path, figure: Path) -> None:
    places = f"run folders: {folder}\nfigure:      {figure}"
    if fields_figure_of(folder).is_file():
        places += f"\nfields:      {fields_figure_of(folder)}"
    show(table_of(load_comparison(folder)), places)


def compare_variants(
    config: ExperimentConfig, mesh: ProcessMesh, folder: Path, figure: Path, resume: bool
) -> dict[str, Any]:
    """Train the missing variants, write `comparison.json` and draw the figure. Collective.

    Returns the content of `comparison.json` on rank 0 and an empty dictionary on other ranks.

    With `resume`, several jobs may do this at the same time, see `comparison_runs.train_all`; the
    first that finds all runs finished writes the comparison.
    """
    train_all(runs_of(config, folder), mesh, resume, config.comparison.in_turns)
    place = folder / "comparison.json"
    with locked(mesh.world, place, "wait until it ends", wait=True):
        names = list(variants(config))
        return on_root(mesh.world, lambda: _report(config, names, folder, figure)) or {}


def table_of(comparison: ComparisonRecord) -> str:
    """The table of a finished comparison, in the form for its metrics."""
    assert comparison.content is not None
    if has_inversion_metrics(comparison.variants):
        return inversion_table(comparison.content, comparison.variants)
    return comparison_table(comparison.content)


def draw_fields(comparison: ComparisonRecord, title: str) -> None:
    """Draw the fields that the runs of the first seed have found or predict, if there are any."""
    first = {name: runs[0] for name, runs in comparison.variants.items() if runs}
    samples = {name: run.path for name, run in first.items() if has_sample(run.path)}
    if {"prdp", "full"} <= set(samples):
        series = {name: load_sample(path) for name, path in samples.items()}
        plot_variants(series, fields_figure_of(comparison.path), title)
    if all(has_fields(first[name].path) for name in ("prdp", "full")):
        plot_inversion(first, fields_figure_of(comparison.path), title)


def _report(
    config: ExperimentConfig, names: list[str], folder: Path, figure: Path
) -> dict[str, Any]:
    folders = seed_folders(folder, config.seeds)
    runs = {name: tuple(load_run(seed_folder / name) for seed_folder in folders) for name in names}
    targets = {
        name: section.model_dump(exclude_none=True)
        for name, section in config.comparison.targets.items()
    }
    schedules = config.comparison.further_schedules
    content = compare_runs(config.name, config.seeds, runs, targets, schedules)
    path = folder / "comparison.json"
    if figure.is_file() and _has_content(path, content):
        return content
    write_json(path, content)
    record = ComparisonRecord(folder, config.name, runs, content)
    plot_comparison(record, figure, _title(config))
    draw_fields(record, _title(config))
    return content


def _has_content(path: Path, content: dict[str, Any]) -> bool:
    """Whether a JSON file exists with this content."""
    return path.is_file() and path.read_text(encoding="utf-8").rstrip() == to_json(content, 2)


def _title(config: ExperimentConfig) -> str:
    points = " × ".join(str(n) for n in config.grid.shape)
    method = f"{config.solver.ksp} with {config.solver.pc}"
    seeds = f"seed {config.seed}" if len(config.seeds) == 1 else f"{len(config.seeds)} seeds"
    pde = resolve("physics", config.physics.pde, Path()).label
    return f"{config.name}: {pde} on {points} points, {method}, {seeds}"
