"""Tables and figures of runs, from their files only."""

from prdp_hpc.report.comparison_figure import plot_comparison
from prdp_hpc.report.comparisons import (
    ComparisonRecord,
    compare_runs,
    cost_at_final_level,
    is_comparison,
    load_comparison,
    read_result,
    seed_folders,
)
from prdp_hpc.report.field_figure import plot_fields
from prdp_hpc.report.field_series import has_sample, load_sample
from prdp_hpc.report.figures import plot_run, plot_runs
from prdp_hpc.report.gradients import gradients_table, plot_gradients
from prdp_hpc.report.inversion_figure import has_fields, plot_inversion
from prdp_hpc.report.inversion_table import has_inversion_metrics, inversion_table
from prdp_hpc.report.paper import paper_markdown, paper_table
from prdp_hpc.report.runs import ReportError, RunRecord, load_run, read_metrics
from prdp_hpc.report.tables import comparison_table, run_table
from prdp_hpc.report.variants_figure import plot_variants

__all__ = [
    "ComparisonRecord",
    "ReportError",
    "RunRecord",
    "compare_runs",
    "comparison_table",
    "cost_at_final_level",
    "gradients_table",
    "has_fields",
    "has_inversion_metrics",
    "has_sample",
    "inversion_table",
    "is_comparison",
    "load_comparison",
    "load_run",
    "load_sample",
    "paper_markdown",
    "paper_table",
    "plot_comparison",
    "plot_fields",
    "plot_gradients",
    "plot_inversion",
    "plot_run",
    "plot_runs",
    "plot_variants",
    "read_metrics",
    "read_result",
    "run_table",
    "seed_folders",
]
