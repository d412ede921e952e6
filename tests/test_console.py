"""Plain text without a terminal; with one, tables of its width, and colours without NO_COLOR."""

import io
import os
import re
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from prdp_hpc.console import Bar, Report, Table, note, show

TABLE = Table(
    [["run", "error", "saved"], ["first", "1.2e-3", "41 %"], ["second", "9e-4", "MISS"]], "<>>"
)
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@pytest.fixture
def written(monkeypatch):
    """The output of a function on a terminal of 40 columns."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(function, *arguments):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: True)
        with redirect_stdout(stream), redirect_stderr(stream):
            function(*arguments)
        return stream.getvalue()

    return run


def test_a_table_is_text_in_columns():
    assert TABLE == (
        "run      error  saved\n---------------------\nfirst   1.2e-3   41 %\nsecond    9e-4   MISS"
    )


def test_without_a_terminal_the_text_is_written_unchanged(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(Report(["title", TABLE]), "run folder: runs/a")
    out = capsys.readouterr().out
    assert out == f"title\n\n{TABLE}\n\nrun folder: runs/a\n"
    assert not CONTROL.search(out)


def test_output_is_discarded_once_the_reader_of_a_pipe_has_ended(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        for write in (show, note, show):
            write("a line")


def test_on_a_terminal_a_table_fits_its_width(written):
    out = written(show, Table([["name", "text"], ["a", "word " * 30]], "<<"))
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= 40
    assert out.count("word") == 30


def test_a_path_is_not_broken_on_a_terminal(written):
    path = "runs/" + "x" * 100
    assert path in written(show, path)


@pytest.mark.parametrize("no_color", [False, True])
def test_a_miss_is_red_unless_colour_is_disabled(written, monkeypatch, no_color):
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    assert ("31mMISS" in written(show, TABLE)) is not no_color


def test_text_with_brackets_is_no_markup(written):
    out = written(show, "[red]x[/red]", Table([["[b]", "c"], ["[/x]", "d"]], "<<"))
    assert all(text in out for text in ("[red]x[/red]", "[b]", "[/x]"))


def test_a_bar_never_hides_the_cursor(written):
    def draw():
        bar = Bar(4, "heat", "epoch")
        bar.update(3, "error 1e-2")
        bar.close()

    out = written(draw)
    assert "epoch 3/4" in out
    assert "\x1b[?25l" not in out


def test_a_dumb_terminal_gets_plain_text(written, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert written(show, TABLE) == f"{TABLE}\n"
