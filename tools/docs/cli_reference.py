"""The page of the command line, from the argument parser."""

from __future__ import annotations

import argparse

from prdp_hpc.cli import build_parser


def page() -> str:
    """All commands with their arguments."""
    parser = build_parser()
    commands = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    helps = {choice.dest: choice.help for choice in commands._choices_actions}
    lines = ["# Command line", "", f"{parser.description}", "", f"{parser.epilog}", ""]
    lines += ["See [exit codes](exit_codes.md).", "", "| command | |", "|---|---|"]
    lines += [f"| [`{name}`](#{name}) | {text} |" for name, text in helps.items()]
    lines += ["", *_options(parser, skip=(commands,))]
    for name, command in commands.choices.items():
        lines += ["", f"## {name}", "", f"{_sentence(helps.get(name))}", ""]
        usage = " ".join(command.format_usage().removeprefix("usage: ").split())
        lines += ["```text", usage, "```", "", *_options(command)]
    return "\n".join(lines) + "\n"


def _sentence(text: str | None) -> str:
    text = text or ""
    return text[:1].upper() + text[1:] + "."


def _options(parser: argparse.ArgumentParser, skip: tuple[argparse.Action, ...] = ()) -> list[str]:
    lines: list[str] = []
    for action in parser._actions:
        if action in skip or action.help is argparse.SUPPRESS:
            continue
        lines += [_signature(action), f":   {_sentence(_help(action))}", ""]
    return lines


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    if action.choices:
        text = f"one of {', '.join(map(str, action.choices))}; {text}"
    return text


def _signature(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{option} {value}`".replace(" `", "`") for option in action.option_strings)
