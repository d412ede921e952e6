"""With Python 3.11 petsc4py is built for the libraries of the binary, which are not changed."""

import io
import sys
import tarfile
import zipfile

import pytest
import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "tools"))

import petsc_binary
import petsc_libraries
from petsc_libraries import _OPTIONS, PETSC, SETTINGS
from setup_steps import SetupError

LIBRARY = "libpetsc.so." + PETSC.rpartition(".")[0]
NEEDED = [f"dolfinx_solver/lib/{LIBRARY}", "dolfinx_solver_real.libs/libgfortran-3f600444.so.5.0.0"]
UNUSED = [
    "dolfinx_solver/lib/libdolfinx.so.0.11",
    "dolfinx_solver_real.libs/libfmt-677b7a5c.so.8.1.1",
    "petsc4py/lib/PETSc.abi3.so",
]


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The wheel that is made of small archives in the layout of PyPI's."""

    def download(_, folder, *options):
        folder.mkdir()
        if "--only-binary" in options:
            with zipfile.ZipFile(folder / "binary.whl", "w") as archive:
                for name in [*NEEDED, *UNUSED]:
                    archive.writestr(name, " ".join(_OPTIONS))
        else:
            with tarfile.open(folder / "source.tar.gz", "w:gz") as archive:
                for name in ("include/petsc.h", "include/petsc/private/vecimpl.h", "src/vec.c"):
                    member = tarfile.TarInfo(f"petsc-{PETSC}/{name}")
                    member.size = len(name)
                    archive.addfile(member, io.BytesIO(name.encode()))

    def pack(command):
        content, folder = command[4], command[6]
        with zipfile.ZipFile(f"{folder}/petsc-{PETSC}-x.whl", "w") as archive:
            for file in sorted(petsc_libraries.Path(content).rglob("*")):
                archive.write(file, file.relative_to(content))

    monkeypatch.setattr(petsc_libraries, "_download", download)
    monkeypatch.setattr(petsc_libraries, "run", pack)
    return petsc_libraries.libraries_wheel(tmp_path / "cache")


def test_the_wheel_has_the_needed_libraries_in_their_relative_places(wheel):
    """libpetsc looks for the others in its folder and in ../../dolfinx_solver_real.libs."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"petsc/lib/{LIBRARY}", NEEDED[1]} <= names
    assert not [name for name in names for unused in UNUSED if unused.split("/")[-1] in name]


def test_the_wheel_has_what_petsc4py_reads_when_it_is_built(wheel):
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    assert {"petsc/include/petsc.h", "petsc/include/petsc/private/vecimpl.h"} <= names
    assert archive.read("petsc/include/petscconf.h").decode() == SETTINGS
    assert f"Version: {PETSC}\n" in archive.read(f"petsc-{PETSC}.dist-info/METADATA").decode()
    assert not [name for name in names if name.endswith(".c")]


def test_the_wheel_is_made_once(wheel, monkeypatch):
    monkeypatch.setattr(petsc_libraries, "_download", None)
    assert petsc_libraries.libraries_wheel(wheel.parent) == wheel
    assert [file.name for file in wheel.parent.iterdir()] == [wheel.name]


@pytest.mark.parametrize("option", _OPTIONS)
def test_a_library_of_other_options_is_refused(option, tmp_path):
    """Its integers or scalars may have another size than those of the settings."""
    file = tmp_path / LIBRARY
    file.write_text(" ".join(_OPTIONS))
    petsc_libraries.check_settings(file)
    file.write_text(" ".join(other for other in _OPTIONS if other != option))
    with pytest.raises(SetupError, match=rf"{LIBRARY} was not configured {option}$"):
        petsc_libraries.check_settings(file)


def test_a_binary_of_another_petsc_is_refused(tmp_path):
    with pytest.raises(SetupError, match="was not configured"):
        petsc_libraries.check_settings(tmp_path / LIBRARY)


@pytest.mark.parametrize(("minor", "is_built"), [(11, True), (12, False), (14, False)])
def test_petsc4py_is_built_where_the_binary_has_none(minor, is_built, monkeypatch):
    done = []
    monkeypatch.setattr(petsc_binary.sys, "version_info", (3, minor, 1))
    monkeypatch.setattr(petsc_binary, "uninstall", lambda *_: None)
    monkeypatch.setattr(petsc_binary, "install_locked", lambda *_: done.append("binary"))
    monkeypatch.setattr(petsc_binary, "_install_libraries", lambda: done.append("libraries"))
    monkeypatch.setattr(petsc_binary, "run", lambda _: done.append("probe"))
    petsc_binary.install_binary()
    assert done == ["libraries" if is_built else "binary", "probe"]


def test_the_version_of_the_libraries_is_compared_with_the_headers():
    """Also in the environment of this test, if it was made in this way."""
    petsc = pytest.importorskip("petsc")
    if "dolfinx" not in (petsc.__doc__ or ""):
        pytest.skip("PETSc was built here")
    from prdp_hpc.petsc import PETSc

    assert ".".join(map(str, PETSc.Sys.getVersion())) == PETSC
