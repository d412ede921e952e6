"""Parts that the parsers of several commands have in common."""

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
