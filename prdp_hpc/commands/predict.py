"""`prdp-hpc predict`: write the states that trained networks predict, for ParaView and others."""

from __future__ import annotations

import argparse
from pathlib import Path

from mpi4py import MPI

from prdp_hpc.console import show
from prdp_hpc.distributed.collective import on_root
from prdp_hpc.experiments.prediction import predict as write_prediction
from prdp_hpc.files import write_json
from prdp_hpc.report.step_errors import step_table


def predict(arguments: argparse.Namespace) -> None:
    """Predict, write HDF5, XDMF and the errors as JSON, and print the errors by step."""
    world = MPI.COMM_WORLD
    found = write_prediction(
        arguments.runs,
        arguments.steps,
        data=arguments.data,
        group=arguments.group,
        samples=arguments.samples,
        out=arguments.out,
        checkpoint=arguments.checkpoint,
        components=arguments.component,
    )
    file = Path(found["file"])
    errors = file.with_name(f"{file.stem}_errors.json")
    on_root(world, lambda: write_json(errors, found))
    if world.rank == 0:
        count, steps = len(found["samples"]), found["steps"]
        what = f"{count} sample{'s' if count != 1 else ''}"
        what += f", {steps} time step{'s' if steps != 1 else ''}" if steps else ""
        first, *others = found["xdmf"]
        paraview = f"{first} and {len(others)} more" if others else first
        show(
            f"{', '.join(arguments.runs)}: {what}\n{step_table(found)}",
            f"data:     {file}\nParaView: {paraview}\nerrors:   {errors}",
        )
