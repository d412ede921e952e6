"""Reliability: a path that cannot be read or written causes one message that contains the path,
with every command.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny

from prdp_hpc import cli
from prdp_hpc.errors import FileError
from prdp_hpc.files import file_errors, write_text

pytestmark = pytest.mark.xdist_group("places")  # One worker makes what all tests use.

# PLACE is replaced by the unusable path, CONFIG by a config, RUN by a finished run.
READ = [
    ["run", "PLACE"],
    ["compare", "PLACE"],
    ["generate", "PLACE"],
    ["gradients", "PLACE"],
    ["submit", "PLACE"],
    ["plan", "PLACE", "--ranks", "2"],
    ["plan", "CONFIG", "--ranks", "2", "--machine", "PLACE"],
    ["run", "CONFIG", "data.file=PLACE", "name=other"],
    ["compare", "CONFIG", "data.file=PLACE", "name=other"],
    ["paper", "--list", "PLACE"],
    ["plot", "PLACE"],
    ["plot", "RUN", "PLACE"],
    ["evaluate", "PLACE"],
    ["evaluate", "RUN", "--data", "PLACE"],
]
WRITTEN = [
    ["run", "CONFIG", "output=PLACE"],
    ["compare", "CONFIG", "output=PLACE"],
    ["generate", "CONFIG", "output=PLACE"],
    ["generate", "CONFIG", "--out", "PLACE/data.h5"],
    ["gradients", "CONFIG", "output=PLACE"],
    ["gradients", "CONFIG", "--out", "PLACE/figure.png"],
    ["submit", "CONFIG", "output=PLACE", "--dry-run"],
    ["paper", "--quick", "--out", "PLACE"],
    ["plot", "RUN", "--out", "PLACE/figure.png"],
    ["plot", "RUN", "RUN", "--out", "PLACE/figure.png"],
    ["evaluate", "RUN", "--out", "PLACE/errors.json"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config, its finished run, and unusable paths."""
    folder = tmp_path_factory.mktemp("places")
    tiny.write(folder / "tiny.yaml", tiny.emulator(folder / "runs", training={"epochs": 1}))
    cli.main(["run", str(folder / "tiny.yaml")])
    (folder / "loop").symlink_to(folder / "loop")
    return folder


def places(folder):
    yield folder / "tiny.yaml" / "below"  # a file instead of a folder
    yield folder / "loop"
    yield folder / ("x" * 300)
    yield "/proc/nowhere"


def check(capsys, words, folder, place):
    named = {"CONFIG": folder / "tiny.yaml", "RUN": folder / "runs" / "tiny", "PLACE": place}
    filled = [
        next((w.replace(key, str(path)) for key, path in named.items() if key in w), w)
        for w in words
    ]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(filled)
    reported = capsys.readouterr().err
    assert ended.value.code == 2, reported
    assert "Traceback" not in reported
    (line,) = [line for line in reported.splitlines() if line.startswith("prdp-hpc: ")]
    assert str(place) in line
    assert re.search("; |give|choose|no such config file", line), line


@pytest.mark.parametrize("words", [*READ, *WRITTEN], ids=" ".join)
def test_places_that_cannot_be_used(words, folder, capsys):
    for place in places(folder):
        check(capsys, words, folder, place)


@pytest.mark.parametrize("words", [word for word in READ if word[0] not in ("plot", "evaluate")])
def test_files_without_the_right_to_read(words, folder, capsys, monkeypatch):
    """The message for a user other than root; root may read all files."""
    place = folder / "private" / "file"

    def refuse(self, *arguments, **options):
        if str(self) == str(place):
            raise PermissionError(13, "Permission denied", str(self))
        return found(self, *arguments, **options)

    found = Path.stat
    monkeypatch.setattr(Path, "stat", refuse)
    check(capsys, words, folder, place)


HOLD = """
import sys, h5py
with h5py.File(sys.argv[1], "r+") as file:
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_data_file_that_another_process_writes(folder, capsys, tmp_path):
    path = tmp_path / "mine.h5"
    with h5py.File(path, "w") as file:
        for group in ("train", "validation"):
            file[f"{group}/trajectories"] = np.random.default_rng(0).standard_normal((4, 3, 8))
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        for command in (["run"], ["compare"]):
            check(capsys, [*command, "CONFIG", "data.file=PLACE", "name=b"], folder, path)
        with pytest.raises(SystemExit):
            cli.main(["evaluate", str(folder / "runs" / "tiny"), "--data", str(path)])
        reported = capsys.readouterr().err
        assert "unable to lock file" in reported
        assert "another process is writing" in reported
        assert "HDF5_USE_FILE_LOCKING=FALSE" in reported
        other.stdin.close()


@pytest.mark.parametrize("number", [28, 122, 30, 13, 5])
def test_a_disk_that_is_full(number, tmp_path, monkeypatch):
    """Writes are atomic, and the message contains the reason of the operating system."""
    write_text(tmp_path / "a.txt", "before")

    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("prdp_hpc.files.os.fsync", fsync)
    with pytest.raises(FileError) as caught:
        write_text(tmp_path / "a.txt", "after")
    assert caught.value.errno == number
    assert str(caught.value).startswith(
        f"{tmp_path / 'a.txt'}: cannot be written ({os.strerror(number)}); "
    )
    assert (tmp_path / "a.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_other_errors_pass():
    for error in (FileError("said already"), KeyError("a bug")):
        with pytest.raises(type(error)) as caught, file_errors("a", "cannot be read"):
            raise error
        assert caught.value is error
