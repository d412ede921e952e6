"""Usability: a comparison trains all its variants, continues after a stop, and reports the numbers
in its files.
"""

import json

import pytest
import tiny

from prdp_hpc import cli
from prdp_hpc.config import validate
from prdp_hpc.config.variants import variants
from prdp_hpc.experiments.run import prepare

RUN_FILES = {
    "starts.json",
    "components.json",
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "figures/error_and_level.png",
    "figures/fields.png",
    "sample_fields.npz",
}
BASELINE = {"cg": {"solver": {"ksp": "cg", "pc": "none"}, "level": 1e-6}}


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))


@pytest.fixture
def trained(monkeypatch):
    """The folders of the runs that were trained or resumed since the start of the test."""
    folders = []

    def counting(config, mesh, folder, resume):
        folders.append("/".join(folder.parts[folder.parts.index("tiny-compare") + 1 :]))
        return prepare(config, mesh, folder, resume)

    monkeypatch.setattr("prdp_hpc.commands.comparison_runs.prepare", counting)
    return folders


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_seed(config, tmp_path, capsys):
    cli.main(["compare", config, "comparison.seeds=1"])
    folder = tmp_path / "runs" / "tiny-compare"
    found = {
        name
        for name in files(folder)
        if "/checkpoints/" not in name and "/tensorboard/" not in name
    }
    assert found == {f"{run}/{name}" for run in ("prdp", "full") for name in RUN_FILES} | {
        "comparison.json", "figures/comparison.png", "figures/fields.png",
    }  # fmt: skip
    comparison = json.loads((folder / "comparison.json").read_text())
    prdp, full = tiny.summary(folder / "prdp"), tiny.summary(folder / "full")
    assert (prdp["schedule"], full["schedule"]) == ("prdp", "constant")
    assert comparison["name"] == "tiny"
    assert comparison["error_ratio"] == pytest.approx(prdp["error"] / full["error"])
    assert full["inner_iterations"] == 4 * 2 * 10 * 3
    saved = comparison["savings"]["full"]["inner_iterations"]["mean"]
    assert saved == pytest.approx(1 - prdp["inner_iterations"] / full["inner_iterations"])
    # the same seed and data: the same untrained network
    assert tiny.rows(folder / "prdp")[0]["error"] == tiny.rows(folder / "full")[0]["error"]
    assert str(folder) in capsys.readouterr().out

    cli.main(["compare", config, "comparison.seeds=1", "--resume", "training.epochs=4"])
    assert [len(tiny.rows(folder / run)) for run in ("prdp", "full")] == [5, 5]
    cli.main(["compare", config, "comparison.seeds=1", "--overwrite", "training.epochs=1"])
    assert [len(tiny.rows(folder / run)) for run in ("prdp", "full")] == [2, 2]


def test_seeds_constant_levels_and_baselines(config, tmp_path, trained, capsys):
    words = [
        "compare",
        config,
        "training.epochs=2",
        "comparison.seeds=2",
        "comparison.constant_levels=[2]",
    ]
    words += [
        f"comparison.baselines={json.dumps(BASELINE)}",
        "comparison.targets={cg: {total_seconds: 0.999}}",
        "seed=5",
    ]
    cli.main(words)
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "tiny-compare"
    names = ["prdp", "full", "constant_2", "cg"]
    assert sorted(trained) == sorted(f"seed_{seed}/{name}" for seed in (5, 6) for name in names)
    # each seed starts with another variant
    assert (trained[0], trained[4]) == ("seed_5/prdp", "seed_6/full")
    comparison = json.loads((folder / "comparison.json").read_text())
    assert (comparison["seeds"], list(comparison["variants"])) == ([5, 6], names)
    for seed in (5, 6):
        rows = [tiny.rows(folder / f"seed_{seed}" / name) for name in names]
        assert len({run[0]["error"] for run in rows}) == 1
        assert [run[-1]["level"] for run in rows[1:]] == [4, 2, 1e-6]
    errors = [tiny.summary(folder / f"seed_{seed}" / "prdp")["error"] for seed in (5, 6)]
    assert errors[0] != errors[1]
    assert comparison["variants"]["prdp"]["error"]["values"] == errors
    assert comparison["variants"]["prdp"]["error"]["mean"] == pytest.approx(sum(errors) / 2)
    assert comparison["targets"][0]["met"] is False
    assert "at least 99.9 %" in out
    assert "MISS" in out

    trained.clear()
    (folder / "seed_6" / "cg" / "summary.json").unlink()  # as in the folder of a stopped run
    before = tiny.rows(folder / "seed_6" / "cg")
    cli.main([*words, "--resume"])
    assert trained == ["seed_6/cg"]
    assert tiny.rows(folder / "seed_6" / "cg") == before
    cli.main([*words, "--resume", "training.epochs=3"])
    assert len(trained) == 1 + 8
    (figure := folder / "figures" / "comparison.png").unlink()
    cli.main(["plot", str(folder)])
    assert figure.is_file()


def test_a_finished_run_of_another_config_is_trained_again(config, tmp_path, capsys):
    words = ["compare", config, "training.epochs=1", "comparison.seeds=1"]
    cli.main(words)
    with pytest.raises(SystemExit):
        cli.main([*words, "--resume", "training.learning_rate=0.5"])
    assert "training.learning_rate: 0.01 in the checkpoint, 0.5 now" in capsys.readouterr().err
    # the section comparison has no effect on a run
    cli.main(
        [
            *words,
            "--resume",
            "comparison.targets={full: {inner_iterations: 0.5}}",
            "comparison.constant_levels=[1]",
        ]
    )
    assert "constant 1" in capsys.readouterr().out


def test_variants_differ_from_the_config_in_one_thing(tmp_path):
    adjoint = {"kind": "iterations", "stop": 2}
    section = {"constant_levels": [3, 1e-3], "baselines": BASELINE}
    config = validate(
        tiny.emulator(tmp_path, comparison=section, refinement={"adjoint_ladder": adjoint}), "here"
    )
    found = variants(config)
    assert list(found) == ["prdp", "full", "constant_3", "constant_0.001", "cg"]
    schedules = {name: one.refinement.build() for name, one in found.items()}
    levels = {
        name: (schedule.level, schedule.adjoint_level) for name, schedule in schedules.items()
    }
    assert levels == {
        "prdp": (1, 1),
        "full": (4, 2),
        "constant_3": (3, 3),
        "constant_0.001": (1e-3, 1e-3),
        "cg": (1e-6, 1e-6),
    }
    assert {one.solver.ksp for name, one in found.items() if name != "cg"} == {"richardson"}
    assert found["cg"].solver.ksp == "cg"
    assert all(
        one.model_copy(update={"refinement": config.refinement}) == config
        for name, one in found.items()
        if name != "cg"
    )


def test_full_refinement_is_independent_of_the_adjoint_factor(tmp_path):
    config = validate(tiny.emulator(tmp_path, refinement={"adjoint_factor": 0.25}), "here")
    full = variants(config)["full"].refinement.build()
    assert (full.level, full.adjoint_level) == (4, 4)


def test_schedules_are_compared_on_the_test_group(config, tmp_path, capsys):
    cli.main(
        [
            "compare",
            config,
            "training.epochs=2",
            "comparison.seeds=1",
            "comparison.schedules=[prdp,gradient]",
            "data.test=4",
        ]
    )
    folder = tmp_path / "runs" / "tiny-compare"
    comparison = json.loads((folder / "comparison.json").read_text())
    assert list(comparison["variants"]) == ["prdp", "full", "gradient"]
    assert comparison["error_group"] == "test"
    gradient = tiny.summary(folder / "gradient")
    assert gradient["schedule"] == "gradient"
    assert (
        comparison["variants"]["gradient"]["probe_solves"]["mean"] == gradient["probe_solves"] > 0
    )
    full = tiny.summary(folder / "full")
    ours, theirs = (sum(run["test"]["samples"]["error"]) for run in (gradient, full))
    found = comparison["schedules"]["gradient"]
    assert found["error_ratio"] == pytest.approx(ours / theirs)
    low, high = found["error_intervals"]["full"]
    assert low <= found["error_ratio"] <= high
    out = capsys.readouterr().out
    assert "saved by gradient test against" in out
    assert "its probes, included in these numbers" in out
