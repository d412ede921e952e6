"""The parsers of the commands for jobs on a cluster."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from prdp_hpc.commands.parser import config_command, count
from prdp_hpc.errors import InputError


def submit_command(commands: Any) -> None:
    """Add the command `submit`."""
    submit = config_command(
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
        "--nodes", type=count, default=1, metavar="N", help="number of nodes (default: 1)"
    )
    submit.add_argument(
        "--replicas",
        type=count,
        default=1,
        metavar="N",
        help="data-parallel replicas of the network (default: 1)",
    )
    submit.add_argument(
        "--grid-ranks",
        type=count,
        metavar="N",
        help="ranks that share one grid (default: that of the config, or 1)",
    )
    submit.add_argument(
        "--cpus-per-task", type=count, metavar="N", help="cores per rank (default: 1)"
    )
    submit.add_argument(
        "--gpus-per-node",
        type=_gpus,
        metavar="[TYPE:]N",
        help="GPUs per node, e.g. 4, a100:4 or a100:2,h100:2 (default: none)",
    )
    for name, metavar, text in _SBATCH:
        submit.add_argument(name, metavar=metavar, help=text)
    submit.add_argument(
        "--exclusive",
        type=_exclusive,
        nargs="?",
        const=True,
        metavar="user|mcs|topo",
        help="share the nodes with no other job, or with none of another user, label or block",
    )
    submit.add_argument(
        "--array",
        metavar="TASKS",
        help="with run: one run per seed, e.g. 1-20%%4; with compare: jobs that share its runs",
    )
    submit.add_argument(
        "--fan-out",
        type=_limit,
        nargs="?",
        const=0,
        metavar="N",
        help="compare: one job per variant and seed, at most N at a time, and one that collects",
    )
    submit.add_argument(
        "--container", metavar="IMAGE", help="image in which the ranks run (see the site file)"
    )
    submit.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further option of sbatch, e.g. hint=nomultithread; may be repeated",
    )
    submit.add_argument(
        "--dry-run", action="store_true", help="write and show the script without submitting it"
    )
    submit.add_argument(
        "--overwrite-script", action="store_true", help="overwrite a script that was edited"
    )


_SBATCH = (
    (
        "--time",
        "H:MM:SS",
        "time limit, after which the job requeues itself (default: that of the partition)",
    ),
    ("--mem", "SIZE", "memory per node, e.g. 64G (default: that of the partition)"),
    ("--partition", "NAME", "partition (default: that of the site)"),
    ("--account", "NAME", "account to charge (default: that of the user)"),
    ("--qos", "NAME", "quality of service (default: that of the user)"),
    ("--constraint", "FEATURE", "features that the nodes must have, e.g. icelake"),
    ("--dependency", "TYPE:JOB", "start after other jobs, e.g. afterok:1234"),
)
"""Options that are passed to sbatch unchanged."""


_OPTIONAL = {"--exclusive": "user|mcs|topo", "--fan-out": "[0-9]+"}
"""Options whose value may be left out, and the values that may be the word after them."""


def close_options(words: Sequence[str]) -> list[str]:
    """Write `--exclusive` as `--exclusive=` where the next word is not its value: argparse would
    take the config or a change to it for the value.
    """
    following = [*words[1:], ""]
    return [
        f"{word}=" if word in _OPTIONAL and not re.fullmatch(_OPTIONAL[word], after) else word
        for word, after in zip(words, following, strict=True)
    ]


def _limit(text: str) -> int:
    return count(text) if text else 0


def _exclusive(text: str) -> str | bool:
    if text and not re.fullmatch(_OPTIONAL["--exclusive"], text):
        raise argparse.ArgumentTypeError(f"must be user, mcs, topo or nothing, not {text!r}")
    return text or True


def _gpus(text: str) -> str:
    """A number of GPUs with or without a type, for argparse."""
    from prdp_hpc.config.site import checked_gpus  # loads pydantic, which few commands need here

    try:
        return checked_gpus(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def site_command(commands: Any) -> None:
    """Add the command `site`."""
    site = commands.add_parser(
        "site", help="write a first site file for submit from what is found on this cluster"
    )
    site.add_argument("--overwrite", action="store_true", help="replace an existing site file")


def status_command(commands: Any) -> None:
    """Add the command `status`."""
    status = commands.add_parser("status", help="list runs and jobs with their progress")
    status.add_argument(
        "folder",
        nargs="?",
        default="runs",
        metavar="FOLDER",
        help="a run folder, or a folder with run folders (default: runs)",
    )
