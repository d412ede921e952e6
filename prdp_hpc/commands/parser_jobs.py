"""The parsers of the commands for jobs on a cluster."""

from __future__ import annotations

from typing import Any

from prdp_hpc.commands.parser_common import config_command, count


def add_job_commands(commands: Any) -> None:
    """Add the commands for jobs on a cluster."""
    _submit_command(commands)


def _submit_command(commands: Any) -> None:
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
        "--cpus-per-task",
        type=count,
        default=1,
        metavar="N",
        help="cores per rank (default: 1)",
    )
    submit.add_argument(
        "--gpus-per-node", type=count, metavar="N", help="GPUs per node (default: none)"
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
