"""`prdp-hpc generate`: generate trajectories for an emulator or a corrector."""

from __future__ import annotations

import argparse
from pathlib import Path

from prdp_hpc.config import ConfigError, SupervisedConfig, load_config
from prdp_hpc.console import show
from prdp_hpc.experiments.build import build_grid, process_mesh
from prdp_hpc.generation.generate import generate as make
from prdp_hpc.generation.generate import generated_path


def generate(arguments: argparse.Namespace) -> None:
    """Compute the trajectories of a config and write them; the replicas divide the samples."""
    config = load_config(arguments.config, arguments.overrides)
    if not isinstance(config, SupervisedConfig):
        raise ConfigError(
            f"{arguments.config}: an inverse problem is not trained on trajectories, so there is "
            "nothing to generate"
        )
    if config.data.file is not None and not arguments.out:
        raise ConfigError(
            f"{arguments.config}: data.file: runs read {config.data.file!r}, so they would not "
            "find what is generated elsewhere; give --out FILE, or leave data.file out"
        )
    path = Path(arguments.out) if arguments.out else generated_path(config)
    mesh = process_mesh(config)
    make(config, build_grid(config, mesh), path, mesh)
    if mesh.is_root:
        data = config.data
        counts = {"training": data.train, "validation": data.validation, "test": data.test}
        given = [f"{count} {name}" for name, count in counts.items() if count]
        show(f"{', '.join(given[:-1])} and {given[-1]} trajectories: {path}")
    mesh.close()
