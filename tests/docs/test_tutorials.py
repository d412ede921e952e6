"""Usability: the tutorials run as they are written and print what they show."""

import pytest
import run_tutorials

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
