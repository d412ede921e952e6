"""`prdp-hpc paper`: run every experiment of the paper and print one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.commands.compare import compare_variants
from prdp_hpc.commands.failures import Report, first, report_of
from prdp_hpc.commands.provenance import machine_text, provenance
from prdp_hpc.config import (
    ConfigError,
    ExperimentConfig,
    Paper,
    find_list,
    load_experiment,
    load_paper,
    nearest,
)
from prdp_hpc.console import show
from prdp_hpc.distributed.collective import all_ranks_come, call_together, on_root
from prdp_hpc.experiments.run import process_mesh
from prdp_hpc.files import write_json, write_text
from prdp_hpc.locks import locked
from prdp_hpc.report import comparison_table, paper_markdown, paper_table, read_result


def paper(arguments: argparse.Namespace) -> None:
    """Run the comparison of each experiment of the list, resuming an earlier call.

    Prints the table, and writes it to `summary.md` and all results to `summary.json`. If an
    experiment fails, the error is reported, the remaining ones are run, and the exit code is 1.
    """
    path = find_list(arguments.list)
    listed = load_paper(path)
    names = _chosen(listed, arguments.only)
    out = Path(arguments.out or ("runs/paper-quick" if arguments.quick else "runs/paper"))
    made_with = provenance(arguments.line)
    advice = "wait until it ends or end it, or choose another --out"
    with locked(MPI.COMM_WORLD, out, advice, folder=True):
        changes = _Changes(arguments.schedules, arguments.seeds)
        failures = _all(path, listed, names, out, arguments.quick, changes, made_with)
    if MPI.COMM_WORLD.rank == 0:
        table = paper_table(_results(out, listed, failures, arguments.quick), arguments.quick)
        show(table, f"results: {out}")
    if failures:
        sys.exit(1)


def _all(
    path: Path,
    listed: Paper,
    names: Sequence[str],
    out: Path,
    quick: bool,
    changes: _Changes,
    made_with: dict[str, Any],
) -> dict[str, str]:
    """Run each experiment and update the summary after each; return the errors by experiment."""
    failures: dict[str, str] = {}
    for name in names:
        message = _attempt(partial(_experiment, path, listed, name, out, quick, changes, made_with))
        if message is not None:
            failures[name] = message
        call_together(MPI.COMM_WORLD, partial(_summarise, out, listed, failures, quick, made_with))
    return failures


def _chosen(listed: Paper, only: Sequence[str] | None) -> list[str]:
    unknown = [name for name in only or () if name not in listed.experiments]
    if unknown:
        raise ConfigError(
            f"--only: no experiment is named {unknown[0]!r}; "
            f"{nearest(unknown[0], listed.experiments)}"
        )
    return [name for name in listed.experiments if not only or name in only]


@dataclass(frozen=True)
class _Changes:
    """Changes to all experiments from the command line."""

    schedules: Sequence[str] | None
    seeds: int | None

    def load(self, path: Path, name: str, listed: Paper, quick: bool) -> ExperimentConfig:
        """The config of an experiment of the list."""
        schedules = f"comparison.schedules=[{', '.join(self.schedules or ())}]"
        changes = [] if self.schedules is None else [schedules]
        config = load_experiment(path, name, listed.experiments[name], quick, changes)
        if self.seeds is None or config.default_seeds == 1:
            return config
        changes = [*changes, f"comparison.seeds={self.seeds}"]
        return load_experiment(path, name, listed.experiments[name], quick, changes)


def _experiment(
    path: Path,
    listed: Paper,
    name: str,
    out: Path,
    quick: bool,
    changes: _Changes,
    made_with: dict[str, Any],
    stack: ExitStack,
) -> None:
    """Run one comparison, with its results in `<name>.json` and its figure in `figures/`."""
    config = changes.load(path, name, listed, quick).model_copy(update={"output": str(out)})
    mesh = process_mesh(config)
    stack.callback(mesh.close)
    comparison = compare_variants(
        config, mesh, out / name, out / "figures" / f"{name}.png", resume=True
    )
    if mesh.is_root:
        show(comparison_table(comparison))
    result = {"experiment": name, "quick": quick, **made_with, **comparison}
    on_root(mesh.world, lambda: write_json(out / f"{name}.json", result))


def _attempt(action: Callable[[ExitStack], None]) -> str | None:
    """Run an action on all ranks and return its error message, or None. Collective.

    If a rank fails while others wait for it in a collective call, no further experiment can run, so
    its error is raised.
    """
    world, report = MPI.COMM_WORLD, None
    with ExitStack() as stack:
        try:
            action(stack)
            world.Ibarrier().Wait()
        except Exception as error:
            if not all_ranks_come(world):
                stack.pop_all()
                raise
            report = report_of(error)
        reports: list[Report] = [found for found in world.allgather(report) if found is not None]
    if not reports:
        return None
    chosen = reports[first(reports)]
    if world.rank == 0:
        text = f"failed, continuing with the next experiment: {chosen.text}"
        trace = "" if chosen.expected else chosen.trace
        print(f"prdp-hpc: {text}\n{trace}", end="", file=sys.stderr, flush=True)
    return chosen.text


def _results(
    out: Path, listed: Paper, failures: dict[str, str], quick: bool
) -> list[dict[str, Any]]:
    """The results of this size in the list's order, including those of earlier calls."""
    found: list[dict[str, Any]] = []
    for name in listed.experiments:
        if name in failures:
            found.append({"experiment": name, "quick": quick, "failed": failures[name]})
        elif (out / f"{name}.json").exists():
            found.append(read_result(out / f"{name}.json"))
    return [result for result in found if result["quick"] == quick]


def _summarise(
    out: Path, listed: Paper, failures: dict[str, str], quick: bool, made_with: dict[str, Any]
) -> None:
    if MPI.COMM_WORLD.rank > 0:
        return
    results = _results(out, listed, failures, quick)
    write_json(out / "summary.json", {"quick": quick, **made_with, "experiments": results})
    page = paper_markdown(results, quick, made_with["command"], machine_text(made_with["machine"]))
    write_text(out / "summary.md", page)
