"""`prdp-hpc show`: figures and films of predicted and true fields."""

from __future__ import annotations

import argparse
from pathlib import Path

from mpi4py import MPI

from prdp_hpc.console import show as print_lines
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.experiments.showing import sample_series
from prdp_hpc.report.field_figure import plot_fields
from prdp_hpc.report.field_series import FieldSeries
from prdp_hpc.report.film import check_format, write_film
from prdp_hpc.report.spectra_figure import plot_spectra


def show(arguments: argparse.Namespace) -> None:
    """Predict one sample and draw it on rank 0."""
    world = MPI.COMM_WORLD
    call_together(world, lambda: check_format(arguments.format))
    where, series = sample_series(
        arguments.runs,
        arguments.sample,
        arguments.steps,
        arguments.data,
        arguments.group,
        arguments.checkpoint,
        arguments.component,
    )
    folder = Path(arguments.out) if arguments.out else where / "figures"
    stem = f"{arguments.group}_{arguments.sample}"

    def draw() -> list[str]:
        return [] if series is None else _draw(series, folder, stem, arguments.format)

    lines = call_together(world, draw)
    if world.rank == 0:
        print_lines("\n".join(lines))


def _draw(series: FieldSeries, folder: Path, stem: str, kind: str) -> list[str]:
    fields, spectra = folder / f"{stem}_fields.png", folder / f"{stem}_spectra.png"
    plot_fields(series, fields)
    plot_spectra(series, spectra)
    lines = [f"fields:  {fields}", f"spectra: {spectra}"]
    if kind != "png":
        film = folder / f"{stem}.{kind}"
        write_film(series, film)
        lines.append(f"film:    {film}")
    return lines
