"""Usability: no text of a figure is cut at its edge, for small and large ranges of errors."""

import pytest
from test_inversion_report import runs_of

from prdp_hpc.report import figures, inversion_figure, load_run, plot_inversion, plot_run

ERRORS = [0.925, 0.9999, 0.2, 1e-7]
"""Last errors of a field; the first one is 1."""


def uncut(figure):
    """Check that all visible text is inside of the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    hidden = {label for ax in figure.axes for label in _outside(ax)}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text not in hidden]
    for text in shown:
        if text.get_text().strip():
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.y0 >= -1, text
            assert box.x1 <= width + 1, text
            assert box.y1 <= height + 1, text


def _outside(ax):
    """The labels of ticks beyond the limits, which are not drawn."""
    for axis, place in ((ax.xaxis, 0), (ax.yaxis, 1)):
        low, high = sorted(axis.get_view_interval())
        for label in axis.get_ticklabels(which="both"):
            if not low <= label.get_position()[place] <= high:
                yield label


@pytest.mark.parametrize("floor", [0.03, 3.0, 50.0, 1e4])
def test_the_text_of_a_figure_of_a_run(floor, write_run, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    folder = write_run("mine", epochs=6, floor=floor)
    plot_run(load_run(folder), tmp_path / "a.png")
    uncut(drawn[0])


# Without a truth there are fewer maps, and the errors are written as with it.
@pytest.mark.parametrize(("error", "truth"), [*((error, True) for error in ERRORS), (0.2, False)])
@pytest.mark.parametrize("names", [("prdp",), ("prdp", "full")])
def test_the_text_of_a_figure_of_inversions(names, error, truth, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(inversion_figure, "save", lambda figure, path: drawn.append(figure))
    every = runs_of(tmp_path, prdp=error, truth=truth)
    runs = {name: every[name] for name in names}
    plot_inversion(runs, tmp_path / "a.png", "mine")
    uncut(drawn[0])
    titles = [ax.get_title() for ax in drawn[0].axes if ax.images]
    assert len(titles) == (2 * len(names) + 1 if truth else len(names)) + (len(names) == 2)
    assert sum("slice 2 of 3 along z" in title for title in titles) == (1 if truth else len(names))
