"""Tables and figures from the files of a run alone."""

from prdp_hpc.report.figures import plot_comparison, plot_run, plot_runs
from prdp_hpc.report.runs import ComparisonRecord, ReportError, RunRecord, load_comparison, load_run, read_metrics
from prdp_hpc.report.tables import compare_summaries, comparison_table, run_table, savings

__all__ = [
    "ComparisonRecord",
    "ReportError",
    "RunRecord",
    "compare_summaries",
    "comparison_table",
    "load_comparison",
    "load_run",
    "plot_comparison",
    "plot_run",
    "plot_runs",
    "read_metrics",
    "run_table",
    "savings",
]
