"""Synthetic run folders like those of real runs: the error decreases and levels off, the level
increases.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WriteRun = Callable[..., Path]


def metric_lines(
    epochs: int, levels: list[float], seed: int = 0, inverse: bool = False, floor: float = 0.03
) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    forward = 0
    for epoch in range(epochs + 1):
        error = floor + 0.9 * float(np.exp(-epoch / 6) * np.exp(0.05 * random.standard_normal()))
        forward += 8 * int(levels[epoch]) if epoch else 0
        seconds = forward * 1e-3
        lines.append(
            {
                "epoch": epoch,
                "loss": error / 3 if epoch else None,
                "error": error,
                **(
                    {"parameters": [2.0 + error]}
                    if inverse
                    else {"error_1": error / 2, "error_2": error}
                ),
                "level": levels[epoch],
                "adjoint_level": levels[epoch],
                "forward_iterations": forward,
                "adjoint_iterations": forward,
                "solves": 16 * epoch,
                "solver_seconds": seconds,
                "network_seconds": 0.4 * epoch,
                "total_seconds": seconds + 0.4 * epoch,
            }
        )
    return lines


def summary_of(name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    last = lines[-1]
    keys = ["error", "error_1", "error_2", "level", "forward_iterations", "adjoint_iterations"]
    keys += ["solver_seconds", "network_seconds", "total_seconds"]
    return {
        "name": name,
        "task": "inverse" if "parameters" in last else "emulator",
        "schedule": "prdp",
        "seed": 1,
        "epochs": last["epoch"],
        "ranks": 1,
        "grid_ranks": 1,
        **{key: last[key] for key in keys if key in last},
        "inner_iterations": last["forward_iterations"] + last["adjoint_iterations"],
        "savings": {"inner_iterations": 0.5},
    }


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write a run folder under `tmp_path` and return it; `finished=False` omits the summary."""

    def write(
        name: str = "run",
        finished: bool = True,
        epochs: int = 20,
        levels: list[float] | None = None,
        **options: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines = metric_lines(
            epochs, levels or [1 + epoch // 2 for epoch in range(epochs + 1)], **options
        )
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if finished:
            (folder / "summary.json").write_text(json.dumps(summary_of(folder.name, lines)))
        return folder

    return write
