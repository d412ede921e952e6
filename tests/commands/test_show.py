"""`prdp-hpc show` draws runs, ensembles and comparisons; `compare` draws fields too."""

import numpy as np
import pytest
import tiny
from empty_figures import real_figures
from PIL import Image

from prdp_hpc import cli, predict
from prdp_hpc.commands import compare
from prdp_hpc.experiments.showing import sample_series
from prdp_hpc.report import load_sample

pytestmark = pytest.mark.xdist_group("show")  # One worker makes what all tests use.


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison of two seeds on 5 × 6 points, with its figures and without those of its runs."""
    folder = tmp_path_factory.mktemp("comparison")
    content = tiny.emulator(
        folder / "runs",
        grid={"shape": [5, 6]},
        training={"epochs": 1},
        data={"steps": 4},
        comparison={"seeds": 2},
    )
    with real_figures(compare):
        cli.main(["compare", tiny.write(folder / "tiny.yaml", content)])
    return folder / "runs" / "tiny-compare"


def test_a_comparison_draws_fields(comparison):
    assert Image.open(comparison / "figures" / "fields.png").size[0] > 500
    sample = load_sample(comparison / "seed_1" / "prdp")
    assert sample.prediction.shape == (5, 1, 5, 6)
    assert len(sample.known) == 5


def test_the_sample_of_a_run_is_its_prediction(comparison, tmp_path):
    run = comparison / "seed_1" / "prdp"
    _, series = sample_series([run], 0)
    stored = load_sample(run)
    np.testing.assert_allclose(stored.prediction, series.prediction, atol=1e-6)
    found = predict(run, samples=[0], out=tmp_path / "p.h5")["errors"]
    errors = [found[f"error_{step}"] for step in range(1, 5)]
    np.testing.assert_allclose(series.errors[0, 1:], errors, rtol=1e-12)
    energy = np.square(series.difference).mean(axis=(2, 3))
    np.testing.assert_allclose(series.difference_energy.sum(axis=2), energy, rtol=1e-5, atol=1e-12)


def test_several_runs_do_not_replace_the_results_of_one(comparison):
    runs = [comparison / f"seed_{seed}" / "prdp" for seed in (1, 2)]
    alone, together = (predict(folders, samples=[0])["file"] for folders in (runs[0], runs))
    assert together == str(runs[0] / "ensemble" / "prediction" / "validation.h5") != alone
    assert sample_series(runs)[0] == runs[0] / "ensemble"


def test_a_comparison_is_an_ensemble_of_its_seeds(comparison, capsys):
    cli.main(["show", str(comparison), "--steps", "6", "--sample", "1", "--format", "gif"])
    shown = capsys.readouterr().out
    for name in ("validation_1_fields.png", "validation_1_spectra.png", "validation_1.gif"):
        assert str(comparison / "figures" / name) in shown
        assert (comparison / "figures" / name).stat().st_size > 1000
    _, series = sample_series([comparison], 1, 6)
    assert len(series.member_errors) == 2
    singles = [
        sample_series([comparison / f"seed_{seed}" / "prdp"], 1, 6)[1].prediction for seed in (1, 2)
    ]
    np.testing.assert_allclose(series.prediction, np.mean(singles, axis=0), atol=1e-6)
    np.testing.assert_allclose(series.spread, np.std(singles, axis=0, ddof=1), atol=1e-6)


def test_the_middle_plane_of_three_dimensions(tmp_path):
    content = tiny.emulator(
        tmp_path / "runs",
        grid={"shape": [4, 5, 6], "boundary": "periodic"},
        training={"epochs": 1},
        data={"train": 2, "validation": 1},
    )
    cli.main(["run", tiny.write(tmp_path / "tiny.yaml", content)])
    _, series = sample_series([tmp_path / "runs" / "tiny"])
    assert series.section == "z = 0.5"
    found = predict(tmp_path / "runs" / "tiny")
    import h5py

    with h5py.File(found["file"]) as file:
        plane = file["prediction/trajectories"][0, :, :, 2]
    np.testing.assert_allclose(series.prediction, plane, atol=1e-6)
