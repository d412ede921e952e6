"""The record of a run has the numbers of its files, and errors in files name the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.metric_names import LINE_NUMBERS
from prdp_hpc.report import ReportError, load_run, read_metrics

WriteRun = Callable[..., Path]


def edit_lines(folder: Path, edit: Callable[[list[str]], None]) -> None:
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines()
    edit(lines)
    file.write_text("\n".join(lines) + "\n")


def test_columns_hold_every_line(write_run: WriteRun) -> None:
    folder = write_run("heat", epochs=20)
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    record = load_run(folder)
    assert record.name == "heat"
    assert record.summary == json.loads((folder / "summary.json").read_text())
    assert record.metrics["epoch"].tolist() == list(range(21))
    assert record.metrics["error_1"].tolist() == [line["error_1"] for line in lines]
    assert np.isnan(record.metrics["loss"][0])
    assert np.isfinite(record.metrics["loss"][1:]).all()
    assert (
        record.inner_iterations[-1]
        == lines[-1]["forward_iterations"] + lines[-1]["adjoint_iterations"]
    )
    assert not record.inverse


def test_parameters_make_an_inverse_run(write_run: WriteRun) -> None:
    record = load_run(write_run(inverse=True, epochs=5))
    assert record.inverse
    assert record.metrics["parameters"].shape == (6, 1)


def test_an_active_run_has_no_summary_and_may_end_with_an_incomplete_line(
    write_run: WriteRun,
) -> None:
    folder = write_run("heat", finished=False, epochs=5)
    whole = load_run(folder)
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text + text.splitlines()[-1][:40])
    record = load_run(folder)
    assert record.summary is None
    assert record.name == "heat"
    assert record.metrics["epoch"].tolist() == whole.metrics["epoch"].tolist()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(1, 4))
def test_after_resumes_the_later_lines_win(
    tmp_path_factory: pytest.TempPathFactory, resumed_at: list[int], steps: int
) -> None:
    keys = [*LINE_NUMBERS, "error"]
    file = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    epochs = [
        (epoch, attempt)
        for attempt, start in enumerate([0, *resumed_at])
        for epoch in range(start, start + steps)
    ]
    file.write_text(
        "".join(
            json.dumps(dict.fromkeys(keys, attempt) | {"epoch": epoch}) + "\n"
            for epoch, attempt in epochs
        )
    )
    lines = [line for _, line in read_metrics(file)]
    found = [line["epoch"] for line in lines]
    assert found == sorted(set(found))
    assert [line["error"] for line in lines[-steps:]] == [len(resumed_at)] * steps
    assert all(
        line["error"] == max(attempt for epoch, attempt in epochs if epoch == line["epoch"])
        for line in lines
    )


def test_a_broken_line_is_named(write_run: WriteRun) -> None:
    folder = write_run()
    edit_lines(folder, lambda lines: lines.__setitem__(3, lines[3][:30]))
    with pytest.raises(ReportError, match=r"metrics\.jsonl, line 4: is not JSON"):
        load_run(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": None}, r"line 3, level: must be a number, not None"),
        ({"solver_seconds": "fast"}, r"line 3, solver_seconds: must be a number, not 'fast'"),
        ({"error": True}, r"line 3, error: must be a number, not True"),
        ({"epoch": -0.5}, r"line 3, epoch: must be a number from 0 on, not -0\.5"),
        ({"forward_iterations": 10**400}, r"line 3, forward_iterations: is too large"),
        ({"parameters": [1.0]}, r"line 1, parameters: must be a list"),
    ],
)
def test_a_wrong_value_is_named(
    write_run: WriteRun, change: dict[str, object], message: str
) -> None:
    folder = write_run()
    edit_lines(
        folder, lambda lines: lines.__setitem__(2, json.dumps(json.loads(lines[2]) | change))
    )
    with pytest.raises(ReportError, match=message):
        load_run(folder)


def test_missing_keys_are_named_in_the_last_line_too(write_run: WriteRun) -> None:
    folder = write_run(epochs=3)
    edit_lines(folder, lambda lines: lines.append('{"epoch": 4, "error": 0.1}'))
    with pytest.raises(ReportError, match=r"line 5: level, adjoint_level"):
        load_run(folder)


@pytest.mark.parametrize("content", ["", "\n\n", '{"epoch": 0, "er'])
def test_a_run_without_an_epoch_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ReportError, match=r"metrics\.jsonl: contains no finished epoch"):
        load_run(tmp_path)


def test_missing_folder_and_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="nowhere: no such folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"metrics\.jsonl: cannot be read"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "must contain a JSON object"),
        ('{"name": "x"}', "task, error"),
        (b"\xff", "is not readable JSON"),
    ],
)
def test_a_broken_summary_is_named(write_run: WriteRun, content: str | bytes, message: str) -> None:
    folder = write_run()
    (folder / "summary.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    with pytest.raises(ReportError, match=rf"summary\.json: {message}"):
        load_run(folder)
