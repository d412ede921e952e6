"""Helpers of all benchmarks: alternating timing, tables, JSON."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prdp_hpc.files import write_json

RESULTS = Path(__file__).parent / "results"


def medians(actions: Sequence[Callable[[], Any]], repetitions: int, calls: int = 1) -> list[float]:
    """Median seconds of each action; the actions alternate, so that noise of the machine affects
    all of them equally.
    """
    seconds: list[list[float]] = [[] for _ in actions]
    for action in actions:
        action()
    for repetition in range(repetitions):
        # Each action is first in turn, because the state of the caches depends on the order.
        for index in sorted(range(len(actions)), key=lambda i: (i + repetition) % len(actions)):
            start = time.perf_counter()
            for _ in range(calls):
                actions[index]()
            seconds[index].append((time.perf_counter() - start) / calls)
    return [statistics.median(column) for column in seconds]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned plain text."""
    widths = [max(len(str(row[i])) for row in [headers, *rows]) for i in range(len(headers))]
    lines = [
        "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [headers, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def save(name: str, content: dict[str, Any]) -> None:
    """Write `benchmarks/results/<name>.json`, with a description of the machine."""
    machine = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
    }
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", {"machine": machine, **content})
    print(f"\nwritten: {RESULTS / name}.json")


def verdict(ratio: float, target: float) -> str:
    """The comparison of a ratio with its target."""
    return "met" if ratio <= target else "MISSED"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
