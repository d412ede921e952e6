"""`prdp-hpc completion`: the completion script of a shell."""

from __future__ import annotations

import argparse

import shtab

from prdp_hpc.console import show

_FILES = ("CONFIG", "FILE", "RUN", "PNG", "JSON", "FOLDER", "YAML")


def completion(arguments: argparse.Namespace) -> None:
    """Print the script of a shell, e.g. for `~/.local/share/bash-completion/completions`."""
    _complete_files(arguments.parser)
    show(shtab.complete(arguments.parser, arguments.shell).rstrip("\n"))


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Complete the names of files and folders where an argument takes one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
