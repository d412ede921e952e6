"""The options of the commands that use trained runs: `predict`, `show` and `export`."""

from __future__ import annotations

import argparse
from typing import Any

from prdp_hpc.commands.parser import add_component


def predict_command(commands: Any) -> None:
    """Add the command `predict`."""
    predict = commands.add_parser(
        "predict",
        help="predict with trained networks; write HDF5, and XDMF files for ParaView",
    )
    _add_runs(predict)
    predict.add_argument(
        "--samples",
        type=numbers,
        metavar="I,J-K",
        help="numbers of the samples, e.g. 0,3,5-7 (default: all)",
    )
    predict.add_argument(
        "--out",
        metavar="FILE",
        help="HDF5 file to write (default: prediction/GROUP.h5 in the folder of the run)",
    )


def show_command(commands: Any) -> None:
    """Add the command `show`."""
    show = commands.add_parser(
        "show", help="draw predicted and true fields, their spectra, and the error by step"
    )
    _add_runs(show)
    show.add_argument(
        "--sample", type=int, default=0, metavar="I", help="number of the sample (default: 0)"
    )
    show.add_argument(
        "--format",
        choices=("png", "gif", "mp4"),
        default="png",
        help="png: figures; gif, mp4: also a film of the fields (default: png)",
    )
    show.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder of the figures (default: figures in that of the run)",
    )


def export_command(commands: Any) -> None:
    """Add the command `export`."""
    export = commands.add_parser(
        "export", help="export a trained network for programs without prdp-hpc"
    )
    export.add_argument("run", metavar="RUN", help="a run folder")
    export.add_argument(
        "--format",
        choices=("torch", "onnx", "safetensors"),
        required=True,
        help="torch: a program of torch.export; onnx; safetensors: the weights",
    )
    export.add_argument(
        "--out", metavar="FILE", help="file to write (default: export/network.* in the run folder)"
    )
    add_checkpoint(export)


def _add_runs(command: argparse.ArgumentParser) -> None:
    """The options that choose runs, data and steps."""
    command.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder; several run folders, or that of a comparison, are an ensemble",
    )
    command.add_argument(
        "--steps", type=_steps, metavar="N", help="time steps (default: as many as the data have)"
    )
    command.add_argument(
        "--data",
        metavar="FILE",
        help="file of trajectories (default: that of the run); initial states are enough",
    )
    command.add_argument(
        "--group", default="validation", metavar="NAME", help="group of the data: validation, …"
    )
    add_checkpoint(command)


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """The options that choose the checkpoint and the user's components."""
    command.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="last, or best: that of the smallest validation error (default: last)",
    )
    add_component(command)


def numbers(text: str) -> list[int]:
    """The integers of a text such as `0,3,5-7`, for argparse."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise argparse.ArgumentTypeError(
                f"must be integers and ranges such as 0,3,5-7, not {text!r}"
            )
        found += range(int(first), int(last or first) + 1)
    return sorted(set(found))


def _steps(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, not {text!r}")
    return int(text)
