"""`prdp-hpc compare`: compare PRDP with full refinement, constant levels and other solvers, over
several seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prdp_hpc.commands.run import fields_figure_of, figure_of, remove, train_and_plot
from prdp_hpc.config import ExperimentConfig, components, load_config
from prdp_hpc.config.slots import Imports
from prdp_hpc.config.variants import variants
from prdp_hpc.console import show
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import PrdpError
from prdp_hpc.experiments.run import process_mesh, run_folder, run_lock
from prdp_hpc.experiments.training import planned
from prdp_hpc.files import write_json
from prdp_hpc.report import (
    ComparisonRecord,
    compare_runs,
    comparison_table,
    has_fields,
    inversion_table,
    load_comparison,
    load_run,
    plot_comparison,
    plot_inversion,
    seed_folders,
)

_WITHOUT_EFFECT = {"name", "output", "parallel", "comparison", "tracking", "logging"}
"""Keys of the config that have no effect on the numerical results of a run."""


def compare(arguments: argparse.Namespace) -> None:
    """Train each variant from the same seeds on the same data; print the table, draw the figure."""
    config = load_config(arguments.config, arguments.overrides)
    mesh = process_mesh(config)
    folder = run_folder(config).with_name(f"{config.name}-compare")
    with run_lock(mesh, folder):
        if arguments.overwrite:
            remove(mesh, folder)
        compare_variants(
            config, mesh, folder, folder / "figures" / "comparison.png", arguments.resume
        )
    if mesh.is_root:
        places = f"run folders: {folder}\nfigure:      {folder / 'figures' / 'comparison.png'}"
        if fields_figure_of(folder).is_file():
            places += f"\nfields:      {fields_figure_of(folder)}"
        show(table_of(load_comparison(folder)), places)
    mesh.close()


def compare_variants(
    config: ExperimentConfig, mesh: ProcessMesh, folder: Path, figure: Path, resume: bool
) -> dict[str, Any]:
    """Train the missing variants, write `comparison.json` and draw the figure. Collective.

    Returns the content of `comparison.json` on rank 0 and an empty dictionary on other ranks.

    With `resume`, finished runs of the same config are kept and others continue from their
    checkpoints. The variants of one seed run one after another, and their order is rotated by one
    with each seed, so that other load on the machine affects all variants equally.
    """
    configs = variants(config)
    folders = seed_folders(folder, config.seeds)
    for turn, (seed, seed_folder) in enumerate(zip(config.seeds, folders, strict=True)):
        names = list(configs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run_config = configs[name].model_copy(
                update={"seed": seed, "name": f"{config.name}-{name}"}
            )
            _train(run_config, mesh, seed_folder / name, resume)
    return call_together(
        mesh.world, lambda: _report(config, list(configs), folder, figure) if mesh.is_root else {}
    )


def _train(config: ExperimentConfig, mesh: ProcessMesh, folder: Path, resume: bool) -> None:
    if not (resume and mesh.world.bcast(_has_finished(config, folder) if mesh.is_root else None)):
        train_and_plot(config, mesh, folder, resume)


def _has_finished(config: ExperimentConfig, folder: Path) -> bool:
    """Whether `folder` has a finished run of the same config. Only the components of this config
    are imported, not those that the config in the folder names.
    """
    own = Imports(tuple(component.name for component in components(config).values()))
    try:
        run, before = load_run(folder), load_config(folder / "config.yaml", imports=own)
    except PrdpError:
        return False
    if run.summary is None or not figure_of(folder).exists():
        return False
    # The summary may be from an earlier run of fewer epochs, since the config is written first.
    finished = run.summary.get("planned", f"{run.summary['epochs']} epochs")
    return finished == planned(config) and _decisive(before) == _decisive(config)


def _decisive(config: ExperimentConfig) -> dict[str, Any]:
    """The keys of a config that affect the numerical results."""
    return config.model_dump(mode="json", exclude=_WITHOUT_EFFECT)


def table_of(comparison: ComparisonRecord) -> str:
    """The table of a finished comparison, in the form for its task."""
    assert comparison.content is not None
    if comparison.content["task"] == "field_inversion":
        return inversion_table(comparison.content, comparison.variants)
    return comparison_table(comparison.content)


def draw_fields(comparison: ComparisonRecord, title: str) -> None:
    """Draw the fields that the runs of the first seed have found, if the task finds fields."""
    first = {name: runs[0] for name, runs in comparison.variants.items() if runs}
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
    write_json(folder / "comparison.json", content)
    record = ComparisonRecord(folder, config.name, runs, content)
    plot_comparison(record, figure, _title(config))
    draw_fields(record, _title(config))
    return content


def _title(config: ExperimentConfig) -> str:
    points = " × ".join(str(n) for n in config.grid.shape)
    method = f"{config.solver.ksp} with {config.solver.pc}"
    seeds = f"seed {config.seed}" if len(config.seeds) == 1 else f"{len(config.seeds)} seeds"
    pde = components(config)["physics.pde"].label
    return f"{config.name}: {pde} on {points} points, {method}, {seeds}"
