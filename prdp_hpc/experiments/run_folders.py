"""The run folders that a user's choice stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prdp_hpc.errors import InputError
from prdp_hpc.report import is_comparison

VARIANT = "prdp"
"""The variant of a comparison whose seeds are an ensemble."""

ENSEMBLE = "ensemble"
"""The folder in the first of several run folders for their common results."""


def member_folders(folder: str | Path | Sequence[str | Path]) -> tuple[Path, list[Path]]:
    """The folder for the results, and the run folders: one run, several runs, or the runs of the
    variant `prdp` over the seeds of a comparison.
    """
    given = [folder] if isinstance(folder, str | Path) else list(folder)
    if not given:
        raise InputError("folder: give at least one run folder, e.g. runs/heat_2d")
    paths = [Path(one) for one in given]
    if len(paths) > 1:
        return paths[0] / ENSEMBLE, paths
    if not paths[0].is_dir() or not is_comparison(paths[0]):
        return paths[0], paths
    root = paths[0]
    seeds = sorted(root.glob(f"seed_*/{VARIANT}"), key=_seed) or [root / VARIANT]
    return root, seeds


def _seed(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("seed_")
    return (int(number), "") if number.isdigit() else (0, number)
