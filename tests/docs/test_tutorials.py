"""Usability: the tutorials run as they are written and print what they show."""

import ast
import re
import sys
import tomllib

import pytest
import run_tutorials
import tiny
from packaging.requirements import Requirement

TUTORIALS = sorted(run_tutorials.TUTORIALS.glob("*.md"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_prints_what_it_shows(path):
    with run_tutorials.scratch_folder() as folder:
        results = run_tutorials.execute(path)
        made = {figure.name for figure in folder.glob("*.png")}
    assert not list(run_tutorials.differences(results))
    assert made == set(_figures(path))


def _figures(path):
    """The figures that a page shows, all of which must be committed and small."""
    shown = run_tutorials.Page(path).links
    names = [link.removeprefix("figures/") for link in shown if link.startswith("figures/")]
    for name in names:
        assert (run_tutorials.FIGURES / name).stat().st_size <= 100_000
    return names


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_needs_only_what_is_installed_or_named(path):
    """So that it runs where the package was installed by pip."""
    project = tomllib.loads((tiny.REPOSITORY / "pyproject.toml").read_text())["project"]
    known = {Requirement(line).name for line in project["dependencies"]} | {"prdp_hpc"}
    page = run_tutorials.Page(path)
    known |= {block.title.removesuffix(".py") for block in page.blocks if block.title}
    known |= set(re.findall(r"`pip install (\w+)`", path.read_text(encoding="utf-8")))
    imported = {
        name.partition(".")[0]
        for block in page.blocks
        if block.language == "python"
        for node in ast.walk(ast.parse(block.text))
        for name in _imported(node)
    }
    assert not imported - known - sys.stdlib_module_names


def _imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) else []
