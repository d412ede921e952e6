"""A comparison: its runs, and the savings of PRDP against full refinement and other baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prdp_hpc.files import file_errors
from prdp_hpc.metric_names import ITERATIONS, PROBES, SUMMARY_NUMBERS
from prdp_hpc.report.outcomes import deciding_error, outcome, tested_error
from prdp_hpc.report.runs import ReportError, RunRecord, load_object, load_run, need
from prdp_hpc.report.statistics import Statistics, statistics

_CONTENT = ("name", "seeds", "variants", "error_ratio", "equal_accuracy", "savings", "targets")


@dataclass(frozen=True, eq=False)
class ComparisonRecord:
    """The folder of a comparison, its runs by variant (one per seed, fewer until it has finished),
    and the content of `comparison.json`.

    The variants are `prdp`, `full`, `constant_<level>` and baselines, in that order; `content` is
    None until the comparison has finished.
    """

    path: Path
    name: str
    variants: Mapping[str, tuple[RunRecord, ...]]
    content: dict[str, Any] | None


def load_comparison(folder: str | Path) -> ComparisonRecord:
    """Read the comparison in `folder`: runs in `<variant>` or `seed_<s>/<variant>`.

    Raises `ReportError` if the folder or the run of PRDP or full refinement is missing, or if a
    file is invalid.
    """
    path = Path(folder)
    with file_errors(path, "cannot be read", "give the folder of a comparison"):
        return _load_comparison(path)


def _load_comparison(path: Path) -> ComparisonRecord:
    if not path.is_dir():
        raise ReportError(
            f"{path}: no such folder; give the folder of a comparison, e.g. runs/heat_2d-compare"
        )
    file = path / "comparison.json"
    content = load_object(file) if file.exists() else None
    if content is not None:
        need(content, _CONTENT, str(file))
    seeds = (
        seed_folders(path, content["seeds"])
        if content
        else (sorted(path.glob("seed_*"), key=_seed) or [path])
    )
    names = list(content["variants"]) if content else _variants_in(seeds)
    variants = {variant: _runs_of(variant, seeds) for variant in names}
    for variant in ("prdp", "full"):
        if not variants.get(variant):
            raise ReportError(
                f"{path}: contains no run named {variant}; give the folder of a comparison in "
                "which prdp and full have started"
            )
    name = str(content["name"]) if content else path.resolve().name.removesuffix("-compare")
    return ComparisonRecord(path, name, variants, content)


def read_result(file: Path) -> dict[str, Any]:
    """The content of an experiment's `<name>.json` that `prdp-hpc paper` wrote; raises
    `ReportError`.
    """
    content = load_object(file)
    need(
        content,
        ("experiment", "quick", *_CONTENT, "progressive_refinement", "incomplete_convergence"),
        str(file),
    )
    return content


def seed_folders(folder: Path, seeds: Sequence[int]) -> list[Path]:
    """The folder with the runs of each seed; for a single seed the folder of the comparison."""
    return [folder] if len(seeds) == 1 else [folder / f"seed_{seed}" for seed in seeds]


def is_comparison(folder: Path) -> bool:
    """Whether a folder contains the runs of a comparison."""
    with file_errors(folder, "cannot be read", "give the folder of a run or a comparison"):
        return any(
            path.is_dir() for pattern in ("prdp", "seed_*/prdp") for path in folder.glob(pattern)
        )


def compare_runs(
    name: str,
    seeds: Sequence[int],
    variants: Mapping[str, Sequence[RunRecord]],
    targets: Mapping[str, Mapping[str, float]] | None = None,
    schedules: Sequence[str] = (),
) -> dict[str, Any]:
    """Compute the content of `comparison.json` from finished runs, one per seed of each variant.

    `variants` contains the `Statistics` of each variant: all errors, the final level, iterations
    and seconds. `measure` is "error", or the name of an error that is not one of samples.
    `error_group` is the group of samples whose errors are compared: "test", evaluated
    once at the end of each run, if the data have this group, otherwise "validation". Errors are
    equal if the mean of PRDP's is at most 10 % above the mean of full refinement's; errors that are
    not finite are never equal. `error_intervals` are bootstrap intervals of the ratios, see
    `ratio_interval`, or null without errors of single samples. `savings` against every variant
    except constant levels is `1 − PRDP / other`, as `mean` of the means and `values` by seed.

    The savings of inner iterations have two parts, as in the paper. If C is the cost of the whole
    run at PRDP's final level, they are `incomplete_convergence = 1 − C / full` and
    `progressive_refinement = 1 − PRDP / C`, so that `(1 − PR) (1 − IC) = PRDP / full`.

    A target (`targets[other][measure]`, a share) is met if this share is saved at equal accuracy.
    `schedules` contains the same entries for the further schedules in `schedules`, instead of PRDP.
    Raises `ReportError` for a run that has not finished.
    """
    table = {variant: _variant(runs) for variant, runs in variants.items()}
    baselines = [
        other
        for other in variants
        if other not in ("prdp", *schedules) and not other.startswith("constant_")
    ]

    def of(schedule: str) -> dict[str, Any]:
        at_final_level = [cost_at_final_level(run) for run in variants[schedule]]
        return outcome(schedule, table, variants, baselines, at_final_level, targets or {})

    return {
        "name": name,
        "task": _summary(variants["prdp"][0])["task"],
        "measure": _summary(variants["prdp"][0]).get("measure", "error"),
        "seeds": list(seeds),
        "epochs": _summary(variants["prdp"][0])["epochs"],
        "error_group": "test" if deciding_error(table) == "test_error" else "validation",
        "variants": table,
        **of("prdp"),
        "schedules": {schedule: of(schedule) for schedule in schedules},
    }


def cost_at_final_level(run: RunRecord) -> float | None:
    """Inner iterations, forward and adjoint, that the whole run would need at its final level.

    This is the number of iterations per solve in the epochs at the final level, multiplied by the
    number of all solves, which also applies to tolerances. None for a run without solves, or whose
    metrics do not contain their number.
    """
    if "solves" not in run.metrics:
        return None
    levels = np.stack([run.metrics["level"], run.metrics["adjoint_level"]])
    final = (levels == levels[:, -1:]).all(axis=0)[1:]
    # Without the solves of gradient measurements, which are at other levels.
    all_iterations = sum(_trained(run, key) for key in ITERATIONS)
    all_solves = _trained(run, "solves")
    iterations, solves = (np.diff(column)[final].sum() for column in (all_iterations, all_solves))
    return float(iterations / solves * all_solves[-1]) if solves > 0 else None


def _trained(run: RunRecord, key: str) -> Any:
    """A count of the metrics without that of probes; shape (epochs,)."""
    return run.metrics[key] - run.metrics.get(f"probe_{key}", 0)


def _variant(runs: Sequence[RunRecord]) -> dict[str, Statistics]:
    summaries = [_summary(run) for run in runs]
    errors = [key for key in summaries[0] if key == "error" or key.startswith("error_")]
    table = {
        key: statistics([summary.get(key) for summary in summaries])
        for key in (*errors, *SUMMARY_NUMBERS)
    }
    tested = [tested_error(run) for run in runs]
    if None not in tested:
        table["test_error"] = statistics(tested)
    if all("probe_seconds" in summary for summary in summaries):
        table |= {key: statistics([summary[key] for summary in summaries]) for key in PROBES}
    return table


def _summary(run: RunRecord) -> dict[str, Any]:
    if run.summary is None:
        raise ReportError(
            f"{run.path}: has not finished, so there is nothing to compare yet; resume the "
            "comparison"
        )
    return run.summary


def _variants_in(seeds: Sequence[Path]) -> list[str]:
    found = {file.parent.name for seed in seeds for file in seed.glob("*/metrics.jsonl")}
    return sorted(found, key=_place)


def _place(variant: str) -> tuple[int, float, str]:
    """The sort key of a variant: PRDP, full refinement, further schedules, constant levels from
    coarse to fine, baselines.
    """
    level = variant.removeprefix("constant_")
    if level != variant:
        return 3, float(level), ""
    return {"prdp": 0, "full": 1, "gradient": 2}.get(variant, 4), 0.0, variant


def _runs_of(variant: str, seeds: Sequence[Path]) -> tuple[RunRecord, ...]:
    return tuple(
        load_run(seed / variant) for seed in seeds if (seed / variant / "metrics.jsonl").exists()
    )


def _seed(folder: Path) -> tuple[int, str]:
    number = folder.name.removeprefix("seed_")
    return (int(number), "") if number.isdigit() else (0, number)
