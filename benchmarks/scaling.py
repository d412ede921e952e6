"""Strong and weak scaling of a training step and its parts, against the model of `prdp-hpc plan`.

    python benchmarks/scaling.py [--quick | --model]

The parameters of the model are fitted to problems on one rank, once on an idle machine and once
with a process on every other core (they share caches and memory); latency and bandwidth of messages
are fitted to a ping-pong. The predictions are compared with measured training steps on several
ranks. The target is an error of at most 20 % on 2 ranks for each part. Messages, bytes and
all-reduces are from PETSc's log and the counters of halos. Everything is measured three times in
turns, since the speed of a machine drifts, and the medians are shown. Writes
`results/scaling.json`, `results/machine.json` for `prdp-hpc plan --machine`, and
`docs/results/figures/scaling.png`. With `--model` nothing is measured: only the predictions for up
to 4,096 GPUs of the preset are computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import RESULTS, save, table
from prdp_hpc.config import EmulatorConfig, validate
from prdp_hpc.files import write_json
from prdp_hpc.planning import MACHINES, Machine, StepCost, best, splits, step_cost, workload_of

TARGET = 0.2
PARTS = ("solver", "adjoint", "network", "step")
CHILD = Path(__file__).with_name("scaling_ranks.py")
LARGE = {"train": 8, "validation": 1, "modes": 5}
TRAJECTORIES = {"train": 200, "validation": 5, "modes": 5}
"""The default number of trajectories, which every replica stores."""


def config(
    shape: list[int], output: str, batch: int = 4, data: dict[str, int] = LARGE
) -> EmulatorConfig:
    """The heat emulator with a ResNet that is distributed over the ranks, CG with Jacobi."""
    content = {
        "task": "emulator",
        "name": "scaling",
        "output": output,
        "grid": {"shape": shape},
        "physics": {"pde": "heat", "diffusivity": 1e-3, "dt": 1.0},
        "solver": {"ksp": "cg", "pc": "jacobi"},
        "refinement": {"schedule": "constant", "level": 20},
        "network": {"kind": "resnet", "channels": 16, "blocks": 2},
        "training": {"epochs": 1, "batch_size": batch},
        "data": data,
    }
    found = validate(content, "benchmark")
    assert isinstance(found, EmulatorConfig)
    return found


def on_ranks(ranks: int, action: str, **arguments: Any) -> dict[str, Any]:
    """The measurements of `scaling_ranks.py` on some ranks, one thread each."""
    command = [
        str(Path(sys.executable).with_name("mpiexec")),
        "-n",
        str(ranks),
        sys.executable,
        str(CHILD),
        action,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(
        [*command, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if ended.returncode != 0:
        raise SystemExit(ended.stderr)
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return measured


def fitted_machine(beside: int, sizes: list[list[int]], repetitions: int, folder: str) -> Machine:
    """The machine as measured by a rank while `beside` other ranks solve separate problems."""
    configs = [
        config(shape, folder).model_dump(mode="json") | {"name": f"fit-{shape[1]}"}
        for shape in sizes
    ]
    one = on_ranks(beside, "calibrate", repetitions=repetitions, configs=configs)
    wire = on_ranks(2, "wire", repetitions=repetitions)
    return Machine(
        name=f"this machine, {beside} ranks",
        **one,
        latency=wire["latency"],
        link=wire["link"],
        node_link=wire["link"],
        ranks_per_node=beside,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / beside,
    )


def cases(size: int, ranks: list[int]) -> list[tuple[str, list[int], int, int]]:
    """Type, shape, replicas and grid ranks of each measurement."""
    found = []
    for count in ranks:
        found.append(("strong, grid ranks", [size, size], 1, count))
        if count > 1:
            found.append(("strong, replicas", [size, size], count, 1))
            found.append(("weak, grid ranks", [size * count, size], 1, count))
    return found


def predicted(cost: StepCost) -> dict[str, float]:
    """The predicted seconds by the names of the measurements."""
    rest = cost.total - cost.solver - cost.adjoint
    return {"solver": cost.solver, "adjoint": cost.adjoint, "network": rest, "step": cost.total}


def measure(
    size: int, ranks: list[int], repetitions: int, alone: Machine, full: Machine, folder: str
) -> list[dict[str, Any]]:
    """All cases, measured and predicted: one rank with the rates on an idle machine."""
    rows = []
    for kind, shape, replicas, grid_ranks in cases(size, ranks):
        one = config(shape, folder)
        machine = alone if replicas * grid_ranks == 1 else full
        found = on_ranks(
            replicas * grid_ranks,
            "train",
            config=one.model_dump(mode="json"),
            grid_ranks=grid_ranks,
            repetitions=repetitions,
        )
        cost = step_cost(workload_of(one), machine, replicas, grid_ranks)
        model = predicted(cost)
        rows.append(
            {
                "kind": kind,
                "shape": shape,
                "replicas": replicas,
                "grid_ranks": grid_ranks,
                "measured": found,
                "predicted": model,
                "predicted_traffic": {
                    "messages": cost.messages,
                    "bytes": cost.sent,
                    "sums": cost.sums,
                },
                "difference": {part: model[part] / found[part] - 1.0 for part in PARTS},
            }
        )
        print(
            f"{kind}, {replicas} × {grid_ranks}: step {found['step']:.3f} s, predicted "
            f"{model['step']:.3f} s",
            flush=True,
        )
    return rows


def one_round(
    size: int, repetitions: int, cores: int
) -> tuple[Machine, Machine, list[dict[str, Any]]]:
    """The rates of a rank on an idle machine, those of a rank beside others, and the measurements
    right after them.
    """
    sizes = [[size, size * quarters // 4] for quarters in (1, 2, 3, 4)]
    with tempfile.TemporaryDirectory() as folder:
        alone, full = (fitted_machine(beside, sizes, repetitions, folder) for beside in (1, cores))
        return alone, full, measure(size, [1, 2, 4], repetitions, alone, full, folder)


def middle(found: Sequence[Any]) -> Any:
    """The medians of the numbers in equal structures; values other than floats are not changed."""
    first = found[0]
    if isinstance(first, dict):
        return {key: middle([one[key] for one in found]) for key in first}
    if isinstance(first, list):
        return [middle(ones) for ones in zip(*found, strict=True)]
    return statistics.median(found) if isinstance(first, float) else first


def results_table(rows: list[dict[str, Any]], cores: int) -> str:
    """Measured seconds, predicted over measured seconds, and messages per step."""
    headers = [
        "scaling",
        "replicas",
        "grid",
        *(f"{part} s" for part in PARTS),
        "predicted step",
        "messages",
        "MB",
        "sums",
        "target",
    ]
    lines = []
    for row in rows:
        ranks, found = row["replicas"] * row["grid_ranks"], row["measured"]
        off = row["difference"]["step"]
        within = all(abs(difference) <= TARGET for difference in row["difference"].values())
        judged = {1: "fitted", 2: "met" if within else "MISSED"}.get(ranks, "-")
        lines.append(
            [
                row["kind"],
                str(row["replicas"]),
                str(row["grid_ranks"]),
                *(f"{found[part]:.4f}" for part in PARTS),
                f"{row['predicted']['step']:.4f} ({off:+.0%})",
                f"{found['messages']:.0f}",
                f"{found['bytes'] / 1e6:.2f}",
                f"{found['sums']:.0f}",
                judged if ranks <= cores else "oversubscribed",
            ]
        )
    return table(headers, lines)


def extrapolated(ranks: list[int]) -> list[dict[str, Any]]:
    """The best split of three problems on up to 4,096 GPUs of the preset."""
    machine, found = MACHINES["gpu"], []
    for name, shape, batch in (
        ("256 × 256", [256, 256], 64),
        ("128³", [128] * 3, 64),
        ("512³", [512] * 3, 16),
    ):
        work = workload_of(config(shape, "runs", batch, TRAJECTORIES))
        for count in ranks:
            try:
                chosen = best(splits(work, machine, count), machine)
            except ValueError:
                continue
            found.append(
                {
                    "problem": f"{name}, batch {batch}",
                    "ranks": count,
                    "replicas": chosen.replicas,
                    "grid_ranks": chosen.grid_ranks,
                    "step": chosen.cost.total,
                    "speed_up": chosen.speed_up,
                    "efficiency": chosen.speed_up / count,
                    "gpu_memory": chosen.cost.network_memory,
                    "host_memory": chosen.cost.solver_memory,
                    "solver_share": 1.0
                    - (chosen.cost.total - chosen.cost.solver - chosen.cost.adjoint)
                    / chosen.cost.total,
                }
            )
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Speed-up of the best split over the number of GPUs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for problem in dict.fromkeys(row["problem"] for row in rows):
        mine = [row for row in rows if row["problem"] == problem]
        axes.loglog(
            [row["ranks"] for row in mine],
            [row["speed_up"] for row in mine],
            marker="o",
            markersize=3,
            label=problem,
        )
    ends = [1, max(row["ranks"] for row in rows)]
    axes.loglog(ends, ends, color="0.7", linewidth=1, label="ideal")
    axes.set(
        xlabel="GPUs",
        ylabel="speed-up against one",
        title="Heat emulator with a ResNet, best split, by the model (not measured)",
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def carry_on(far: list[dict[str, Any]]) -> None:
    """Print the predictions, and replace the earlier ones in the results."""
    headers = ["problem", "GPUs", "replicas × grid", "s", "speed-up", "solver", "GiB", "GiB beside"]
    lines = [
        [
            row["problem"],
            str(row["ranks"]),
            f"{row['replicas']} × {row['grid_ranks']}",
            f"{row['step']:.3g}",
            f"{row['speed_up']:.3g} ({row['efficiency']:.0%})",
            f"{row['solver_share']:.0%}",
            f"{row['gpu_memory'] / 2**30:.2f}",
            f"{row['host_memory'] / 2**30:.2f}",
        ]
        for row in far
    ]
    print(table(headers, lines))
    path = RESULTS / "scaling.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"extrapolated": far})
    draw(far, Path(__file__).parents[1] / "docs" / "results" / "figures" / "scaling.png")


def main() -> None:
    """Fit, measure, compare and predict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smaller grid and fewer repetitions")
    parser.add_argument(
        "--model", action="store_true", help="measure nothing, only carry the model on"
    )
    arguments = parser.parse_args()
    far = extrapolated([2**power for power in range(13)])
    if arguments.model:
        carry_on(far)
        return
    quick = arguments.quick
    cores, repetitions = len(os.sched_getaffinity(0)), 3 if quick else 9
    rounds = [one_round(64 if quick else 256, repetitions, cores) for _ in range(1 if quick else 3)]
    one, each = (middle([machines[i].to_dict() for machines in rounds]) for i in (0, 1))
    rows = middle([measured for *_, measured in rounds])
    lines = [[key, f"{one[key]:.3g}", f"{each[key]:.3g}"] for key in one if key != "name"]
    print(f"\n{table(['of a rank', 'alone', f'beside {cores - 1}'], lines)}")
    print(f"\n{results_table(rows, cores)}")
    if not quick:
        write_json(RESULTS / "machine.json", each)
        draw(far, Path(__file__).parents[1] / "docs" / "results" / "figures" / "scaling.png")
        save("scaling", {"alone": one, "fitted": each, "rows": rows, "extrapolated": far})


if __name__ == "__main__":
    main()
