"""Submission of batch scripts to SLURM."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prdp_hpc.errors import InputError

_ADVICE = {
    # Patterns for sbatch's messages, in the order in which they are tried: one message names both
    # the account and the partition.
    "account": "Give --account; `sacctmgr show associations user=$USER "
    "format=account,partition` lists yours",
    "partition specified|partition name": "Give one of these with --partition: {partitions}",
    "qos": "Give another --qos; `sacctmgr show associations user=$USER format=qos` lists yours",
    "dependency": "Give --dependency as TYPE:JOB, e.g. afterok:1234, with the id of a job",
    "array": "Give --array as numbers and ranges, e.g. 1-20%4",
    "feature": "Give another --constraint; `sinfo -o '%P %f'` lists the features of the nodes",
    "--time": "Give --time as minutes, hours:minutes:seconds or days-hours",
    "time limit": "Give a shorter --time, or another --partition; "
    "`sinfo -o '%P %l'` lists their limits",
    "mutually exclusive": "Leave out one of these options, here or in the site file",
    "memory|--mem": "Give another --mem; `sinfo -o '%P %m'` lists the megabytes of the nodes",
    "node|cpu|processors|gres|gpu": "Give other --nodes, --cpus-per-task, --gpus-per-node or "
    "--partition; "
    "`sinfo -o '%P %D %c %G'` lists how many nodes there are, their cores and their GPUs",
    "controller|configuration": "SLURM does not respond here: try on a login node, or later",
}


class SubmitError(InputError):
    """Options that do not fit the config, or a job that sbatch rejected."""


def sbatch(script: Path, options: Sequence[str] = ()) -> str:
    """Submit a script and return the id of the job; raise `SubmitError` if sbatch rejects it."""
    try:
        ended = subprocess.run(
            ["sbatch", "--parsable", *options, str(script)],
            capture_output=True,
            text=True,
            check=False,
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
