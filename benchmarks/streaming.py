"""Training from a file in comparison with training from memory.

python benchmarks/streaming.py [--quick] [--folder FOLDER]

Small file: an emulator of the heat equation is trained on the same windows, held in memory and read
from the file; epochs alternate. "cold" removes the file from the page cache before each epoch, so
that it is read from the disk. Large file: a sparse HDF5 file of more than 20 GB, in which the
windows that are read have numbers, is trained on under `ulimit -v` of 2 GiB per process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from common import save, table
from side_by_side import under_mpiexec

STATES, BATCH = 7, 20
CASES = {
    "20 iterations": {"points": 64, "channels": 16, "blocks": 1, "level": 20},
    "1 iteration": {"points": 64, "channels": 4, "blocks": 1, "level": 1},
}
LARGE = {"points": 256, "channels": 8, "blocks": 1, "level": 5}
LARGE_TRAJECTORIES, LARGE_STEPS = 12_000, 12
ADDRESS_SPACE_KIB = 2 * 2**20


def config(folder: Path, name: str, case: dict[str, int], **data: Any) -> dict[str, Any]:
    """An emulator of the 2-D heat equation."""
    return {
        "task": "emulator",
        "name": name.replace(" ", "_"),
        "output": str(folder),
        "grid": {"shape": [case["points"]] * 2, "boundary": "periodic"},
        "physics": {"pde": "heat", "diffusivity": 1e-3, "dt": 0.1},
        "solver": {"ksp": "cg", "pc": "jacobi"},
        "network": {"kind": "resnet", "channels": case["channels"], "blocks": case["blocks"]},
        "training": {"batch_size": BATCH},
        "data": data,
    }


def made(content: dict[str, Any], level: int) -> Any:
    """A task of a config, on all ranks as replicas."""
    from prdp_hpc.config import validate
    from prdp_hpc.distributed.process_mesh import ProcessMesh
    from prdp_hpc.experiments.build import build_task

    task: Any = build_task(validate(content, "benchmark"), ProcessMesh.from_world(1))
    task.solver.refine(level)
    return task


def write_small(path: Path, points: int, trajectories: int) -> None:
    """Random states, one per chunk."""
    from prdp_hpc.data import TrajectoryAttributes, write_trajectories

    random = np.random.default_rng(0)
    groups = {
        group: random.standard_normal((count, STATES, 1, points, points)).astype(np.float32)
        for group, count in {"train": trajectories, "validation": 2}.items()
    }
    about = TrajectoryAttributes("random", (points,) * 2, "periodic", 1.0, {}, ("u",), "none")
    write_trajectories(path, groups, about)


def write_large(path: Path) -> None:
    """A sparse file; only what the first steps of the first epoch read has numbers."""
    from prdp_hpc.data import EpochSampler, Windows

    random, points = np.random.default_rng(0), LARGE["points"]
    windows = Windows(LARGE_TRAJECTORIES, STATES, 3)
    batches = EpochSampler(len(windows), BATCH, 1).batches(1)[: LARGE_STEPS + 2]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((LARGE_TRAJECTORIES, STATES, 1, points, points))
        group = file.create_group("train").id
        h5py.h5d.create(group, b"trajectories", h5py.h5t.IEEE_F32LE, space, properties)
        train = file["train/trajectories"]
        for sample in np.concatenate(batches):
            trajectory, start = windows.place(int(sample))
            train[trajectory, start : start + 3] = random.standard_normal((3, 1, points, points))
        states = random.standard_normal((2, STATES, 1, points, points)).astype(np.float32)
        file["validation/trajectories"] = states


def measure_small(folder: Path, path: Path, name: str, repetitions: int) -> dict[str, Any]:
    """Samples per second of whole epochs, in memory and streamed, in turn."""
    case = CASES[name]
    kinds = {"memory": True, "streamed": False, "cold": False}
    tasks = {
        kind: made(
            config(folder, f"{name} {kind}", case, file=str(path), in_memory=in_memory),
            case["level"],
        )
        for kind, in_memory in kinds.items()
    }
    world = tasks["memory"].mesh.world
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    processor: dict[str, list[float]] = {kind: [] for kind in kinds}
    for epoch in range(1, repetitions + 2):
        # Each kind comes first, second and third equally often.
        order = [list(tasks)[(epoch + place) % len(tasks)] for place in range(len(tasks))]
        for kind in order:
            task = tasks[kind]
            if kind == "cold" and world.rank == 0:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            world.barrier()
            start = time.perf_counter(), time.process_time()
            task.train_epoch(epoch)
            seconds[kind].append(time.perf_counter() - start[0])
            # Of all threads; unlike the wall-clock time it does not depend on other processes.
            processor[kind].append(time.process_time() - start[1])
    # The first epoch includes the set-up of solvers and kernels.
    medians = {kind: statistics.median(found[1:]) for kind, found in seconds.items()}
    memory = tasks["memory"]
    equal = all(
        all((one == two).all() for one, two in zip(memory.network.parameters(),
                                                   task.network.parameters(), strict=True))
        for task in tasks.values()
    )  # fmt: skip
    return {
        "samples_per_second": {
            kind: memory.samples_per_epoch / found for kind, found in medians.items()
        },
        "relative_speed": _relative(seconds),
        "relative_processor_time": {
            kind: 1.0 / found for kind, found in _relative(processor).items()
        },
        "bytes_per_sample": 3 * 4 * case["points"] ** 2,
        "same_parameters": equal,
    }


def _relative(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The median of the seconds in memory over those of each kind, epoch by epoch."""
    return {
        kind: statistics.median(
            a / b for a, b in zip(seconds["memory"][1:], found[1:], strict=True)
        )
        for kind, found in seconds.items()
    }


def measure_large(folder: Path, path: Path) -> dict[str, Any]:
    """Memory of a rank while it trains on the large file."""
    content = config(folder, "large", LARGE, file=str(path), in_memory="auto")
    task = made(content, LARGE["level"])
    before, start = _read_bytes(), time.perf_counter()
    task.validate()
    loss = task.train_steps(0, LARGE_STEPS)
    seconds = time.perf_counter() - start
    task.close()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peaks = {name: int(status[key].split()[0]) / 2**20 for name, key in
             {"resident_gib": "VmHWM", "address_space_gib": "VmPeak"}.items()}  # fmt: skip
    world = task.mesh.world
    return {
        "file_gib": path.stat().st_size / 2**30,
        "streamed": task._data.train.streamed,
        "loss_is_finite": bool(np.isfinite(loss)),
        "samples_per_second": LARGE_STEPS * BATCH / seconds,
        "gib_read_by_all_ranks": world.allreduce(_read_bytes() - before) / 2**30,
        **{name: max(world.allgather(value)) for name, value in peaks.items()},
    }


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))


def run(ranks: int, *arguments: str, limit: int | None = None) -> dict[str, Any]:
    """Measure in new processes; the result is the last line of the output."""
    command = under_mpiexec(ranks, __file__, *arguments)
    if limit is not None:
        command = ["bash", "-c", f'ulimit -v {limit}; exec "$@"', "bash", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Write the files, measure on 1 and 2 ranks, and write `benchmarks/results/streaming.json`."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    parser.add_argument("--folder", type=Path, help="where the files are written")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repetitions = 3 if arguments.quick else 30
    if arguments.measure:
        folder = arguments.folder
        found = (
            measure_large(folder, arguments.file)
            if arguments.measure == "large"
            else measure_small(folder, arguments.file, arguments.measure, repetitions)
        )
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(found), flush=True)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_small(folder / "small.h5", 64, 30 if arguments.quick else 60)
        write_large(folder / "large.h5")
        quick = ["--quick"] if arguments.quick else []
        results: dict[str, Any] = {}
        for ranks in (1, 2):
            for case in CASES:
                words = ["--measure", case, "--file", str(folder / "small.h5"), *quick]
                results[f"{case}, {ranks} rank(s)"] = run(ranks, "--folder", name, *words)
            words = ["--measure", "large", "--file", str(folder / "large.h5")]
            results[f"large file, {ranks} rank(s)"] = run(
                ranks, "--folder", name, *words, limit=ADDRESS_SPACE_KIB
            )
    show(results)
    save("streaming", results)


def show(results: dict[str, Any]) -> None:
    """Print tables of the results."""
    small = {name: found for name, found in results.items() if "relative_speed" in found}
    large = {name: found for name, found in results.items() if name not in small}
    print(
        table(
            ["", "in memory, samples/s", "streamed", "relative speed", "from the disk", "CPU time"],
            [
                [
                    name,
                    f"{found['samples_per_second']['memory']:.0f}",
                    f"{found['samples_per_second']['streamed']:.0f}",
                    f"{found['relative_speed']['streamed']:.1%}",
                    f"{found['relative_speed']['cold']:.1%}",
                    f"{found['relative_processor_time']['streamed']:.1%}",
                ]
                for name, found in small.items()
            ],
        )
    )
    print()
    print(
        table(
            ["", "file, GiB", "resident, GiB", "address space, GiB", "samples/s"],
            [
                [
                    name,
                    f"{found['file_gib']:.1f}",
                    f"{found['resident_gib']:.2f}",
                    f"{found['address_space_gib']:.2f}",
                    f"{found['samples_per_second']:.0f}",
                ]
                for name, found in large.items()
            ],
        )
    )


if __name__ == "__main__":
    sys.exit(main())
