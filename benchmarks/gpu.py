"""Solves and their gradients on a GPU: time, iterations, memory bandwidth, bytes over the bus.

    python benchmarks/gpu.py [--unknowns 1e6,1e7] [--quick]

2-D Poisson on a square, right-hand sides and κ on the device. Per size: conjugate gradients with
Jacobi to 1e-6, with GAMG and with geometric multigrid to 1e-8, forward, backward, and forward with
another κ (assembly and set-up counted). Then the achieved share of the bandwidth of a
device-to-device copy, in bytes that one iteration must move, and what crosses the bus in a training
step (scalars aside), as CUPTI counts it.

Published for comparison: torch-sla's Jacobi-CG on an H200, 0.19 s at 10⁶ and 89 s at 10⁸.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.common import save, table
from prdp_hpc import Grid, Heat, Poisson, Refinement, Solver

DEVICE = torch.device("cuda")
METHODS = [
    ("cg", "jacobi", 1e-6),
    ("batched_cg", "jacobi", 1e-6),
    ("cg", "gamg", 1e-8),
    ("cg", "mg", 1e-8),
]
ITERATION_BYTES = {"cg": 5 * 12 + 4 + 13 * 8, "batched_cg": 5 * 8 + 13 * 8}
"""What an iteration of Jacobi-CG must move at least per unknown: the matrix (five values; by rows
also their columns and a row pointer), and 13 reads and writes of vectors.
"""


def seconds(call: Callable[[], Any], repetitions: int) -> float:
    """The median time of a call, the device's work included."""
    times = []
    for _ in range(repetitions):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bandwidth() -> float:
    """Bytes per second of a device-to-device copy, read and written."""
    source = torch.empty(2**27, dtype=torch.float64, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), 20)


def poisson_row(n: int, ksp: str, pc: str, rtol: float, copy: float) -> dict[str, Any]:
    """One method on n × n unknowns."""
    start = time.perf_counter()
    grid = Grid((n, n), "dirichlet")
    solver = Solver(ksp, pc, Refinement(rtol=rtol))
    poisson = Poisson(grid, solver)
    f = torch.randn(n, n, dtype=torch.float64, device=DEVICE).requires_grad_()
    poisson(f)
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    report = solver.report.forward
    iterations, set_up = report.iterations / report.solves, report.set_up_seconds
    repetitions = 1 if n > 2000 else 3
    with torch.no_grad():
        forward = seconds(lambda: poisson(f), repetitions)
    u = poisson(f)
    weights = torch.randn_like(u)
    backward = seconds(lambda: torch.autograd.grad(u, f, weights, retain_graph=True), repetitions)
    kappa = torch.ones(n, n, dtype=torch.float64, device=DEVICE)

    def with_new_values() -> None:
        poisson.diffusivity = kappa.mul_(1.01)
        poisson(f.detach())

    with_new_values()
    new_values = seconds(with_new_values, repetitions)
    size = n * n
    ideal = size * ITERATION_BYTES[ksp] / copy
    return {
        "unknowns": size,
        "method": f"{ksp} + {pc}",
        "rtol": rtol,
        "iterations": iterations,
        "first_call_s": first,
        "set_up_s": set_up,
        "forward_s": forward,
        "backward_s": backward,
        "new_values_s": new_values,
        "backward_over_forward": backward / forward,
        "microseconds_per_iteration": 1e6 * forward / iterations,
        "share_of_bandwidth": ideal * iterations / forward if pc == "jacobi" else float("nan"),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def bytes_over_the_bus(n: int) -> dict[str, float]:
    """What a step of a small network and a heat solve moves between host and device."""
    grid = Grid((n, n), "periodic")
    heat = Heat(grid, 1e-2, 0.5, Solver("cg", "jacobi", 8))
    network = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular").to(DEVICE).double()
    optimizer = torch.optim.Adam(network.parameters(), foreach=True)
    state = torch.randn(4, 1, n, n, dtype=torch.float64, device=DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        heat(network(state)).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    moved = {"HtoD": 0, "DtoH": 0}
    largest = dict(moved)
    for event in events:
        for direction in moved:
            if event.get("cat") == "gpu_memcpy" and direction in event["name"]:
                size = int(event["args"]["bytes"])
                moved[direction] += size
                largest[direction] = max(largest[direction], size)
    return {
        "unknowns": float(n * n),
        **{f"bytes_{name}": float(size) for name, size in moved.items()},
        **{f"largest_copy_{name}": float(size) for name, size in largest.items()},
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unknowns", default="1e6,1e7", help="sizes, separated by commas")
    parser.add_argument("--quick", action="store_true", help="10⁵ unknowns only")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU is visible: this benchmark measures one")
    sizes = [1e5] if arguments.quick else [float(size) for size in arguments.unknowns.split(",")]
    copy = bandwidth()
    print(f"{torch.cuda.get_device_name()}: copy {copy / 1e9:.0f} GB/s", flush=True)
    rows = []
    for size in sizes:
        for ksp, pc, rtol in METHODS:
            if pc != "jacobi" and size > 3e7:
                continue
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            rows.append(poisson_row(round(size**0.5), ksp, pc, rtol, copy))
            print(rows[-1], flush=True)
    bus = bytes_over_the_bus(256)
    print(bus)
    names = [name for name in rows[0] if name != "first_call_s"]
    print(table(names, [[_text(row[name]) for name in names] for row in rows]))
    content = {"card": torch.cuda.get_device_name(), "copy_bytes_per_s": copy}
    save("gpu", {**content, "poisson": rows, "bus": bus})


if __name__ == "__main__":
    main()
