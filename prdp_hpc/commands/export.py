"""`prdp-hpc export`: write a trained network for programs without prdp-hpc."""

from __future__ import annotations

import argparse

from prdp_hpc.console import show
from prdp_hpc.experiments.export import export as write_network


def export(arguments: argparse.Namespace) -> None:
    """Export the network and print what the file contains."""
    found = write_network(
        arguments.run,
        arguments.format,
        arguments.out,
        checkpoint=arguments.checkpoint,
        components=arguments.component,
    )
    lines = [
        f"file:      {found['file']}",
        f"maps:      {found['maps']}",
        f"precision: {found['precision']}",
    ]
    if found["checked"] is not None:
        lines.append(
            f"checked:   its output differs from the network's by {found['checked']:.1e} of the "
            "largest one"
        )
    show("\n".join(lines))
