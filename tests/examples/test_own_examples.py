"""Usability: the examples of user-defined PDEs, networks and loops run as described in their
READMEs.
"""

import runpy
import shutil
import sys

import pytest
import tiny

from prdp_hpc import train
from prdp_hpc.cli import main

SMALL = [
    "training.epochs=2", "training.batch_size=4", "training.precision=float64", "data.train=8",
    "data.validation=2", "network.width=null",
]  # fmt: skip
PDE = ["grid.shape=[8,8]", "network={kind: resnet, channels: 4, blocks: 1}", *SMALL[:-1]]
CONVNEXT = "network={kind: 'networks.py:ConvNeXt', width: 4, blocks: 1}"
FNO = "network={kind: 'networks.py:FNO', width: 4, modes: 3}"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A copy of an example, as the working directory."""

    def copied(name):
        folder = tmp_path / name
        shutil.copytree(tiny.REPOSITORY / "examples" / name, folder)
        monkeypatch.chdir(folder)
        return folder

    return copied


def test_examples_are_short_and_explained():
    for folder in (tiny.REPOSITORY / "examples").iterdir():
        if (folder / "README.md").exists():
            assert len((folder / "README.md").read_text().splitlines()) <= 60
            for script in folder.glob("*.py"):
                assert len(script.read_text().splitlines()) <= 80, script


@pytest.mark.parametrize(
    ("name", "changes"), [("own_pde", PDE), ("own_network", [*SMALL[:-1], FNO])]
)
def test_a_user_defined_config_on_any_number_of_ranks(name, changes, example, capsys, two_ranks):
    folder = example(name)
    alone = train("config.yaml", changes)
    two = [*changes, "parallel.grid_ranks=2", "name=two"]
    (ended,) = two_ranks([["run", folder / "config.yaml", *two]])
    assert ended.codes == [0, 0], ended.stderr
    found = tiny.summary(folder / "runs" / "two")
    assert found["error"] == pytest.approx(alone["error"], rel=1e-6)
    main(["submit", "config.yaml", "--dry-run"])
    main(["plan", "config.yaml", "--ranks", "4"])
    assert "replicas" in capsys.readouterr().out


def test_a_user_defined_pde_is_compared_with_full_refinement(example, capsys):
    example("own_pde")
    main(["compare", "config.yaml", *PDE, "comparison.seeds=1"])
    assert "saved by PRDP against" in capsys.readouterr().out


def test_a_network_on_parts(example):
    example("own_network")
    assert train("config.yaml", [*SMALL[:-1], CONVNEXT])["epochs"] == 2


def test_a_user_defined_loop_is_the_same_on_any_split_and_resumes(
    example, capsys, monkeypatch, two_ranks
):
    folder = example("own_loop")

    def words(grid_ranks, steps, runs):
        options = ["--grid-ranks", str(grid_ranks), "--steps", str(steps), "--folder", runs]
        return [str(folder / "train.py"), *options]

    monkeypatch.setattr(sys, "argv", words(1, 40, "alone"))
    runpy.run_path(sys.argv[0], run_name="__main__")
    alone = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in alone] == ["20", "40"]
    for done, lines in zip(
        two_ranks([words(2, 20, "parts"), words(1, 40, "parts")]),
        (alone[:1], alone[1:]),
        strict=True,
    ):
        assert done.codes == [0, 0], done.stderr
        assert done.stdout.splitlines() == lines
