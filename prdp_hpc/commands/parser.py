"""The parsers of the commands, without loading any of them, and what they have in common.

Commands of jobs on a cluster are in `parser_jobs.py`, those of trained networks in
`parser_trained.py`.
"""

from __future__ import annotations

import argparse
from typing import Any

from prdp_hpc.distributed.launch import launched_rank

CONFIG_HELP = "a YAML file, or the name of a shipped config, e.g. heat_1d"
OVERRIDES_HELP = "changes to the config, e.g. training.epochs=10"


class Parser(argparse.ArgumentParser):
    """Prints messages on rank 0 only, so that each appears once."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if launched_rank() == 0:
            super()._print_message(message, file)


def add_component(command: argparse.ArgumentParser) -> None:
    """Add the option `--component` of commands that read a run folder."""
    command.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="a user-defined network, PDE or task of the run; it is imported only if it is named "
        "here",
    )


def count(text: str) -> int:
    """A positive integer, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def config_command(
    commands: Any, name: str, help_text: str, resumable: bool = False
) -> argparse.ArgumentParser:
    """Add a command that takes a config and changes to it; `resumable`: it may continue a run."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, allow_abbrev=False)
    command.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help=OVERRIDES_HELP,
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


def run_command(commands: Any) -> None:
    """Add the command `run`."""
    config_command(commands, "run", "train once and write a run folder", resumable=True)


def compare_command(commands: Any) -> None:
    """Add the command `compare`."""
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


def paper_command(commands: Any) -> None:
    """Add the command `paper`."""
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


def generate_command(commands: Any) -> None:
    """Add the command `generate`."""
    generate = config_command(
        commands, "generate", "generate the trajectories that a config trains on"
    )
    generate.add_argument(
        "--out",
        metavar="FILE",
        help="HDF5 file to write (default: the file from which run and compare read)",
    )


def gradients_command(commands: Any) -> None:
    """Add the command `gradients`."""
    gradients = config_command(
        commands,
        "gradients",
        "measure the error of implicit and unrolled gradients through K iterations",
    )
    gradients.add_argument("--out", metavar="PNG", help="file of the figure")


def plan_command(commands: Any) -> None:
    """Add the command `plan`."""
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


def plot_command(commands: Any) -> None:
    """Add the command `plot`."""
    plot = commands.add_parser("plot", help="draw finished or active runs from their run folders")
    plot.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, or the folder of one comparison"
    )
    plot.add_argument("--out", metavar="PNG", help="file of the figure")


def inspect_command(commands: Any) -> None:
    """Add the command `inspect`."""
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


def evaluate_command(commands: Any) -> None:
    """Add the command `evaluate`."""
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


def init_command(commands: Any) -> None:
    """Add the command `init`."""
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


def show_config_command(commands: Any) -> None:
    """Add the command `config`."""
    config = commands.add_parser(
        "config", help="print a config with all defaults, the shipped configs, or the JSON schema"
    )
    config.add_argument("config", nargs="?", metavar="CONFIG", help=CONFIG_HELP)
    config.add_argument("overrides", nargs="*", metavar="section.key=value", help=OVERRIDES_HELP)
    choice = config.add_mutually_exclusive_group()
    choice.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")
    choice.add_argument("--list", action="store_true", help="list the shipped configs")


def completion_command(commands: Any) -> None:
    """Add the command `completion`."""
    completion = commands.add_parser("completion", help="print the completion script of a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="name of the shell")


def doctor_command(commands: Any) -> None:
    """Add the command `doctor`."""
    commands.add_parser("doctor", help="report what was found on this machine and what is missing")
