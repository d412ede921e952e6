"""Figures and films of fields: orientation, common colours, and what is not known."""

import sys

import numpy as np
import pytest
from PIL import Image

from prdp_hpc.errors import InputError
from prdp_hpc.report.field_figure import draw_map, limits, lines_figure, maps_figure
from prdp_hpc.report.field_series import FieldSeries, load_series, save_series
from prdp_hpc.report.film import _lines, check_format, clock_text, frames, write_film
from prdp_hpc.report.log_axis import tidy
from prdp_hpc.report.runs import ReportError
from prdp_hpc.report.spectra_figure import _energies, plot_spectra
from prdp_hpc.report.step_errors import by_step, step_table
from prdp_hpc.report.variants_figure import plot_variants


def series(shape=(6, 8), channels=("u",), states=4, known=3, runs=1, title="mine: sample 0"):
    """Random fields; the truth of the last states is not known."""
    random = np.random.default_rng(0)
    size = (states, len(channels), *shape)
    truth = random.standard_normal(size).astype(np.float32)
    truth[known:] = np.nan
    energy = random.random((3, states, len(channels), 5)) + 0.1
    return FieldSeries(
        title=title,
        channels=channels,
        steps=np.arange(states),
        times=0.1 * np.arange(states),
        axes=tuple((np.arange(n) + 0.5) / n for n in shape),
        section="",
        truth=truth,
        prediction=random.standard_normal(size).astype(np.float32),
        spread=random.random(size).astype(np.float32) if runs > 1 else np.zeros(0, np.float32),
        wavenumbers=np.arange(5.0),
        truth_energy=energy[0],
        energy=energy[1],
        difference_energy=energy[2],
        errors=random.random((1, states)),
        error_names=("error",),
        member_errors=random.random((runs if runs > 1 else 0, states)),
    )


def test_x_is_to_the_right_and_y_upwards():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), dpi=50)
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    field = np.zeros((6, 8))
    field[-1, 0] = 1.0  # the largest y, the smallest x
    draw_map(ax, series(), field, "viridis", (0.0, 1.0))
    ax.set_axis_off()
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    corners = {(i, j): image[i, j].sum() for i in (2, -3) for j in (2, -3)}
    assert max(corners, key=corners.get) == (2, 2)  # rows of images are from the top


def test_truth_and_prediction_have_the_colours_of_the_truth():
    one = series()
    low, high = limits(one, 0, range(4), "viridis")
    assert (low, high) == (float(np.nanmin(one.truth)), float(np.nanmax(one.truth)))
    low, high = limits(one, 0, range(4), "RdBu_r")
    assert low == -high == -float(np.nanmax(np.abs(one.difference)))


def test_states_with_a_known_truth_are_preferred():
    one = series(states=30, known=11)
    assert one.shown(5) == [1, 4, 7, 10, 29]
    assert series(states=3, known=3).shown(5) == [1, 2]
    assert series(states=1, known=1).shown(5) == [0]
    assert series(states=9, known=0).shown(3) == [1, 5, 8]


@pytest.mark.parametrize(("runs", "known"), [(1, 4), (3, 1), (1, 0)])
def test_every_kind_of_figure_is_drawn(runs, known, tmp_path):
    plane = series(runs=runs, known=known)
    rows = (3 if known else 1) + (runs > 1)
    maps = maps_figure(plane)
    states = len(plane.shown(5))
    assert len(maps.axes) == rows * (states + 1)  # and a colour bar
    line = series((9,), ("u", "v"), runs=runs, known=known)
    texts = {ax.get_title() for ax in lines_figure(line).axes}
    assert ("Truth" in texts) == bool(known)
    assert ("Spread" in texts) == (runs > 1)
    plot_spectra(plane, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size[0] > 1000


def test_a_series_is_read_as_it_was_written(tmp_path):
    one = series(runs=2)
    save_series(tmp_path / "a.npz", one)
    again = load_series(tmp_path / "a.npz")
    for name in one.__dataclass_fields__:
        np.testing.assert_equal(getattr(again, name), getattr(one, name))
    (tmp_path / "b.npz").write_bytes(b"no fields")
    with pytest.raises(ReportError, match=r"b\.npz"):
        load_series(tmp_path / "b.npz")


@pytest.mark.parametrize(("suffix", "shape"), [("gif", (9,)), ("mp4", (6, 8)), ("mp4", (9,))])
def test_a_film_has_one_frame_per_state(suffix, shape, tmp_path):
    one = series(shape, states=5)
    check_format(suffix)
    write_film(one, tmp_path / f"a.{suffix}")
    expected = list(frames(one))
    assert len(expected) == 5
    assert all(np.array(frame.shape)[:2].sum() % 16 == 0 for frame in expected)
    if suffix == "gif":
        assert Image.open(tmp_path / "a.gif").n_frames == 5
        return
    import imageio_ffmpeg

    read = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    about = next(read)
    found = [np.frombuffer(frame, np.uint8).reshape(expected[0].shape) for frame in read]
    assert about["size"] == expected[0].shape[1::-1]
    assert len(found) == 5
    closest = [np.argmin([np.abs(f.astype(int) - e).mean() for e in expected]) for f in found]
    assert closest == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(6, 8), (9,)])
@pytest.mark.parametrize("known", [0, 3, 5])
def test_a_film_names_the_states_without_a_truth(shape, known):
    one = series(shape, states=5, known=known)
    named = ["truth not known" in clock_text(one, state) for state in range(5)]
    assert named == [bool(known) and state >= known for state in range(5)]


def test_a_missing_package_for_films_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"pip install 'prdp-hpc\[export\]'"):
        check_format("mp4")
    check_format("gif")


@pytest.mark.parametrize("shape", [(6, 8), (9,)])
def test_variants_side_by_side(shape, tmp_path):
    both = {name: series(shape, title=f"{name}: sample 0") for name in ("prdp", "full")}
    plot_variants(both, tmp_path / "a.png", "a comparison")
    assert Image.open(tmp_path / "a.png").size[1] > 400


def test_the_table_of_errors():
    errors = {f"error_{step}": 0.1 * step for step in range(1, 41)} | {"error_2_u": 0.5}
    assert by_step(errors)["u"] == {2: 0.5}
    text = step_table({"errors": {f"error_{step}": 0.1 * step for step in range(1, 41)}})
    assert len(text.splitlines()) == 22
    assert "  40  4.0000e+00" in text
    assert "no errors" in step_table({"errors": {}})


@pytest.mark.parametrize("states", [3, 13])
def test_times_on_an_axis_are_those_of_states(states):
    one = series((8,), states=states)
    figure = lines_figure(one)
    maps = [ax for ax in figure.axes if ax.images and ax.get_xlabel() == "x"]
    assert len(maps) == 3
    for ax in maps:
        ticks = ax.get_yticks()
        assert 2 <= len(ticks) <= 7
        assert set(ticks) <= set(one.times)


@pytest.mark.parametrize(
    ("largest", "note"), [(1.0, ""), (300.0, "prediction: −1 to 3e+02"), (np.nan, "not finite")]
)
def test_a_prediction_beyond_the_panel_is_noted(largest, note):
    """The panel has the limits of the truth, so that another line would not be seen."""
    one = series((8,))
    one.truth[:3] = np.linspace(-1, 1, 8)
    one.prediction[:] = np.linspace(-1, largest, 8)
    texts = [text.get_text() for ax in lines_figure(one).axes for text in ax.texts]
    assert any(note in text for text in texts) if note else not any("predict" in t for t in texts)
    figure, update = _lines(one)
    update(1)
    shown = figure.axes[0].texts[0].get_text()
    assert note in shown if note else shown == ""


@pytest.mark.parametrize("span", [1e-7, 1e-4, 0.015, 0.3, 2.0, 50.0, 1e4])
def test_the_labels_of_an_axis_of_errors_differ(span):
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.add_subplot()
    ax.plot([1, 2, 3], [1.01, 1.01 + span / 2, 1.01 + span])
    ax.set_yscale("log")
    tidy(ax.yaxis)
    figure.canvas.draw()
    low, high = ax.get_ylim()
    shown = [
        label.get_text() for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high
    ]
    assert len(shown) > 1
    assert len(set(shown)) == len(shown)


def test_all_energies_that_span_the_axis_are_visible():
    from matplotlib.figure import Figure

    one = series(states=2, known=2)
    energy = np.array([7.0, 1.0, 0.0, 1e-3, 0.0])  # the mean, two wavenumbers without neighbours
    one.truth_energy[:], one.energy[:] = energy, energy
    ax = Figure().add_subplot()
    _energies(ax, one, 0, "")
    drawn = set()
    for line in ax.lines:
        if line.get_marker() != "None":
            drawn |= set(map(float, line.get_ydata()))
    assert drawn == {7.0, 1.0, 1e-3}
