"""Configs that train in under a second, and `prdp-hpc` started as by a user."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[1]
# Measured numbers, which differ between runs.
SOLVER_PARTS = ["assembly_seconds", "set_up_seconds", "solve_seconds", "gradient_seconds"]
OTHER_PARTS = ["network_seconds", "data_seconds", "validation_seconds"]
RATES = ["samples_per_second", "memory_gib", "solver_share"]
SECONDS = {"solver_seconds", "total_seconds", "probe_seconds", *SOLVER_PARTS, *OTHER_PARTS, *RATES}


def emulator(output, **changes):
    """A config of the heat emulator on 8 points, as a nested dictionary; `changes` replace or
    extend sections.
    """
    return _changed(
        {
            "task": "emulator",
            "name": "tiny",
            "output": str(output),
            "grid": {"shape": [8]},
            "physics": {"pde": "heat", "diffusivity": 1e-2, "dt": 1.0},
            "refinement": {
                "ladder": {"kind": "iterations", "stop": 4},
                "ema_window": 2,
                "error_window": 1,
            },
            "network": {"hidden": [8], "activation": "tanh"},
            "training": {
                "epochs": 3,
                "batch_size": 4,
                "learning_rate": 1e-2,
                "precision": "float64",
            },
            "data": {"train": 10, "validation": 3, "modes": 2},
        },
        changes,
    )


def corrector(output, **changes):
    """A config of the heat corrector on 8 points, from data of a grid twice as fine."""
    content = emulator(output, task="corrector", name="tiny_corrector")
    section = {"corrector": {"unroll": 2, "validation_steps": [1, 3]}}
    content["data"]["stride"] = 5  # one sample per trajectory
    return _changed(content | section, {"data": {"reference_factor": 2}} | changes)


def inverse(output, **changes):
    """A config of the inverse problem on 8 points."""
    return _changed(
        {
            "task": "inverse",
            "name": "tiny_inverse",
            "output": str(output),
            "grid": {"shape": [8]},
            "physics": {"pde": "poisson"},
            "refinement": {"ladder": {"kind": "iterations", "start": 5, "step": 5, "stop": 50}},
            "training": {"epochs": 3},
        },
        changes,
    )


def field_inversion(output, **changes):
    """A config of a field inversion on 8 × 8 points, with little noise."""
    return _changed(
        {
            "task": "field_inversion",
            "name": "tiny_field",
            "output": str(output),
            "grid": {"shape": [8, 8]},
            "physics": {"pde": "poisson"},
            "solver": {"ksp": "cg", "pc": "jacobi"},
            "refinement": {
                "ladder": {"kind": "iterations", "start": 4, "stop": 12},
                "level": 1e-12,
                "ema_window": 1,
                "error_window": 1,
            },
            "experiments": {"count": 5, "wells": 4, "points": 5},
            "regularisation": {"kind": "h1", "weight": 1e-2},
            "training": {"epochs": 3, "steps": 2},
        },
        changes,
    )


def amortised_inversion(output, **changes):
    """A config of an amortised inversion on 8 × 8 points."""
    return _changed(
        {
            "task": "amortised_inversion",
            "name": "tiny_amortised",
            "output": str(output),
            "grid": {"shape": [8, 8]},
            "physics": {"pde": "poisson"},
            "solver": {"ksp": "cg", "pc": "jacobi"},
            "refinement": {"ladder": {"kind": "iterations", "start": 4, "stop": 12}},
            "network": {"kind": "unet", "channels": 4, "depth": 1, "activation": "tanh"},
            "truth": {"waves": 0.5, "contrast": 10.0},
            "experiments": {"count": 3, "wells": 4, "points": None},
            "training": {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2},
            "data": {"train": 8, "validation": 3},
        },
        changes,
    )


def write(path, content):
    """A config as a YAML file; returns its path as text."""
    Path(path).write_text(yaml.safe_dump(content))
    return str(path)


def rows(folder, *without):
    """The lines of a run's metrics, without measured seconds."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in SECONDS.union(without)}
        for line in lines
    ]


def summary(folder, *without):
    """The summary of a run, without measured seconds."""
    content = json.loads((Path(folder) / "summary.json").read_text())
    return {key: value for key, value in content.items() if key not in SECONDS.union(without)}


def environment():
    """The environment of this process without variables of an MPI launcher; one thread per rank."""
    launchers = ("PMI", "HYD", "MPI_", "MPIEXEC")
    return {key: value for key, value in os.environ.items() if not key.startswith(launchers)} | {
        "OMP_NUM_THREADS": "1"
    }


def command(ranks, *arguments):
    """The command line of `prdp-hpc` on some ranks; 0 ranks: without mpiexec."""
    launcher = [str(BIN / "mpiexec"), "-n", str(ranks)] if ranks else []
    return [*launcher, str(BIN / "prdp-hpc"), *map(str, arguments)]


def prdp_hpc(ranks, *arguments, timeout=60):
    """Run `prdp-hpc` until it exits; stdout and stderr as text."""
    return _run(command(ranks, *arguments), timeout)


def python(ranks, *arguments, timeout=60):
    """Run Python on some ranks until its successful exit; stdout and stderr as text."""
    words = [str(BIN / "mpiexec"), "-n", str(ranks), sys.executable, *map(str, arguments)]
    ended = _run(words, timeout)
    assert ended.returncode == 0, ended.stderr
    return ended


def _run(words, timeout):
    return subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, env=environment(), check=False
    )


@dataclass(frozen=True)
class Done:
    """One of many command lines: the exit code of each rank, and the output of all ranks."""

    codes: list[int]
    stdout: str
    stderr: str


# All ranks append to one file per command line, because the launcher's output has no order.
_MANY = """
import json, os, sys
import prdp_hpc
from prdp_hpc.cli import main
from mpi4py import MPI
import torch.distributed
folder, lines = sys.argv[1], json.loads(sys.argv[2])
SETUP
for number, words in enumerate(lines):
    for descriptor, name in ((1, "out"), (2, "err")):
        path = os.path.join(folder, f"{number}.{name}")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    code = 0
    try:
        main(words)
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    codes = MPI.COMM_WORLD.gather(code)
    if torch.distributed.is_initialized():  # by a run that failed
        torch.distributed.destroy_process_group()
    if MPI.COMM_WORLD.rank == 0:
        with open(os.path.join(folder, f"{number}.codes"), "w") as file:
            json.dump(codes, file)
"""


def many(ranks, lines, setup="", timeout=240):
    """Run command lines of `prdp-hpc` one after the other in one start of mpiexec: importing torch
    takes longer than most of them. `setup`: Python to run before.
    """
    lines = [[*map(str, words)] for words in lines]
    words = [str(BIN / "mpiexec"), "-n", str(ranks), sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ended = subprocess.run(
            [*words, _MANY.replace("SETUP", setup), name, json.dumps(lines)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment(),
            check=False,
        )
        last = "".join(path.read_text() for path in sorted(folder.glob("*.err"))[-1:])
        assert ended.returncode == 0, ended.stderr + last
        return [
            Done(
                json.loads((folder / f"{number}.codes").read_text()),
                (folder / f"{number}.out").read_text(),
                (folder / f"{number}.err").read_text(),
            )
            for number in range(len(lines))
        ]


def _changed(content, changes):
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(content.get(key), dict)
        # A changed PDE or type of network has other keys.
        both = both and not any(
            tag in value and value[tag] != content[key].get(tag) for tag in ("pde", "kind")
        )
        content[key] = {**content[key], **value} if both else value
    return content
