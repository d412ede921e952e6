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
from prdp_hpc.commands.starting import NETWORKS, PDES, TASKS
from prdp_hpc.distributed.launch import launched_rank
from prdp_hpc.distributed.signals import block_signals, hold_signals

_CONFIG_HELP = "a YAML file, or the name of a shipped config, e.g. heat_1d"
_OVERRIDES_HELP = "changes to the config, e.g. training.epochs=10"
_TRAINING = ("run", "compare", "paper")
"""Commands that, on SIGUSR1, write a checkpoint and exit with code 85."""


_ALONE = ("plot", "plan", "submit", "init", "config", "completion")
"""Commands that only read and write files, for which one rank is enough."""


class _Parser(argparse.ArgumentParser):
    """Prints messages on rank 0 only, so that each appears once."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if launched_rank() == 0:
            super()._print_message(message, file)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run a command.

    A user's mistake exits with code 2 and one message, any other error with code 1 and a traceback.
    With `--traceback` the traceback is always shown.
    """
    arguments = _arguments(argv)
    alone = arguments.command in _ALONE
    if alone and launched_rank() > 0:
        return
    # Busy-waiting OpenMP threads cost little on idle cores but multiply the run time on busy ones.
    # The variable is read when torch is loaded, i.e. when the command's module is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    trains = arguments.command in _TRAINING
    warnings.formatwarning = _format_warning
    if launched_rank() > 0 and not arguments.traceback:
        warnings.simplefilter("ignore")  # rank 0 prints them
    try:
        with ExitStack() as stack:
            with block_signals():
                _find_config(arguments)
                command = _command(arguments.command)
                if trains:
                    stack.enter_context(hold_signals())
            command(arguments)
    except Exception as error:
        fail(error, arguments.traceback, alone)
    except KeyboardInterrupt:
        sys.exit(130)


def _find_config(arguments: argparse.Namespace) -> None:
    """Replace the name of a shipped config by its file."""
    if getattr(arguments, "config", None):
        shipped = importlib.import_module("prdp_hpc.config.shipped")
        arguments.config = shipped.find_config(arguments.config)


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """Return the function of a command; raise `InputError` if a library that it needs cannot be
    imported.
    """
    try:
        module = importlib.import_module(f"prdp_hpc.commands.{name}")
    except Exception as error:
        missing = missing_library(error, importing=True)
        if missing is None:
            raise
        raise missing from error
    found: Callable[[argparse.Namespace], None] = getattr(module, name)
    return found


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Format warnings of this package like its errors, and those of other code with their file and
    line.
    """
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"prdp-hpc: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. Overrides may stand before and after options, which subcommands of
    argparse do not support.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    arguments.parser = parser
    arguments.line = shlex.join(["prdp-hpc", *(sys.argv[1:] if argv is None else argv)])
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="prdp-hpc",
        description="Train neural networks through distributed PETSc solvers that are only as "
        "accurate as training needs.",
        epilog="All commands run on one process and under mpirun, e.g. mpirun -n 4 prdp-hpc run "
        "configs/heat_2d.yaml "
        "parallel.grid_ranks=2",
    )
    _add_traceback(parser, default=False)
    parser.add_argument("--version", action="version", version=f"prdp-hpc {prdp_hpc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _config_command(commands, "run", "train once and write a run folder", resumable=True)
    _config_command(
        commands,
        "compare",
        "train with PRDP and with full refinement from several seeds; print a table, draw a figure",
        resumable=True,
    )
    paper = commands.add_parser(
        "paper", help="run the comparison for every experiment of the paper; resumes if repeated"
    )
    paper.add_argument(
        "--quick", action="store_true", help="use smaller sizes (8 to 17 minutes on 2 cores)"
    )
    paper.add_argument(
        "--schedules",
        type=lambda text: text.split(","),
        metavar="NAME,NAME",
        help="compare these schedules with full refinement, e.g. prdp,gradient (default: those of "
        "each config)",
    )
    paper.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="number of seeds for experiments with random initialisation or data (default: that of "
        "each config)",
    )
    paper.add_argument("--only", nargs="+", metavar="NAME", help="run only these experiments")
    paper.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder for the results (default: runs/paper, or runs/paper-quick)",
    )
    paper.add_argument(
        "--list",
        metavar="FILE",
        help="YAML file with the list of experiments (default: configs/paper/experiments.yaml)",
    )
    generate = _config_command(
        commands, "generate", "generate the trajectories that a config trains on"
    )
    generate.add_argument(
        "--out",
        metavar="FILE",
        help="HDF5 file to write (default: the file from which run and compare read)",
    )
    gradients = _config_command(
        commands,
        "gradients",
        "measure the error of implicit and unrolled gradients through K iterations",
    )
    gradients.add_argument("--out", metavar="PNG", help="file of the figure")
    plan = _config_command(
        commands,
        "plan",
        "predict the best split of ranks into replicas and grid ranks, without running anything",
    )
    plan.add_argument("--ranks", type=_count, required=True, metavar="N", help="number of ranks")
    plan.add_argument(
        "--machine",
        default="cpu",
        metavar="NAME",
        help="cpu (default), gpu, or a file written by benchmarks/scaling.py",
    )
    plan.add_argument(
        "--iterations",
        type=_count,
        metavar="K",
        help="iterations per solve (default: those of full refinement)",
    )
    plot = commands.add_parser("plot", help="draw finished or active runs from their run folders")
    plot.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, or the folder of one comparison"
    )
    plot.add_argument("--out", metavar="PNG", help="file of the figure")
    evaluate = commands.add_parser(
        "evaluate", help="compute the validation errors of a trained network, e.g. on other data"
    )
    evaluate.add_argument("run", metavar="RUN", help="a run folder")
    evaluate.add_argument(
        "--data",
        metavar="FILE",
        help="an HDF5 file with the group validation (default: the data file of the run)",
    )
    evaluate.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="a user-defined network, PDE or task of the run; it is imported only if it is named "
        "here",
    )
    evaluate.add_argument("--out", metavar="JSON", help="also write the errors to this file")
    _submit_command(commands)
    _init_command(commands)
    _show_config_command(commands)
    completion = commands.add_parser("completion", help="print the completion script of a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="name of the shell")
    commands.add_parser("doctor", help="report what was found on this machine and what is missing")
    for command in commands.choices.values():
        # SUPPRESS keeps the value of an option that stands before the command.
        _add_traceback(command, default=argparse.SUPPRESS)
    return parser


def _add_traceback(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=default,
        help="show the traceback of every error, also of mistakes in a config or file",
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
    command.add_argument("config", metavar="CONFIG", help=_CONFIG_HELP)
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help=_OVERRIDES_HELP,
    )
    if resumable:
        choice = command.add_mutually_exclusive_group()
        choice.add_argument(
            "--resume", action="store_true", help="continue from the latest checkpoint"
        )
        choice.add_argument(
            "--overwrite", action="store_true", help="first remove an earlier run of this name"
        )
    return command


def _init_command(commands: Any) -> None:
    init = commands.add_parser(
        "init", help="write a first config with comments, from options or from questions"
    )
    init.add_argument("--task", choices=TASKS, help="what is trained (default: emulator)")
    init.add_argument("--pde", choices=PDES, help="the PDE (default: heat, or poisson)")
    init.add_argument(
        "--dimension", type=int, choices=(1, 2, 3), help="axes of the grid (default: 1 or 2)"
    )
    init.add_argument(
        "--points", type=_count, metavar="N", help="points per axis (default: 64, 32 or 16)"
    )
    init.add_argument("--network", choices=NETWORKS, help="the network (default: by task and grid)")
    init.add_argument(
        "--data", metavar="FILE", help="HDF5 file of trajectories (default: they are generated)"
    )
    init.add_argument("--name", metavar="NAME", help="name of the run (default: PDE_TASK)")
    init.add_argument("--out", metavar="YAML", help="file to write (default: NAME.yaml)")
    init.add_argument("--defaults", action="store_true", help="ask nothing on a terminal")


def _show_config_command(commands: Any) -> None:
    config = commands.add_parser(
        "config", help="print a config with all defaults, the shipped configs, or the JSON schema"
    )
    config.add_argument("config", nargs="?", metavar="CONFIG", help=_CONFIG_HELP)
    config.add_argument("overrides", nargs="*", metavar="section.key=value", help=_OVERRIDES_HELP)
    choice = config.add_mutually_exclusive_group()
    choice.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")
    choice.add_argument("--list", action="store_true", help="list the shipped configs")


def _submit_command(commands: Any) -> None:
    submit = _config_command(
        commands, "submit", "write, show and submit the batch script of a SLURM job"
    )
    submit.add_argument(
        "--command",
        dest="task",
        choices=("run", "compare", "generate"),
        default="run",
        help="command that the job runs (default: run)",
    )
    submit.add_argument(
        "--nodes", type=_count, default=1, metavar="N", help="number of nodes (default: 1)"
    )
    submit.add_argument(
        "--replicas",
        type=_count,
        default=1,
        metavar="N",
        help="data-parallel replicas of the network (default: 1)",
    )
    submit.add_argument(
        "--grid-ranks",
        type=_count,
        metavar="N",
        help="ranks that share one grid (default: that of the config, or 1)",
    )
    submit.add_argument(
        "--cpus-per-task",
        type=_count,
        default=1,
        metavar="N",
        help="cores per rank (default: 1)",
    )
    submit.add_argument(
        "--gpus-per-node", type=_count, metavar="N", help="GPUs per node (default: none)"
    )
    submit.add_argument(
        "--time",
        metavar="H:MM:SS",
        help="time limit, after which the job requeues itself (default: that of the site)",
    )
    submit.add_argument("--partition", metavar="NAME", help="partition (default: that of the site)")
    submit.add_argument(
        "--account", metavar="NAME", help="account to charge (default: that of the user)"
    )
    submit.add_argument(
        "--dry-run", action="store_true", help="write and show the script without submitting it"
    )
