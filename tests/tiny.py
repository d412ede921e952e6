"""Configs that train in under a second, and `prdp-hpc` started as by a user."""

import json
import os
import subprocess
import sys
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
    return subprocess.run(
        command(ranks, *arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        check=False,
    )


def _changed(content, changes):
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(content.get(key), dict)
        # A changed PDE or type of network has other keys.
        both = both and not any(
            tag in value and value[tag] != content[key].get(tag) for tag in ("pde", "kind")
        )
        content[key] = {**content[key], **value} if both else value
    return content
