"""Seconds of a backward pass whose gradients are averaged by MPI or by gloo.

    python benchmarks/gradients_transport.py [--quick]

Networks of 10³ to 10⁷ parameters on 2 and 4 ranks. Both kinds alternate in the same job, and each
time is that of the slowest rank from a common start. Other work on the machine only adds time, so
the least time is compared too. The backward pass without an all-reduce is
measured too, so that the difference is the communication that computation does not hide.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import save, table
from mpi4py import MPI
from torch import nn

from prdp_hpc import ProcessMesh

RANKS = (2, 4)
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
LAYERS = 8
KINDS = ("none", "gloo", "mpi")


class Products(nn.Module):
    """A network with cheap passes: the sum of all parameters times the input."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.layers = nn.ParameterList(torch.ones(parameters // LAYERS) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor with one element."""
        return torch.stack([(layer * x).sum() for layer in self.layers]).sum().reshape(1)


def measure(repetitions: int) -> None:
    """Measure on these ranks; rank 0 prints one JSON line."""
    world = MPI.COMM_WORLD
    meshes = {
        "gloo": ProcessMesh.from_world(gradients="torch"),
        "mpi": ProcessMesh.from_world(gradients="mpi"),
    }
    found = {}
    for size in SIZES:
        networks: dict[str, nn.Module] = {"none": Products(size)}
        networks |= {kind: mesh.data_parallel(Products(size)) for kind, mesh in meshes.items()}
        actions = {kind: _step(network) for kind, network in networks.items()}
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for repetition in range(repetitions + 2):
            # Each kind is first in turn.
            for place in range(len(KINDS)):
                kind = KINDS[(place + repetition) % len(KINDS)]
                world.Barrier()
                start = time.perf_counter()
                actions[kind]()
                slowest = world.allreduce(time.perf_counter() - start, op=MPI.MAX)
                if repetition >= 2:  # DDP determines its buckets in the first step
                    seconds[kind].append(slowest)
        found[size] = {
            name: {kind: number(all_) for kind, all_ in seconds.items()}
            for name, number in (("median", statistics.median), ("best", min))
        }
    if world.rank == 0:
        print(json.dumps(found), flush=True)


def _step(network: nn.Module) -> Callable[[], None]:
    x = torch.ones(1)

    def action() -> None:
        network.zero_grad(set_to_none=True)
        network(x).sum().backward()

    return action


def on_ranks(ranks: int, repetitions: int) -> dict[str, dict[str, dict[str, float]]]:
    """The medians and minima of `measure` on some ranks, by the number of parameters."""
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    words = [mpiexec, "-n", str(ranks), sys.executable, __file__, "--measure", str(repetitions)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=1200)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    found: dict[str, dict[str, dict[str, float]]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print and save the table."""
    repetitions = 8 if "--quick" in sys.argv else 30
    rows, results = [], []
    for ranks in RANKS:
        for size, numbers in on_ranks(ranks, repetitions).items():
            ratios = {name: all_["mpi"] / all_["gloo"] for name, all_ in numbers.items()}
            row = {"ranks": ranks, "parameters": int(size), "mpi / gloo": ratios}
            results.append(row | {"seconds": numbers})
            shown = [f"{1e3 * numbers['median'][kind]:.2f}" for kind in KINDS]
            shown += [f"{ratios[name]:.2f}" for name in ("median", "best")]
            rows.append([str(ranks), size, *shown])
    headers = ["ranks", "parameters", "no sum (ms)", "gloo (ms)", "MPI (ms)", "MPI / gloo", "best"]
    print(table(headers, rows))
    save("gradients_transport", {"repetitions": repetitions, "results": results})


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure(int(sys.argv[-1]))
    else:
        main()
