"""The names of what a run measures: keys of `metrics.jsonl`, `summary.json` and `comparison.json`.

A new one is added here, and to `docs/reference/metrics.md`. Loads nothing, since reports use it.
"""

from __future__ import annotations

LEVELS = ("level", "adjoint_level")
ITERATIONS = ("forward_iterations", "adjoint_iterations")
COUNTS = (*ITERATIONS, "solves", "adjoint_solves")
SOLVER_PARTS = ("assembly", "set_up", "solve", "gradient")
"""Parts of a solve's time; the seconds of each are `<part>_seconds`."""
SECONDS = (
    "solver_seconds",
    *(f"{part}_seconds" for part in SOLVER_PARTS),
    "network_seconds",
    "data_seconds",
    "validation_seconds",
    "total_seconds",
)
"""`solver_seconds` is the sum of its parts. With network, data and validation it makes up the total
but for metrics and checkpoints. All are means over the ranks: the parts of each rank add up to its
time, in which those that wait for it are counted by the part in which they wait.
"""
CUMULATIVE = (*COUNTS, *SECONDS)
"""Entries of an epoch's metrics that count since the run began, whatever number of ranks earlier
parts of it had.
"""
PROBES = (*(f"probe_{name}" for name in COUNTS), "probe_seconds")
"""What a schedule's measurements of gradients took, cumulative too; in the other entries as well.
Only in runs with a schedule that measures gradients.
"""
INNER_ITERATIONS = "inner_iterations"
"""Forward and adjoint iterations together; in summaries only."""
SHOWN_SECONDS = ("solver_seconds", "network_seconds", "total_seconds")
SAVED = (INNER_ITERATIONS, "solver_seconds", "total_seconds")
"""What a comparison compares, and its targets are about."""
LINE_NUMBERS = ("epoch", *LEVELS, *ITERATIONS, *SHOWN_SECONDS)
"""Keys of each line of `metrics.jsonl` that must be numbers; the others may be null."""
SUMMARY_NUMBERS = ("level", *ITERATIONS, INNER_ITERATIONS, *SHOWN_SECONDS)
"""Keys of `summary.json` that must be numbers, and of which a comparison has statistics."""
FIELDS = "fields.npz"
"""The file of a run folder with the fields that a task has found."""
