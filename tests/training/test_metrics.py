"""Each epoch has one complete line of metrics, and the number of progress lines is bounded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from prdp_hpc.report import ReportError, load_run
from prdp_hpc.training.metrics import MetricsError, MetricsWriter, StepsWriter
from prdp_hpc.training.progress import Progress
from prdp_hpc.training.trackers.tensorboard import TensorBoard
from prdp_hpc.training.trackers.tracker import TrackedRun, Trackers


def row(epoch: int, error: float = 0.5, level: float = 1, **more: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": None if epoch == 0 else 0.1,
        "error": error,
        "level": level,
        "adjoint_level": level,
        "forward_iterations": 1000 * epoch,
        "adjoint_iterations": 1000 * epoch,
        "solver_seconds": 0.1 * epoch,
        "network_seconds": 0.1 * epoch,
        "total_seconds": 0.2 * epoch,
        **more,
    }


def write_rows(
    folder: Path, epochs: range, resume_epoch: int | None = None, **options: Any
) -> None:
    with MetricsWriter(folder, active=True, resume_epoch=resume_epoch) as writer:
        for epoch in epochs:
            writer.write(row(epoch, **options))


def test_each_line_is_on_disk_before_the_next_epoch(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, active=True) as writer:
        for epoch in range(4):
            writer.write(row(epoch))
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines] == [
                row(earlier) for earlier in range(epoch + 1)
            ]


def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    write_rows(
        tmp_path, range(1), error=float("nan"), error_1=float("inf"), parameters=[1.0, float("nan")]
    )
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["error"], line["error_1"], line["parameters"]) == (None, None, [1.0, None])
    assert load_run(tmp_path).metrics["parameters"].shape == (1, 2)


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        MetricsWriter(tmp_path / "run", active=False) as writer,
        Progress(3, active=False, label="heat") as progress,
    ):
        writer.write(row(0))
        progress.update(row(0))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(written=st.integers(1, 5), resume=st.integers(-1, 5), cut=st.integers(0, 30))
def test_a_resumed_run_has_the_metrics_of_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, written: int, resume: int, cut: int
) -> None:
    folder, resume = tmp_path_factory.mktemp("run"), min(resume, written - 1)
    write_rows(folder, range(written), error=1.0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(written))[:cut])
    write_rows(folder, range(resume + 1, 8), resume_epoch=resume, error=2.0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(8))
    assert [line["error"] for line in lines] == [1.0] * (resume + 1) + [2.0] * (7 - resume)


def test_a_new_run_does_not_overwrite_another(tmp_path: Path) -> None:
    write_rows(tmp_path, range(2))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(MetricsError, match=r"metrics\.jsonl: contains the metrics of another run"):
        MetricsWriter(tmp_path, active=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_broken_file_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"not JSON\n{json.dumps(row(1))}\n")
    with pytest.raises(ReportError, match="line 1: is not JSON"):
        MetricsWriter(tmp_path, active=True, resume_epoch=1)


def test_lines_of_steps_after_the_checkpoint_are_removed(tmp_path: Path) -> None:
    with StepsWriter(tmp_path, active=True) as writer:
        for step in (2, 4, 6):
            writer.write({"step": step, "loss": float("inf")})
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    with StepsWriter(tmp_path, active=True, resume_step=5) as writer:
        writer.write({"step": 6, "loss": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "loss": None}, {"step": 4, "loss": None}, {"step": 6, "loss": 1.0}]


def show(folder: Path, steps: range, resumed_at: int | None = None, **options: Any) -> None:
    trackers = Trackers([TensorBoard()])
    trackers.start(TrackedRun("heat", folder, resumed_at=resumed_at))
    for step in steps:
        trackers.log(row(step, **options) | {"step": 10 * step})
    trackers.finish(None)


def test_tensorboard_holds_the_numbers_of_the_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files from the same second and process are read in the order of the last number in their
    # names, as text.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    show(tmp_path, range(4), error=1.0, parameters=[3.0])
    show(tmp_path, range(2, 4), resumed_at=10, error=2.0, parameters=[4.0])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("error")] == [
        (0, 1.0),
        (10, 1.0),
        (20, 2.0),
        (30, 2.0),
    ]
    assert [event.value for event in events.Scalars("parameters/0")] == [3.0, 3.0, 4.0, 4.0]
    assert [event.step for event in events.Scalars("loss")] == [10, 20, 30]
    assert "step" not in events.Tags()["scalars"]


def logged(
    capsys: pytest.CaptureFixture[str], total: int, level_changes: list[int], start: int = 0
) -> list[str]:
    capsys.readouterr()
    with Progress(total, active=True, label="heat_2d") as progress:
        for epoch in range(start, total + 1):
            level = 1 + sum(epoch >= change for change in level_changes)
            progress.update(row(epoch, level=level))
            progress.update(row(epoch, level=level))
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_short_run_logs_each_epoch_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = logged(capsys, 12, [5])
    assert len(lines) == 13
    assert (
        lines[-1] == "heat_2d  epoch 12/12  error 5.00e-01  level 2  inner iterations 24,000  2.4 s"
    )


def test_a_long_line_continues_on_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {
        "learning_rate": 1e-3,
        "gradient_norm": 0.23,
        "samples_per_second": 1240.0,
        "solver_share": 0.61,
        "memory_gib": 0.8,
    }
    seconds = iter((0.0, 10.0))
    with Progress(12, active=True, label="heat_2d", clock=lambda: next(seconds)) as progress:
        for epoch in (0, 1):
            progress.update(row(epoch) | numbers)
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert max(len(first), len(second)) <= 100
    assert first.startswith("heat_2d  epoch 1/12  error 5.00e-01  level 1  inner iterations 2,000")
    assert first.endswith("0.2 s  1 min 50 s left")
    assert second == "    lr 1.0e-03  gradient 2.3e-01  1,240 samples/s  solver 61%  0.8 GiB"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    total=st.integers(51, 400),
    changes=st.lists(st.integers(1, 400), max_size=10),
    start=st.integers(0, 50),
)
def test_a_long_run_logs_few_lines_and_every_change(
    capsys: pytest.CaptureFixture[str], total: int, changes: list[int], start: int
) -> None:
    lines = logged(capsys, total, changes, start)
    epochs = [int(line.split("epoch ")[1].split("/")[0]) for line in lines]
    assert epochs == sorted(set(epochs))
    assert {start, total, *(change for change in changes if start <= change <= total)} <= set(
        epochs
    )
    assert len(lines) <= 22 + len(set(changes))


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(4, active=True, label="heat_2d") as progress:
        for epoch in range(5):
            progress.update(row(epoch, level=3))
    assert "heat_2d" in terminal.getvalue()
    assert "epoch 4/4" in terminal.getvalue()
    assert "error 5.00e-01, level 3" in terminal.getvalue()


def test_an_error_that_does_not_exist_is_shown_as_none(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1, active=True, label="heat") as progress:
        progress.update(row(0) | {"error": None})
    assert "error none" in capsys.readouterr().err
