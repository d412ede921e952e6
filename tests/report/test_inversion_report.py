"""Usability: the table and the figure of a comparison of field inversions, from files only."""

import json

import numpy as np
import pytest

from prdp_hpc.metric_names import SECONDS
from prdp_hpc.report import (
    ReportError,
    has_fields,
    inversion_table,
    load_run,
    plot_inversion,
)


def write_run(folder, error, seconds, level, truth=True):
    """A finished run of two epochs with its fields."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    m = generator.normal(size=(3, 4, 5))
    found = {"log_permeability": m + error} | ({"truth": m} if truth else {})
    np.savez(folder / "fields.npz", **found)
    rows = []
    for epoch in (0, 1, 2):
        counts = {"forward_iterations": 10 * epoch, "adjoint_iterations": 20 * epoch}
        times = dict.fromkeys(SECONDS, seconds * epoch / 2)
        own = {"error": 3.0 - epoch, "misfit": None if epoch == 0 else 1.0, "set_ups": epoch}
        own |= {"error_field": 1.0 - epoch * (1 - error) / 2} if truth else {}
        levels = {"level": level, "adjoint_level": level}
        rows.append({"epoch": epoch, "loss": None, **own, **levels, **counts, **times})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = {key: value for key, value in rows[-1].items() if key != "epoch"}
    summary = {"name": folder.name, "task": "field_inversion", "epochs": 2, **last}
    summary["inner_iterations"] = 60 if folder.name == "full" else 15
    (folder / "summary.json").write_text(json.dumps(summary))
    return load_run(folder)


def runs_of(folder, prdp=0.205, truth=True):
    given = {"prdp": (prdp, 4.0, 2), "full": (0.2, 10.0, 1e-8), "full_1e_6": (0.2, 8.0, 1e-6)}
    return {name: write_run(folder / name, *own, truth) for name, own in given.items()}


CONTENT = {"name": "demo", "seeds": [1], "epochs": 2}


def test_the_table_has_savings_and_error(tmp_path):
    runs = {name: (run,) for name, run in runs_of(tmp_path).items()}
    output = inversion_table(CONTENT, runs)
    assert "field error 1.025 times as high, equal within 5%" in output
    assert "saved 75.0% of the iterations, 60.0% of the solver's time, 60.0% of the total" in output
    row = next(line for line in output.splitlines() if line.startswith("full refinement"))
    assert row.split()[-1] == "60.0%"
    assert "set-ups" in output


def test_table_marks_a_miss(tmp_path):
    runs = {name: (run,) for name, run in runs_of(tmp_path, prdp=0.22).items()}
    assert "1.100 times as high, MISS: more than 5% above" in inversion_table(CONTENT, runs)


@pytest.mark.parametrize("truth", [True, False])
def test_figure_is_drawn_with_and_without_a_truth(truth, tmp_path):
    runs = runs_of(tmp_path, truth=truth)
    figure = tmp_path / "fields.png"
    plot_inversion(runs, figure, "title")
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert has_fields(tmp_path / "prdp")
    (tmp_path / "full" / "fields.npz").write_bytes(b"broken")
    with pytest.raises(ReportError, match=r"fields\.npz: contains no fields"):
        plot_inversion(runs, figure, "title")
