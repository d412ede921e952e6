"""Reliability: all experiments run in one call, a failed one does not stop the others, and finished
ones are not repeated.
"""

import json

import pytest
import tiny
import yaml

from prdp_hpc import cli
from prdp_hpc.config import find_list, load_experiment, load_paper
from prdp_hpc.experiments.run import prepare

QUICK = ["training.epochs=1", "comparison.seeds=2"]


@pytest.fixture
def listed(tmp_path):
    """The path of a list of three experiments, the second of which has an unknown solver."""
    (tmp_path / "lists").mkdir()
    tiny.write(tmp_path / "heat.yaml", tiny.emulator("nowhere", comparison={"seeds": 1}))
    tiny.write(tmp_path / "broken.yaml", tiny.emulator("nowhere", solver={"ksp": "richardsen"}))
    tiny.write(
        tmp_path / "poisson.yaml",
        tiny.inverse("nowhere", comparison={"targets": {"full": {"inner_iterations": 0.9}}}),
    )
    names = ("heat", "broken", "poisson")
    experiments = {
        name: {"config": f"../{name}.yaml", "quick": QUICK if name == "heat" else []}
        for name in names
    }
    path = tmp_path / "lists" / "all.yaml"
    path.write_text(yaml.safe_dump({"experiments": experiments}, sort_keys=False))
    return str(path)


@pytest.fixture
def trained(monkeypatch):
    folders = []

    def counting(config, mesh, folder, resume):
        folders.append(str(folder))
        return prepare(config, mesh, folder, resume)

    monkeypatch.setattr("prdp_hpc.commands.comparison_runs.prepare", counting)
    return folders


def test_a_failure_is_reported_and_the_others_continue(listed, tmp_path, trained, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        cli.main(["paper", "--quick", "--list", listed, "--out", str(out)])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert "continuing with the next experiment" in captured.err
    assert "Traceback" not in captured.err
    table = captured.out[captured.out.index("QUICK") :]
    assert "broken: FAILED: " in table
    assert "did you mean richardson?" in table
    assert "  it. 90 %: MISS" in table
    for name in ("heat", "poisson"):
        result = json.loads((out / f"{name}.json").read_text())
        assert (result["experiment"], result["quick"], result["epochs"]) == (
            name,
            True,
            1 if name == "heat" else 3,
        )
        assert result["command"].startswith("prdp-hpc paper --quick")
        assert {"torch", "petsc"} <= result["versions"].keys()
        assert result["machine"]["ranks"] == 1
        assert (out / "figures" / f"{name}.png").is_file()
    assert (out / "heat" / "seed_2" / "full" / "summary.json").is_file()
    assert (out / "poisson" / "prdp" / "summary.json").is_file()
    summary = json.loads((out / "summary.json").read_text())
    assert [one["experiment"] for one in summary["experiments"]] == ["heat", "broken", "poisson"]
    assert "failed" in summary["experiments"][1]
    page = (out / "summary.md").read_text()
    assert "| heat (validation) |" in page
    assert "- broken: FAILED" in page

    trained.clear()
    (out / "heat" / "seed_1" / "full" / "summary.json").unlink()
    cli.main(["paper", "--quick", "--list", listed, "--out", str(out), "--only", "poisson", "heat"])
    assert trained == [str(out / "heat" / "seed_1" / "full")]
    # results of other calls remain in the summary
    cli.main(["paper", "--quick", "--list", listed, "--out", str(out), "--only", "poisson"])
    assert [
        one["experiment"] for one in json.loads((out / "summary.json").read_text())["experiments"]
    ] == ["heat", "poisson"]


def test_results_of_the_other_size_are_not_used(listed, tmp_path, capsys):
    out = str(tmp_path / "out")
    cli.main(["paper", "--quick", "--list", listed, "--out", out, "--only", "heat"])
    cli.main(["paper", "--list", listed, "--out", out, "--only", "poisson"])
    table = capsys.readouterr().out.rpartition("full size")[2]
    assert "poisson" in table
    assert "heat" not in table
    cli.main(["paper", "--list", listed, "--out", str(tmp_path / "full"), "--only", "heat"])
    result = json.loads((tmp_path / "full" / "heat.json").read_text())
    assert (result["quick"], result["epochs"], result["seeds"]) == (False, 3, [1])


def test_several_ranks(listed, tmp_path, two_ranks):
    out = tmp_path / "out"
    (ended,) = two_ranks([["paper", "--quick", "--list", listed, "--out", out]])
    assert ended.codes == [1, 1]
    assert ended.stdout.count("broken: FAILED") == 1
    results = [json.loads((out / f"{name}.json").read_text()) for name in ("heat", "poisson")]
    assert all(result["machine"]["ranks"] == 2 for result in results)
    assert all(result["command"].startswith("mpirun -n 2 prdp-hpc paper") for result in results)


def test_a_bug_in_one_experiment_shows_and_stops_no_other(listed, tmp_path, capsys, monkeypatch):
    broken = "prdp_hpc.commands.compare.plot_comparison"
    monkeypatch.setattr(broken, lambda *_: {}["nothing"])
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "paper",
                "--quick",
                "--list",
                listed,
                "--out",
                str(tmp_path / "out"),
                "--only",
                "heat",
                "poisson",
            ]
        )
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.err.count("the next experiment: KeyError: 'nothing'\nTraceback") == 2
    assert "heat: FAILED" in captured.out
    assert "poisson: FAILED" in captured.out


def test_the_list_of_the_repository_can_be_trained_in_both_sizes(monkeypatch):
    monkeypatch.chdir(tiny.REPOSITORY)
    path = find_list()
    assert not path.is_absolute()
    monkeypatch.chdir("/")
    assert find_list().samefile(tiny.REPOSITORY / path)  # the list of the installed package
    listed = load_paper(find_list())
    for name, experiment in listed.experiments.items():
        for quick in (False, True):
            config = load_experiment(find_list(), name, experiment, quick)
            assert config.name == name
            assert len(config.seeds) >= (1 if config.task == "inverse" or quick else 3)
        assert yaml.safe_load((find_list().parent / experiment.config).read_text())["name"] == name
