"""`prdp-hpc evaluate`: compute the validation errors of a trained network, e.g. on other data."""

from __future__ import annotations

import argparse
from numbers import Real
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.console import show
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.experiments.evaluation import evaluate as errors_of
from prdp_hpc.files import write_json

_PLACE = ("epoch", "step", "data")
"""Entries of the result that are not errors."""


def evaluate(arguments: argparse.Namespace) -> None:
    """Validate the network of a run's checkpoint on the group `validation` of a data file and
    print the errors.
    """
    world = MPI.COMM_WORLD
    found = errors_of(
        arguments.run, arguments.data, arguments.component, checkpoint=arguments.checkpoint
    )
    errors = {name: error for name, error in found.items() if name not in _PLACE}
    if world.rank == 0:
        width = max(map(len, errors))
        lines = [f"  {name:<{width}}  {_shown(error)}" for name, error in errors.items()]
        step = f", step {found['step']}" if found["step"] else ""
        where = f"{arguments.run}, epoch {found['epoch']}{step}, on {found['data']}"
        show("\n".join([where, *lines]))
    content = {"run": str(arguments.run), **found}
    if arguments.out:
        on_root(world, lambda: write_json(Path(arguments.out), content))


def _shown(value: Any) -> str:
    """A number as an error; other values, which a user's task may return, as text."""
    return f"{value:.4e}" if isinstance(value, Real) else str(value)
