"""Every run that can be loaded has a figure, with labels that do not overlap."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prdp_hpc.report import (
    ComparisonRecord,
    ReportError,
    RunRecord,
    load_run,
    plot_comparison,
    plot_run,
    plot_runs,
)
from prdp_hpc.report.panels import spread

WriteRun = Callable[..., Path]
PNG = b"\x89PNG"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures saved during the test."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def comparison(**variants: RunRecord | tuple[RunRecord, ...]) -> ComparisonRecord:
    runs = {
        name: found if isinstance(found, tuple) else (found,) for name, found in variants.items()
    }
    return ComparisonRecord(Path("heat-compare"), "heat", runs, None)


def texts_overlap(figure: Figure) -> list[tuple[str, str]]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes: list[Any] = figure.axes
    texts = [*figure.texts, *(text for ax in axes for text in (*ax.texts, ax._left_title))]
    boxes = [
        (text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()
    ]
    edge = [
        (name, "edge")
        for name, box in boxes
        if box.x0 < 0 or box.x1 > figure.bbox.x1 or box.y1 > figure.bbox.y1
    ]
    # The box of a text includes empty space above and below the letters.
    tight = [(name, box.padded(-1.5)) for name, box in boxes]
    return edge + [
        (a, b) for i, (a, box) in enumerate(tight) for b, other in tight[:i] if box.overlaps(other)
    ]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("epochs", [0, 1, 40])
def test_a_run_is_drawn(
    write_run: WriteRun, tmp_path: Path, drawn: list[Figure], epochs: int, inverse: bool
) -> None:
    path = tmp_path / "figures" / "error_and_level.png"
    plot_run(load_run(write_run(epochs=epochs, inverse=inverse, finished=False)), path)
    assert path.read_bytes().startswith(PNG)
    assert list(path.parent.iterdir()) == [path]
    assert texts_overlap(drawn[0]) == []


def test_a_comparison_with_equal_errors_has_legible_labels(
    write_run: WriteRun, tmp_path: Path, drawn: list[Figure]
) -> None:
    prdp = load_run(write_run("prdp", epochs=40, seed=1))
    full = load_run(write_run("full", epochs=40, levels=[60] * 41, seed=2))
    plot_comparison(comparison(prdp=prdp, full=full), tmp_path / "comparison.png", "heat_2d")
    assert (tmp_path / "comparison.png").read_bytes().startswith(PNG)
    assert texts_overlap(drawn[0]) == []
    saved = 1 - prdp.inner_iterations[-1] / full.inner_iterations[-1]
    assert any(f"{saved * 100:.0f} % saved" in text.get_text() for text in drawn[0].axes[2].texts)


def test_seeds_are_drawn_as_a_mean_within_their_range(
    write_run: WriteRun, tmp_path: Path, drawn: list[Figure]
) -> None:
    def runs(variant: str, level: list[float], seeds: int = 3) -> tuple[RunRecord, ...]:
        folders = [
            write_run(f"seed_{seed}/{variant}", epochs=20, levels=level, seed=seed)
            for seed in range(seeds)
        ]
        return tuple(load_run(folder) for folder in folders)

    levels: list[float] = [1 + epoch // 2 for epoch in range(21)]
    record = comparison(
        prdp=runs("prdp", levels),
        full=runs("full", [60] * 21),
        constant_3=runs("constant_3", [3] * 21),
        constant_10=runs("constant_10", [10] * 21, seeds=1),  # as while the other runs continue
        plain_gmres=runs("plain_gmres", [960] * 21),
    )
    plot_comparison(record, tmp_path / "comparison.png", "heat_2d")
    assert texts_overlap(drawn[0]) == []
    error, level, _ = drawn[0].axes
    last = [run.metrics["error"][-1] for run in record.variants["prdp"]]
    assert any(f"PRDP  {sum(last) / 3:.2e}" == text.get_text() for text in error.texts)
    assert len(error.collections) == 4  # a band if there is more than one seed
    # iterations of another solver cannot be compared with a level
    names = [text.get_text().rpartition("  ")[0] for text in level.texts]
    assert names == ["constant 3", "constant 10", "Full refinement", "PRDP"]


def test_a_comparison_measures_at_the_last_epoch_of_both(
    write_run: WriteRun, tmp_path: Path, drawn: list[Figure]
) -> None:
    prdp = load_run(write_run("prdp", epochs=20, levels=[30] * 21))
    full = load_run(write_run("full", epochs=10, levels=[60] * 11, finished=False))
    plot_comparison(comparison(prdp=prdp, full=full), tmp_path / "comparison.png", "running")
    assert any(
        "After 10 epochs: 50 % fewer inner iterations" in text.get_text() for text in drawn[0].texts
    )


@pytest.mark.parametrize("count", [1, 3, 12])
def test_many_runs_have_legible_labels(
    write_run: WriteRun, tmp_path: Path, drawn: list[Figure], count: int
) -> None:
    records = [
        load_run(write_run(f"a_run_with_quite_a_long_name_{index}", seed=index))
        for index in range(count)
    ]
    plot_runs(records, tmp_path / "runs.png")
    assert texts_overlap(drawn[0]) == []


def test_two_ladders_show_four_levels(
    write_run: WriteRun, tmp_path: Path, drawn: list[Figure]
) -> None:
    records = []
    for name in ("prdp", "full"):
        folder = write_run(name, levels=[10.0 ** -(1 + epoch // 5) for epoch in range(21)])
        lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        lines = [line | {"adjoint_level": line["level"] * 10} for line in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        records.append(load_run(folder))
    plot_comparison(
        comparison(prdp=records[0], full=records[1]), tmp_path / "comparison.png", "tolerances"
    )
    bottom, top = drawn[0].axes[1].get_ylim()
    assert top < bottom  # finer tolerances are higher
    assert len(drawn[0].axes[1].texts) == 4
    assert texts_overlap(drawn[0]) == []


@pytest.mark.parametrize("error", [None, 0.0])
def test_a_run_whose_error_has_no_logarithm_is_drawn(
    write_run: WriteRun, tmp_path: Path, error: float | None
) -> None:
    folder = write_run(finished=False, epochs=3)
    lines = [
        json.loads(text) | {"error": error}
        for text in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = load_run(folder)
    plot_comparison(
        comparison(prdp=record, full=record), tmp_path / "comparison.png", "nothing to see"
    )
    assert (tmp_path / "comparison.png").read_bytes().startswith(PNG)


def test_errors_of_two_kinds_are_not_drawn_together(write_run: WriteRun, tmp_path: Path) -> None:
    records = [load_run(write_run("emulator")), load_run(write_run("inverse", inverse=True))]
    with pytest.raises(ReportError, match="cannot be compared"):
        plot_runs(records, tmp_path / "runs.png")
    with pytest.raises(ReportError, match="no run to plot"):
        plot_runs([], tmp_path / "runs.png")
    assert not (tmp_path / "runs.png").exists()


def test_reports_load_neither_torch_nor_petsc_nor_mpi_nor_pyplot() -> None:
    code = (
        "import sys, prdp_hpc.report; print({'torch', 'petsc4py', 'mpi4py', 'matplotlib.pyplot'} "
        "& sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.08))
def test_spread_labels_keep_order_and_distance(positions: list[float], gap: float) -> None:
    placed = spread(positions, gap)
    pairs = sorted(zip(positions, placed, strict=True))
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(sorted(placed)))
    assert all(a[1] <= b[1] + 1e-9 for a, b in pairwise(pairs) if a[0] < b[0])
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in placed)


@given(st.lists(st.integers(0, 9), unique=True))
def test_labels_with_room_stay(places: list[int]) -> None:
    positions = [place / 9 for place in places]
    assert spread(positions, 0.1) == pytest.approx(positions)


def test_epochs_after_a_probe_are_marked(write_run: WriteRun, drawn: list[Figure]) -> None:
    folder = write_run("probing", epochs=5)
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line, solves in zip(lines, (0, 8, 8, 8, 24, 24), strict=True):
        line["probe_solves"] = solves
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_run(load_run(folder), folder / "figure.png")
    level = drawn[0].axes[1]
    (marks,) = (line for line in level.lines if line.get_marker() == "|")
    assert list(marks.get_xdata()) == [1, 4]
    assert level.get_title(loc="left").endswith("ticks: after a probe")
