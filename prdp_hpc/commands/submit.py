"""`prdp-hpc submit`: submit a SLURM job for a config. This module does not load MPI, which may be
unusable on login nodes.
"""

from __future__ import annotations

import argparse
import re
import shlex
import string
import subprocess
import sys
from importlib import resources
from pathlib import Path

from prdp_hpc.config import ExperimentConfig, load_config
from prdp_hpc.console import show
from prdp_hpc.errors import InputError
from prdp_hpc.files import write_text

SIGNAL_SECONDS = 120
"""Seconds before the time limit at which SLURM sends SIGUSR1; it may do so up to 60 s earlier."""

_ADVICE = {
    # Patterns for sbatch's messages, in the order in which they are tried: one message names both
    # the account and the partition.
    "account": "Give --account; `sacctmgr show associations user=$USER "
    "format=account,partition` lists yours",
    "partition specified|partition name": "Give one of these with --partition: {partitions}",
    "--time": "Give --time as minutes, hours:minutes:seconds or days-hours",
    "time limit": "Give a shorter --time, or another --partition; "
    "`sinfo -o '%P %l'` lists their limits",
    "node|cpu|processors|gres|gpu": "Give other --nodes, --cpus-per-task, --gpus-per-node or "
    "--partition; "
    "`sinfo -o '%P %D %c %G'` lists how many nodes there are, their cores and their GPUs",
    "controller|configuration": "SLURM does not respond here: try on a login node, or later",
}


class SubmitError(InputError):
    """Options that do not fit the config, or a job that sbatch rejected."""


class _Template(string.Template):
    delimiter = "@@"


def submit(arguments: argparse.Namespace) -> None:
    """Write the batch script of a config into `<output>/slurm`, print it, and pass it to sbatch
    unless `--dry-run` is given.

    Raises
    ------
    ConfigError
        For an invalid config, before anything is written.
    SubmitError
        If the ranks do not fit the nodes or the task, or with sbatch's message if it rejects the
        job.
    """
    config = load_config(arguments.config, arguments.overrides)
    grid_ranks = arguments.grid_ranks or config.parallel.grid_ranks or 1
    ranks = _checked_ranks(arguments, config, grid_ranks)
    name = config.name if arguments.task == "run" else f"{config.name}-{arguments.task}"
    script = Path(config.output) / "slurm" / f"{name}.sh"
    text = _script_text(arguments, name, script, ranks)
    # The log is beside the script, since SLURM does not create the folder of a log. SLURM copies
    # the script on submission, so that later jobs may overwrite it.
    try:
        write_text(script, text)
    except OSError as error:
        raise SubmitError(
            f"{script}: cannot be written: {error.strerror}; choose another output=…"
        ) from None
    show(text)
    if arguments.dry_run:
        show(f"not submitted; to submit it: sbatch {shlex.quote(str(script))}")
        return
    job = _submitted(script)
    places = f"job:        {job}\nlog:        {script.with_name(f'{name}-{job}.log')}"
    if arguments.task != "generate":
        places += f"\nrun folder: {_results(config, name)}"
    show(places)


def _checked_ranks(arguments: argparse.Namespace, config: ExperimentConfig, grid_ranks: int) -> int:
    """Return the number of ranks; raise `SubmitError` if they do not fit the nodes or the task."""
    replicas, nodes = arguments.replicas, arguments.nodes
    if not config.divides_samples:
        if arguments.task == "generate":
            raise SubmitError(
                f"{arguments.config}: an inverse problem is not trained on trajectories, so there "
                "is nothing to generate"
            )
        if replicas > 1:
            raise SubmitError(
                f"--replicas {replicas}: an inverse problem has no samples to divide; give "
                "--grid-ranks instead"
            )
    ranks: int = replicas * grid_ranks
    if ranks % nodes:
        fitting = [n for n in range(1, ranks + 1) if ranks % n == 0]
        raise SubmitError(
            f"--nodes {nodes}: {replicas} replica(s) × {grid_ranks} grid rank(s) are {ranks} "
            "ranks, which do not divide evenly "
            f"over {nodes} nodes; --nodes may be one of {fitting}"
        )
    return ranks


def _script_text(arguments: argparse.Namespace, name: str, script: Path, ranks: int) -> str:
    options = {
        "job-name": name,
        "nodes": arguments.nodes,
        "ntasks-per-node": ranks // arguments.nodes,
        "cpus-per-task": arguments.cpus_per_task,
        "gpus-per-node": arguments.gpus_per_node,
        "time": arguments.time,
        "partition": arguments.partition,
        "account": arguments.account,
        # %j is the id of the job; a percent sign in the path must be written twice.
        "output": str(script.with_name(name)).replace("%", "%%") + "-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{SIGNAL_SECONDS}",
    }
    lines = [
        f"#SBATCH --{key}={shlex.quote(str(value))}"
        for key, value in options.items()
        if value is not None
    ]
    words = [arguments.task, arguments.config, *arguments.overrides]
    if arguments.grid_ranks:
        words.append(f"parallel.grid_ranks={arguments.grid_ranks}")
    if arguments.task != "generate":
        words.append("--resume")
    template = _Template(
        resources.files("prdp_hpc.commands").joinpath("job.sh").read_text(encoding="utf-8")
    )
    return template.substitute(
        written_by=arguments.line,
        script=shlex.quote(str(script)),
        options="\n".join([*lines, "#SBATCH --requeue"]),
        environment=shlex.quote(str(Path(sys.executable).parent)),
        command=shlex.join(words),
    )


def _submitted(script: Path) -> str:
    """Submit the script and return the id of the job; raise `SubmitError` if sbatch rejects it."""
    try:
        ended = subprocess.run(
            ["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise SubmitError(
            "sbatch was not found: submit from a login node of a cluster with SLURM. Elsewhere "
            "start the ranks with mpirun; "
            "--dry-run shows the script"
        ) from None
    if ended.returncode:
        message = "; ".join(
            re.sub("^sbatch: |(error|fatal): ", "", line) for line in ended.stderr.splitlines()
        )
        raise SubmitError(f"sbatch rejected {script}: {message}. {_advice(message)}")
    sys.stderr.write(ended.stderr)  # messages of the site
    return ended.stdout.strip().split(";")[0]  # "id;cluster" where there are several


def _advice(message: str) -> str:
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, message, re.IGNORECASE):
            return advice.format(partitions=_partitions()) if "{" in advice else advice
    return "Change the options, or the script, and submit again"


def _partitions() -> str:
    listed = subprocess.run(
        ["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, check=False
    )
    return ", ".join(sorted(set(listed.stdout.split()))) or "those that `sinfo` lists"


def _results(config: ExperimentConfig, name: str) -> str:
    folder = Path(config.output) / name
    return f"{folder} (exists: the job continues it)" if folder.exists() else str(folder)
