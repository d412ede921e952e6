"""`prdp-hpc doctor` finds the libraries that the process has loaded."""

from pathlib import Path

import pytest

from prdp_hpc.commands import doctor

LINE = "7f1c00000000-7f1c00001000 r-xp 00000000 fe:00 1234     {}\n"


@pytest.mark.parametrize("folder", ["/opt/petsc", "/home/me/my clone/.venv/lib/python3.12/petsc"])
def test_the_folder_of_petsc_may_contain_blanks(folder):
    maps = LINE.format("/usr/lib/libm.so.6") + LINE.format(f"{folder}/lib/libpetsc.so.3.26.1")
    assert doctor._folder_of_petsc(maps) == Path(folder)
    assert doctor._folder_of_petsc(LINE.format("/usr/lib/libm.so.6")) is None


def test_the_loaded_petsc_is_found(capsys):
    doctor.doctor(None)
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PETSc ")]
    folder = found[0].split(" in ")[1].split(", ")[0]
    assert list(Path(folder).glob("lib/libpetsc.so*"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [("echo slurm 22.05.8", "slurm 22.05.8"), ("exit 1", "no answer from its controller")],
)
def test_slurm_without_a_controller_is_reported(body, expected, tmp_path, monkeypatch):
    program = tmp_path / "sbatch"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = doctor._slurm()
    assert finding.found == f"{expected}, {program}"
