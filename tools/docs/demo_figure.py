"""The figure of the README, from the runs of `make demo`: `python tools/docs/demo_figure.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "figures" / "demo.png"
RUNS = {
    "full": ("full refinement, 1e-8", "tab:orange"),
    "looser_full": ("full refinement, 1e-6", "tab:green"),
    "prdp": ("PRDP", "tab:blue"),
}


def main() -> None:
    """Draw the figure of the runs in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "demo-compare")
    runs = parser.parse_args().runs
    figure = plt.figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.9))
    image = _fields(axes[:3], runs)
    figure.colorbar(image, ax=list(axes[:3]), shrink=0.75, pad=0.02)
    _errors(axes[3], runs)
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=110)
    print(f"wrote {OUT}")


def _fields(axes: Any, runs: Path) -> Any:
    """A slice through the middle of the true field and of those that were found."""
    full, prdp = (np.load(runs / name / "fields.npz") for name in ("full", "prdp"))
    shown = (
        ("true field", full["truth"]),
        ("full refinement", full["log_permeability"]),
        ("PRDP", prdp["log_permeability"]),
    )
    for axis, (title, field) in zip(axes, shown, strict=True):
        image = axis.imshow(field[len(field) // 2], vmin=-3, vmax=3, cmap="viridis")
        axis.set_title(title, fontsize=10)
        axis.set(xticks=[], yticks=[])
    return image


def _errors(axis: Any, runs: Path) -> None:
    """The error of the field over the seconds of each run."""
    for name, (label, colour) in RUNS.items():
        text = (runs / name / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        seconds = [line["total_seconds"] for line in lines]
        iterations = lines[-1]["forward_iterations"] + lines[-1]["adjoint_iterations"]
        label = f"{label}: {iterations:,} iterations"
        axis.plot(seconds, [line["error_field"] for line in lines], color=colour, label=label)
        axis.plot(seconds[-1], lines[-1]["error_field"], "o", color=colour, markersize=4)
    axis.set_title("error of the field", fontsize=10)
    axis.set(xlabel="seconds on 2 cores", ylim=(0, 1.05))
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    main()
