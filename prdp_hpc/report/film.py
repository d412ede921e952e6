"""Films of a sample: truth, prediction and difference over time, as GIF or MP4."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.errors import InputError
from prdp_hpc.files import atomic_path
from prdp_hpc.report.beyond import beyond, beyond_note
from prdp_hpc.report.field_figure import (
    CHANNELS,
    FIELD_COLOURS,
    colour_bar,
    draw_map,
    frame,
    limits,
    rows_of,
    shape_ratio,
    time_label,
    titled_figure,
)
from prdp_hpc.report.field_series import FieldSeries
from prdp_hpc.report.panels import COLOURS, INK, LABEL_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
SECONDS = 8.0
"""Aimed length of a film."""
RATES = (2.0, 20.0)
"""Fewest and most frames per second."""

Frame = NDArray[np.uint8]


def write_film(series: FieldSeries, path: Path) -> None:
    """Write a film with one frame per state; the suffix of `path` is `.gif` or `.mp4`.

    Raises
    ------
    InputError
        For MP4 without the package imageio-ffmpeg.
    """
    rate = float(np.clip(len(series.steps) / SECONDS, *RATES))
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    write(series, path, rate)


def check_format(name: str) -> None:
    """Raise `InputError` if films of this format cannot be written here."""
    if name == "mp4":
        _ffmpeg()


def _write_gif(series: FieldSeries, path: Path, rate: float) -> None:
    from PIL import Image

    # All frames have the same 256 colours: by default each frame has its own, which flickers.
    colours = Image.new("P", (1, 1))
    colours.putpalette(_palette(series).tobytes())
    shown = [
        Image.fromarray(one).quantize(palette=colours, dither=Image.Dither.NONE)
        for one in frames(series)
    ]
    with atomic_path(path) as temporary:
        shown[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=shown[1:],
            duration=round(1000 / rate),
            loop=0,
        )


def _palette(series: FieldSeries) -> Frame:
    """The 256 colours of a GIF, `(256, 3)`: those of the maps, shades of grey and of the lines."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    names = list(dict.fromkeys(colours for _, colours in rows_of(series).values()))
    parts = [colormaps[name](np.linspace(0, 1, 208 // len(names)))[:, :3] for name in names]
    grey = np.linspace(0, 1, 32)[:, np.newaxis]
    line = np.array([to_rgb(COLOURS[0])])
    parts += [np.repeat(grey, 3, axis=1), line, (line + 1) / 2]
    whole = np.concatenate(parts)
    found = np.zeros((256, 3), np.uint8)
    found[: len(whole)] = np.rint(255 * whole)
    return found


def _write_mp4(series: FieldSeries, path: Path, rate: float) -> None:
    ffmpeg = _ffmpeg()
    with atomic_path(path) as temporary:
        writer: Any = None
        for one in frames(series):
            if writer is None:
                size = (one.shape[1], one.shape[0])
                writer = ffmpeg.write_frames(
                    str(temporary), size, fps=rate, quality=8, ffmpeg_log_level="error"
                )
                writer.send(None)
            writer.send(np.ascontiguousarray(one))
        writer.close()


def _ffmpeg() -> Any:
    try:
        imageio_ffmpeg: Any = import_module("imageio_ffmpeg")
    except ImportError:
        raise InputError(
            "--format mp4: needs the package imageio-ffmpeg: pip install 'prdp-hpc[export]', or "
            "choose --format gif"
        ) from None
    return imageio_ffmpeg


def frames(series: FieldSeries) -> Iterator[Frame]:
    """The frames as RGB images `(height, width, 3)`, whose sizes are multiples of 16."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, update = _lines(series) if len(series.axes) == 1 else _maps(series)
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    width, height = (round(inches * DPI / 16) * 16 for inches in figure.get_size_inches())
    figure.set_size_inches((width + 0.001) / DPI, (height + 0.001) / DPI)
    for state in range(len(series.steps)):
        update(state)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()


def _maps(series: FieldSeries) -> tuple[Figure, Any]:
    """A figure with one row per channel and one map per kind of field, and its update."""
    channels = range(min(len(series.channels), CHANNELS))
    kinds = rows_of(series)
    ratio = shape_ratio(series)
    width = 12.0
    size = (width - 0.9) / len(kinds) - 1.0
    height = 1.1 + len(channels) * (size * ratio + 0.45)
    if height > 9.0:
        size *= (9.0 - 1.1) / (height - 1.1)
        height, width = 9.0, 0.9 + len(kinds) * (size + 1.0)
    figure = titled_figure(series, width, height)
    grid = figure.add_gridspec(
        len(channels),
        len(kinds),
        left=0.6 / width,
        right=1 - 0.85 / width,
        top=1 - 1.05 / height,
        bottom=0.35 / height,
        wspace=1.0 / size,
        hspace=0.45 / (size * ratio),
    )
    every, images = range(len(series.steps)), []
    for channel in channels:
        for column, (heading, (fields, colours)) in enumerate(kinds.items()):
            ax = figure.add_subplot(grid[channel, column])
            ends = limits(series, channel, every, colours)
            image = draw_map(ax, series, fields[0, channel], colours, ends)
            bar = ax.inset_axes((1.03, 0.0, 0.04, 1.0))
            colour_bar(figure, image, bar, fields[:, channel], ends)
            name = f", {series.channels[channel]}" if len(channels) > 1 else ""
            ax.set_title(heading + name, fontsize=LABEL_SIZE + 1, color=INK, pad=4)
            ax.tick_params(labelsize=LABEL_SIZE - 2, colors=INK, length=2)
            ax.locator_params(nbins=4)
            images.append((image, fields, channel))
    clock = _clock(figure)

    def update(state: int) -> None:
        clock.set_text(clock_text(series, state))
        for image, fields, channel in images:
            image.set_data(np.ma.masked_invalid(fields[state, channel]))

    return figure, update


def _lines(series: FieldSeries) -> tuple[Figure, Any]:
    """A figure with one panel of lines per channel, and its update."""
    channels = range(min(len(series.channels), CHANNELS))
    height = 1.3 + 3.0 * len(channels)
    figure = titled_figure(series, 8.0, height)
    grid = figure.add_gridspec(
        len(channels), 1, left=0.1, right=0.97, top=1 - 0.75 / height, bottom=0.5 / height
    )
    x, lines, notes = series.axes[0], [], []
    for channel in channels:
        ax = figure.add_subplot(grid[channel])
        low, high = limits(series, channel, range(len(series.steps)), FIELD_COLOURS)
        margin = 0.15 * (high - low)
        ax.set_ylim(low - margin, high + margin)
        ax.set_xlim(float(x[0]), float(x[-1]))
        (truth,) = ax.plot(x, series.truth[0, channel], color="#999999", lw=3.2, label="truth")
        name = "mean" if series.spread.size else "prediction"
        style = {"color": COLOURS[0], "lw": 1.5, "ls": (0, (4, 1.5))}
        (found,) = ax.plot(x, series.prediction[0, channel], **style, label=name)
        ax.set_ylabel(series.channels[channel], fontsize=LABEL_SIZE, color=INK)
        ax.legend(loc="upper right", fontsize=LABEL_SIZE - 1, frameon=False, labelcolor=INK)
        frame(ax)
        lines += [(truth, series.truth, channel), (found, series.prediction, channel)]
        notes.append((beyond_note(ax, ""), ax, channel))
    ax.set_xlabel("x", fontsize=LABEL_SIZE, color=INK)
    clock = _clock(figure)

    def update(state: int) -> None:
        clock.set_text(clock_text(series, state))
        for line, fields, channel in lines:
            line.set_ydata(fields[state, channel])
        for note, ax, channel in notes:
            note.set_text(beyond(series.prediction[state, channel], ax.get_ylim()))

    return figure, update


def clock_text(series: FieldSeries, state: int) -> str:
    """The time of a state, and that its truth is not known where that of others is."""
    known = np.isfinite(series.truth).any(axis=tuple(range(1, series.truth.ndim)))
    note = "truth not known, " if known.any() and not known[state] else ""
    return note + time_label(series, state)


def _clock(figure: Figure) -> Any:
    width, height = figure.get_size_inches()
    return figure.text(
        1 - 0.2 / width, 1 - 0.12 / height, "", fontsize=13, color=INK, va="top", ha="right"
    )
