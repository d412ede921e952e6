"""The command line of `prdp-hpc`: its commands and their options, without loading any of them.

Commands of jobs on a cluster are in `parser_jobs.py`, common parts in `parser_common.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import prdp_hpc
from prdp_hpc.commands.parser_common import (
    CONFIG_HELP,
    OVERRIDES_HELP,
    Parser,
    add_component,
    config_command,
    count,
)
from prdp_hpc.commands.parser_jobs import site_command, status_command, submit_command
from prdp_hpc.commands.parser_trained import export_command, predict_command, show_command
from prdp_hpc.logs import LEVELS


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """The parser of the command line; with the name of a command, the parser of that one only."""
    parser = Parser(
        prog="prdp-hpc",
        description="Train neural networks through distributed PETSc solvers that are only as "
        "accurate as training needs.",
        epilog="All commands run on one process and under mpirun, e.g. mpirun -n 4 prdp-hpc run "
        "configs/heat_2d.yaml "
        "parallel.grid_ranks=2",
    )
    _add_general(parser, traceback=False, level=None)
    parser.add_argument("--version", action="version", version=f"prdp-hpc {prdp_hpc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in [command] if command in COMMANDS else COMMANDS:
        COMMANDS[name](commands)
    for own in commands.choices.values():
        # SUPPRESS keeps the value of an option that stands before the command.
        _add_general(own, traceback=argparse.SUPPRESS, level=argparse.SUPPRESS)
    return parser


def _add_general(parser: argparse.ArgumentParser, traceback: Any, level: Any) -> None:
    """Add the options of all commands, with these defaults."""
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=traceback,
        help="show the traceback of every error, also of mistakes in a config or file",
    )
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default=level,
        metavar="LEVEL",
        help="also show messages of at least this level: debug, info, warning or error",
    )


def _run_command(commands: Any) -> None:
    config_command(commands, "run", "train once and write a run folder", resumable=True)


def _compare_command(commands: Any) -> None:
    compare = config_command(
        commands,
        "compare",
        "train with PRDP and with full refinement from several seeds; print a table, draw a figure",
        resumable=True,
    )
    compare.add_argument(
        "--only",
        type=int,
        metavar="N",
        help="train only run N (from 0) of all variants and seeds, without table and figure",
    )


def _paper_command(commands: Any) -> None:
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


def _generate_command(commands: Any) -> None:
    generate = config_command(
        commands, "generate", "generate the trajectories that a config trains on"
    )
    generate.add_argument(
        "--out",
        metavar="FILE",
        help="HDF5 file to write (default: the file from which run and compare read)",
    )


def _gradients_command(commands: Any) -> None:
    gradients = config_command(
        commands,
        "gradients",
        "measure the error of implicit and unrolled gradients through K iterations",
    )
    gradients.add_argument("--out", metavar="PNG", help="file of the figure")


def _plan_command(commands: Any) -> None:
    plan = config_command(
        commands,
        "plan",
        "predict the best split of ranks into replicas and grid ranks, without running anything",
    )
    plan.add_argument("--ranks", type=count, required=True, metavar="N", help="number of ranks")
    plan.add_argument(
        "--machine",
        default="cpu",
        metavar="NAME",
        help="cpu (default), gpu, or a file written by benchmarks/scaling.py",
    )
    plan.add_argument(
        "--iterations",
        type=count,
        metavar="K",
        help="iterations per solve (default: those of full refinement)",
    )


def _plot_command(commands: Any) -> None:
    plot = commands.add_parser("plot", help="draw finished or active runs from their run folders")
    plot.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, or the folder of one comparison"
    )
    plot.add_argument("--out", metavar="PNG", help="file of the figure")


def _inspect_command(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="report what a data file contains, which config fits, and whether one step of the "
        "PDE reproduces its states",
    )
    inspect.add_argument(
        "words",
        nargs="+",
        metavar="FILE",
        help="a file or folder, as for data.file; several are joined",
    )
    inspect.add_argument("overrides", nargs="*", metavar="section.key=value", help=OVERRIDES_HELP)
    inspect.add_argument(
        "--config",
        metavar="CONFIG",
        help=f"config whose grid and PDE are compared, {CONFIG_HELP} (default: a suggested one)",
    )
    inspect.add_argument(
        "--format",
        metavar="NAME",
        help="format of the file, as for data.format (default: the one that fits)",
    )
    inspect.add_argument(
        "--samples",
        type=_samples,
        default=3,
        metavar="N",
        help="number of trajectories that are read, 0: all (default: 3)",
    )


def _samples(text: str) -> int:
    return 0 if text == "0" else count(text)


def _evaluate_command(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="compute the validation errors of a trained network, e.g. on other data"
    )
    evaluate.add_argument("run", metavar="RUN", help="a run folder")
    evaluate.add_argument(
        "--data",
        metavar="FILE",
        help="an HDF5 file with the group validation (default: the data file of the run)",
    )
    add_component(evaluate)
    evaluate.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="the last checkpoint, or that with the smallest validation error (default: last)",
    )
    evaluate.add_argument("--out", metavar="JSON", help="also write the errors to this file")


def _init_command(commands: Any) -> None:
    # Only this command needs the models of configs to be parsed.
    from prdp_hpc.commands.starting import NETWORKS, PDES, TASKS

    init = commands.add_parser(
        "init", help="write a first config with comments, from options or from questions"
    )
    init.add_argument("--task", choices=TASKS, help="what is trained (default: emulator)")
    init.add_argument("--pde", choices=PDES, help="the PDE (default: heat, or poisson)")
    init.add_argument(
        "--dimension", type=int, choices=(1, 2, 3), help="axes of the grid (default: 1 or 2)"
    )
    init.add_argument(
        "--points", type=count, metavar="N", help="points per axis (default: 64, 32 or 16)"
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
    config.add_argument("config", nargs="?", metavar="CONFIG", help=CONFIG_HELP)
    config.add_argument("overrides", nargs="*", metavar="section.key=value", help=OVERRIDES_HELP)
    choice = config.add_mutually_exclusive_group()
    choice.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")
    choice.add_argument("--list", action="store_true", help="list the shipped configs")


def _completion_command(commands: Any) -> None:
    completion = commands.add_parser("completion", help="print the completion script of a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="name of the shell")


def _doctor_command(commands: Any) -> None:
    commands.add_parser("doctor", help="report what was found on this machine and what is missing")


COMMANDS: dict[str, Callable[[Any], None]] = {
    "run": _run_command,
    "compare": _compare_command,
    "paper": _paper_command,
    "generate": _generate_command,
    "gradients": _gradients_command,
    "plan": _plan_command,
    "plot": _plot_command,
    "evaluate": _evaluate_command,
    "inspect": _inspect_command,
    "predict": predict_command,
    "show": show_command,
    "export": export_command,
    "submit": submit_command,
    "site": site_command,
    "status": status_command,
    "init": _init_command,
    "config": _show_config_command,
    "completion": _completion_command,
    "doctor": _doctor_command,
}
"""The commands in the order of the help, with the functions that add their parsers."""
