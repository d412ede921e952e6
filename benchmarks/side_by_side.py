"""Helpers of comparisons with other packages: a new process per measurement, packages in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, Any]]


def peak_mib(pid: int | str = "self") -> float:
    """Peak resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def start_autograd() -> None:
    """Perform a first backward pass, which starts threads and loads modules in any process."""
    import torch

    (2 * torch.ones(1, requires_grad=True)).backward(torch.ones(1))


def under_mpiexec(ranks: int, script: str, *arguments: str) -> list[str]:
    """The command line of a script on some ranks."""
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    return [mpiexec, "-n", str(ranks), sys.executable, script, *arguments]


def run_once(command: list[str]) -> dict[str, Any] | str:
    """The measurement that a process prints as its last line; or the last line of its error
    message.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    content: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return content


def measure(
    plan: dict[str, list[str]], repetitions: int, run: Callable[[list[str]], Any] = run_once
) -> Results:
    """Medians of all packages and settings, which alternate; failures are reported and omitted."""
    collected: dict[str, list[dict[str, Any]]] = {name: [] for name in plan}
    for _ in range(repetitions):
        for name in list(plan):
            result = run(plan[name])
            if isinstance(result, str):
                print(f"left out: {name}: {result}")
                del plan[name], collected[name]
            else:
                collected[name].append(result)
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        | {"repetitions": len(runs)}
        for name, runs in collected.items()
        if runs
    }
