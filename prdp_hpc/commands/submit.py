"""`prdp-hpc submit`: a SLURM job from a config. Nothing here loads MPI, which login nodes may
forbid.
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
"""How long before its time limit a job is told to save; SLURM may do so up to 60 s earlier."""

_ADVICE = {
    # What sbatch says, in the order in which to look for it: one message names both the account and
    # the partition.
    "account": "Give --account; `sacctmgr show associations user=$USER "
    "format=account,partition` lists yours",
    "partition specified|partition name": "Give one of these with --partition: {partitions}",
    "--time": "Give --time as minutes, hours:minutes:seconds or days-hours",
    "time limit": "Give a shorter --time, or another --partition; "
    "`sinfo -o '%P %l'` lists their limits",
    "node|cpu|processors|gres|gpu": "Give other --nodes, --cpus-per-task, --gpus-per-node or "
    "--partition; "
    "`sinfo -o '%P %D %c %G'` lists how many nodes there are, their cores and their GPUs",
    "controller|configuration": "SLURM does not answer here: try on a login node, or later",
}


class SubmitError(InputError):
    """A job that does not fit the config, or that sbatch refused."""


class _Template(string.Template):
    delimiter = "@@"


def submit(arguments: argparse.Namespace) -> None:
    """Write the batch script of a config into `<output>/slurm`, show it, and hand it to sbatch
    unless `--dry-run` is given.

    Raises
    ------
    ConfigError
        For a config that does not do, before anything is written.
    SubmitError
        For ranks that do not fit the nodes or the task; with sbatch's own words where it refuses
        the job.
    """
    config = load_config(arguments.config, arguments.overrides)
    grid_ranks = arguments.grid_ranks or config.parallel.grid_ranks or 1
    ranks = _checked_ranks(arguments, config, grid_ranks)
    name = config.name if arguments.task == "run" else f"{config.name}-{arguments.task}"
    script = Path(config.output) / "slurm" / f"{name}.sh"
    text = _script_text(arguments, name, script, ranks)
    # SLURM does not make the folder of a log, which lies beside the script. It keeps a copy of the
    # script with the job.
    try:
        write_text(script, text)
    except OSError as error:
        raise SubmitError(
            f"{script}: cannot be written: {error.strerror}; choose another output=…"
        ) from None
    show(text)
    if arguments.dry_run:
        show(f"not submitted; to do so: sbatch {shlex.quote(str(script))}")
        return
    job = _submitted(script)
    places = f"job:        {job}\nlog:        {script.with_name(f'{name}-{job}.log')}"
    if arguments.task != "generate":
        places += f"\nrun folder: {_results(config, name)}"
    show(places)


def _checked_ranks(arguments: argparse.Namespace, config: ExperimentConfig, grid_ranks: int) -> int:
    """How many ranks the job has; `SubmitError` where they do not fit the nodes or the task."""
    replicas, nodes = arguments.replicas, arguments.nodes
    if not config.divides_samples:
        if arguments.task == "generate":
            raise SubmitError(
                f"{arguments.config}: an inverse problem makes its own reference, there is nothing "
                "to generate"
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
        # %j is the job's id; a per cent sign of the user's own must be written twice.
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
    """The id that sbatch gives the job; `SubmitError` with what it says when it refuses."""
    try:
        ended = subprocess.run(
            ["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise SubmitError(
            "sbatch is not here: submit from a login node of a cluster with SLURM. Elsewhere start "
            "the ranks with mpirun; "
            "--dry-run shows the script"
        ) from None
    if ended.returncode:
        said = "; ".join(
            re.sub("^sbatch: |(error|fatal): ", "", line) for line in ended.stderr.splitlines()
        )
        raise SubmitError(f"sbatch refused {script}: {said}. {_advice(said)}")
    sys.stderr.write(ended.stderr)  # a site's own remarks
    return ended.stdout.strip().split(";")[0]  # "id;cluster" where there are several


def _advice(said: str) -> str:
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, said, re.IGNORECASE):
            return advice.format(partitions=_partitions()) if "{" in advice else advice
    return "Change the options, or the script, and submit again"


def _partitions() -> str:
    listed = subprocess.run(
        ["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, check=False
    )
    return ", ".join(sorted(set(listed.stdout.split()))) or "those that `sinfo` lists"


def _results(config: ExperimentConfig, name: str) -> str:
    folder = Path(config.output) / name
    return f"{folder} (there already: the job continues it)" if folder.exists() else str(folder)
