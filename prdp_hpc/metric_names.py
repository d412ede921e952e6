"""Names of the measured quantities: keys of `metrics.jsonl`, `summary.json` and `comparison.json`.

A new name is added here and in `docs/reference/metrics.md`. This module imports nothing, since
reports use it and must load neither torch nor PETSc.
"""

from __future__ import annotations

LEVELS = ("level", "adjoint_level")
ITERATIONS = ("forward_iterations", "adjoint_iterations")
COUNTS = (*ITERATIONS, "solves", "adjoint_solves")
SOLVER_PARTS = ("assembly", "set_up", "solve", "gradient")
"""Parts of the time of a solve; the seconds of each are `<part>_seconds`."""
SECONDS = (
    "solver_seconds",
    *(f"{part}_seconds" for part in SOLVER_PARTS),
    "network_seconds",
    "data_seconds",
    "validation_seconds",
    "total_seconds",
)
"""`solver_seconds` is the sum of its parts. Together with the network, data and validation seconds
it is the total time without that of metrics and checkpoints. All are means over the ranks. On each
rank the parts add up to the total; time spent waiting for other ranks belongs to the part in which
the rank waits.
"""
CUMULATIVE = (*COUNTS, *SECONDS)
"""Entries of the metrics of an epoch that accumulate since the start of the run, also across
restarts with another number of ranks.
"""
PROBES = (*(f"probe_{name}" for name in COUNTS), "probe_seconds")
"""Cost of a schedule's gradient measurements: cumulative, and included in the other entries. Only
runs with a schedule that measures gradients have these.
"""
STEP_NUMBERS = ("learning_rate", "gradient_norm")
"""Numbers of the last step of the optimiser, of tasks that have them."""
RATES = ("samples_per_second", "memory_gib", "gpu_memory_gib", "solver_share")
"""Speed, memory and share of the solver since the previous line; measured, like `SECONDS`."""
STEPS = "steps.jsonl"
"""File in a run folder with one line every `training.log_every` steps."""
INNER_ITERATIONS = "inner_iterations"
"""Sum of forward and adjoint iterations; in summaries only."""
SHOWN_SECONDS = ("solver_seconds", "network_seconds", "total_seconds")
SAVED = (INNER_ITERATIONS, "solver_seconds", "total_seconds")
"""Quantities for which a comparison computes savings, and for which it may have targets."""
LINE_NUMBERS = ("epoch", *LEVELS, *ITERATIONS, *SHOWN_SECONDS)
"""Keys of each line of `metrics.jsonl` whose values must be numbers; other values may be null.
Lines also have `step`, except those of older versions.
"""
SUMMARY_NUMBERS = ("level", *ITERATIONS, INNER_ITERATIONS, *SHOWN_SECONDS)
"""Keys of `summary.json` whose values must be numbers, and for which a comparison has statistics.
"""
FIELDS = "fields.npz"
"""File in a run folder with the fields that an inversion has found."""
SAMPLE_FIELDS = "sample_fields.npz"
"""File in a run folder with true and predicted fields of a validation sample, for its figure."""
