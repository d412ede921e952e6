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
from prdp_hpc.commands.parser import (
    Parser,
    compare_command,
    completion_command,
    doctor_command,
    evaluate_command,
    generate_command,
    gradients_command,
    init_command,
    inspect_command,
    paper_command,
    plan_command,
    plot_command,
    run_command,
    show_config_command,
)
from prdp_hpc.commands.parser_jobs import (
    close_options,
    site_command,
    status_command,
    submit_command,
)
from prdp_hpc.commands.parser_trained import export_command, predict_command, show_command
from prdp_hpc.distributed.launch import launched_rank, launched_size, leave_the_launch
from prdp_hpc.distributed.signals import block_signals, hold_signals
from prdp_hpc.logs import LEVELS, show_log

_STOPPABLE = ("run", "compare", "paper", "generate")
"""Commands that, on SIGUSR1, finish a step or a batch of samples and exit with code 85."""


_ALONE = ("plot", "plan", "submit", "site", "status", "init", "config", "completion", "export")
"""Commands that only read and write files, for which one rank is enough."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run a command.

    A user's mistake exits with code 2 and one message, any other error with code 1 and a traceback.
    With `--traceback` the traceback is always shown.
    """
    arguments = _arguments(argv)
    alone = arguments.command in _ALONE
    if alone and launched_size() > 1:
        if launched_rank() > 0:
            return
        leave_the_launch()
    # Busy-waiting OpenMP threads cost little on idle cores but multiply the run time on busy ones.
    # The variable is read when torch is loaded, i.e. when the command's module is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments.log_level is not None and launched_rank() == 0:
        show_log(arguments.log_level)
    stoppable = arguments.command in _STOPPABLE
    warnings.formatwarning = _format_warning
    if launched_rank() > 0 and not arguments.traceback:
        warnings.simplefilter("ignore")  # rank 0 prints them
    try:
        with ExitStack() as stack:
            with block_signals():
                _find_config(arguments)
                command = _command(arguments.command)
                if stoppable:
                    stack.enter_context(hold_signals())
            command(arguments)
    except Exception as error:
        fail(error, arguments.traceback, alone)
    except KeyboardInterrupt:
        sys.exit(130)


def _find_config(arguments: argparse.Namespace) -> None:
    """Replace the name of a shipped config by its file."""
    if getattr(arguments, "config", None):
        shipped = importlib.import_module("prdp_hpc.config.yaml_files")
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
    words = sys.argv[1:] if argv is None else list(argv)
    first = words[0] if words and words[0] != "completion" else ""  # it completes all commands
    parser = build_parser(first)
    given = close_options(words) if first == "submit" else words
    arguments, rest = parser.parse_known_args(given)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    arguments.parser = parser
    arguments.line = shlex.join(["prdp-hpc", *words])
    return arguments


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


COMMANDS: dict[str, Callable[[Any], None]] = {
    "run": run_command,
    "compare": compare_command,
    "paper": paper_command,
    "generate": generate_command,
    "gradients": gradients_command,
    "plan": plan_command,
    "plot": plot_command,
    "evaluate": evaluate_command,
    "inspect": inspect_command,
    "predict": predict_command,
    "show": show_command,
    "export": export_command,
    "submit": submit_command,
    "site": site_command,
    "status": status_command,
    "init": init_command,
    "config": show_config_command,
    "completion": completion_command,
    "doctor": doctor_command,
}
"""The commands in the order of the help, with the functions that add their parsers."""
