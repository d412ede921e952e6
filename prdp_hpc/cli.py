"""The `prdp-hpc` command."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import prdp_hpc
from prdp_hpc.commands.failures import fail, missing_library
from prdp_hpc.distributed.launch import launched_rank
from prdp_hpc.distributed.signals import block_signals, hold_signals

_TRAINING = ("run", "compare", "paper")
"""Commands that, told to leave, save and leave with exit code 85."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong once, not once per rank."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if launched_rank() == 0:
            super()._print_message(message, file)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run a command.

    Users' mistakes end with exit code 2 and one message, all other errors with exit code 1 and a
    traceback; `--traceback` shows it always.
    """
    arguments = _arguments(argv)
    alone = arguments.command in ("plot", "plan", "submit")
    if alone and launched_rank() > 0:
        return  # works on files alone: one rank is enough
    # Threads that spin while they wait cost little on idle cores and a multiple of the run time on
    # busy ones. Read when torch is loaded, which the commands do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    trains = arguments.command in _TRAINING
    warnings.formatwarning = _sentence
    if launched_rank() > 0 and not arguments.traceback:
        warnings.simplefilter("ignore")  # rank 0 says them
    try:
        with ExitStack() as holding:
            with block_signals():
                command = _command(arguments.command)
                if trains:
                    holding.enter_context(hold_signals())
            command(arguments)
    except Exception as error:
        fail(error, arguments.traceback, alone)
    except KeyboardInterrupt:
        sys.exit(130)


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """The function of a command; `InputError` where a library that it needs is not usable."""
    try:
        module = importlib.import_module(f"prdp_hpc.commands.{name}")
    except Exception as error:
        missing = missing_library(error, importing=True)
        if missing is None:
            raise
        raise missing from error
    found: Callable[[argparse.Namespace], None] = getattr(module, name)
    return found


def _sentence(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Warnings of this package as its errors look; of others' code the place is told too."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"prdp-hpc: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand before and after options, which argparse's subcommands do not allow by
    themselves.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    arguments.line = shlex.join(["prdp-hpc", *(sys.argv[1:] if argv is None else argv)])
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="prdp-hpc",
        description="Train neural networks through distributed PETSc solvers that are only as "
        "accurate as training needs.",
        epilog="All commands work alone and under mpirun, as: mpirun -n 4 prdp-hpc run "
        "configs/heat_2d.yaml "
        "parallel.grid_ranks=2",
    )
    _add_traceback(parser, default=False)
    parser.add_argument("--version", action="version", version=f"prdp-hpc {prdp_hpc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _config_command(commands, "run", "train once; writes a run folder", resumable=True)
    _config_command(
        commands,
        "compare",
        "train with PRDP and with full refinement, over seeds; table, figure",
        resumable=True,
    )
    paper = commands.add_parser(
        "paper", help="compare in every experiment of the paper; goes on where it was stopped"
    )
    paper.add_argument(
        "--quick", action="store_true", help="smaller sizes, 8 to 17 minutes on 2 cores"
    )
    paper.add_argument(
        "--schedules",
        type=lambda text: text.split(","),
        metavar="NAME,NAME",
        help="compare these schedules with full refinement, as prdp,gradient (default: those of "
        "each config)",
    )
    paper.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="how many, in experiments in which something is random (default: those of each "
        "config)",
    )
    paper.add_argument("--only", nargs="+", metavar="NAME", help="these experiments of the list")
    paper.add_argument(
        "--out",
        metavar="FOLDER",
        help="where results go (default: runs/paper, or runs/paper-quick)",
    )
    paper.add_argument(
        "--list",
        metavar="FILE",
        help="another list of experiments (default: configs/paper/experiments.yaml)",
    )
    generate = _config_command(
        commands, "generate", "make the trajectories that a config trains on"
    )
    generate.add_argument(
        "--out", metavar="FILE", help="where to write (default: where run and compare look)"
    )
    gradients = _config_command(
        commands, "gradients", "how exact gradients through K iterations are, implicit and unrolled"
    )
    gradients.add_argument("--out", metavar="PNG", help="the figure's file")
    plan = _config_command(
        commands,
        "plan",
        "the best split of ranks into replicas and grid ranks, by a model; runs nothing",
    )
    plan.add_argument("--ranks", type=_count, required=True, metavar="N", help="ranks to divide")
    plan.add_argument(
        "--machine",
        default="cpu",
        metavar="NAME",
        help="cpu (default), gpu, or a file of benchmarks/scaling.py",
    )
    plan.add_argument(
        "--iterations",
        type=_count,
        metavar="K",
        help="iterations of a solve (default: full refinement's)",
    )
    plot = commands.add_parser("plot", help="draw finished or running runs, from their files alone")
    plot.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; or one folder of a comparison"
    )
    plot.add_argument("--out", metavar="PNG", help="the figure's file")
    evaluate = commands.add_parser(
        "evaluate", help="validation errors of a trained network, on other data too"
    )
    evaluate.add_argument("run", metavar="RUN", help="a run folder")
    evaluate.add_argument(
        "--data",
        metavar="FILE",
        help="an HDF5 file with the group validation (default: the run's own)",
    )
    evaluate.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="a network, PDE or task of your own that the run uses; it is imported only if you "
        "name it",
    )
    evaluate.add_argument("--out", metavar="JSON", help="write the errors to this file, too")
    _submit_command(commands)
    commands.add_parser("doctor", help="say what was found on this machine and what is missing")
    for command in commands.choices.values():
        # Not given after the command, what was said before it holds.
        _add_traceback(command, default=argparse.SUPPRESS)
    return parser


def _add_traceback(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=default,
        help="show where in the code an error came up, of mistakes in a config or file too",
    )


def _count(text: str) -> int:
    """A positive integer, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def _config_command(
    commands: Any, name: str, help_text: str, resumable: bool = False
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, allow_abbrev=False)
    command.add_argument("config", metavar="CONFIG", help="a YAML file, as configs/heat_2d.yaml")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="changes to the config, as training.epochs=10",
    )
    if resumable:
        choice = command.add_mutually_exclusive_group()
        choice.add_argument(
            "--resume", action="store_true", help="continue from the newest checkpoint"
        )
        choice.add_argument(
            "--overwrite", action="store_true", help="remove an earlier run of this name first"
        )
    return command


def _submit_command(commands: Any) -> None:
    submit = _config_command(
        commands, "submit", "a SLURM job that trains: shows its script and submits it"
    )
    submit.add_argument(
        "--command",
        dest="task",
        choices=("run", "compare", "generate"),
        default="run",
        help="default: run",
    )
    submit.add_argument("--nodes", type=_count, default=1, metavar="N", help="default: 1")
    submit.add_argument(
        "--replicas", type=_count, default=1, metavar="N", help="copies of the network (default: 1)"
    )
    submit.add_argument(
        "--grid-ranks",
        type=_count,
        metavar="N",
        help="ranks that share one grid (default: the config's, or 1)",
    )
    submit.add_argument(
        "--cpus-per-task",
        type=_count,
        default=1,
        metavar="N",
        help="cores of each rank (default: 1)",
    )
    submit.add_argument("--gpus-per-node", type=_count, metavar="N", help="default: none")
    submit.add_argument(
        "--time",
        metavar="H:MM:SS",
        help="time limit; the job goes on after it by itself (default: the site's)",
    )
    submit.add_argument("--partition", metavar="NAME", help="default: the site's")
    submit.add_argument("--account", metavar="NAME", help="default: yours")
    submit.add_argument(
        "--dry-run", action="store_true", help="write and show the script, do not submit it"
    )
