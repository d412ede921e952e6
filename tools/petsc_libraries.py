"""The libraries of the binary PETSc, and petsc4py built for them: the set-up with Python 3.11.

The binary's petsc4py needs Python 3.12, but libpetsc and what it is linked with do not use Python.
Building petsc4py takes 2 minutes, and building PETSc as well would take 12.

petsc4py is compiled with the headers of PETSc's source archive of the same version. PETSc's
configure would write `petscconf.h` beside them; the one below has what the types and signatures in
the headers depend on, and `check_settings` compares it with the options that libpetsc records.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import zipfile
from pathlib import Path

from setup_steps import VENV, SetupError, Step, check_is_writable, locked_entry, pip, run

PETSC = "3.25.5"
# Hashes of the source archives on PyPI.
SHA256 = {
    "petsc": "6d61c472db39006d261542d1a42f1fa6c52d6e89f9e77041386189aa8c24b490",
    "petsc4py": "a542fcdcd9471f49e996ee251461a81bf0645e299701de45a9433adee94b4489",
}
BINARY = ("petsc-binary.txt", "dolfinx-solver-real==0.11.0.post0")
# Where the libraries look for each other: beside themselves and in the second folder.
_LIBRARIES, _OTHER_LIBRARIES = "dolfinx_solver/lib/", "dolfinx_solver_real.libs/"
# Parts of the binary that libpetsc does not need.
_UNUSED = re.compile(r"lib(adios2|dolfinx|slepc|kahip|parhip|fmt|pugixml|spdlog)")
# Options of PETSc's configure, recorded in libpetsc, on which `SETTINGS` depend.
_OPTIONS = (
    "--with-scalar-type=real",
    "--with-precision=double",
    "--with-64-bit-indices=0",
    "--with-64-bit-blas-indices=0",
    "--with-debugging=0",
    "--with-openmp=0",
)
SETTINGS = """\
#pragma once
#define PETSC_ARCH ""
#define PETSC_CLANGUAGE_C 1
#define PETSC_DEPRECATED_ENUM_BASE(why)
#define PETSC_DEPRECATED_FUNCTION_BASE(why)
#define PETSC_DEPRECATED_MACRO_BASE(why)
#define PETSC_DEPRECATED_OBJECT_BASE(why)
#define PETSC_DEPRECATED_TYPEDEF_BASE(why)
#define PETSC_DIR ""
#define PETSC_FUNCTION_NAME_C __func__
#define PETSC_HAVE_BUILTIN_EXPECT 1
#define PETSC_HAVE_C99_COMPLEX 1
#define PETSC_HAVE_INTTYPES_H 1
#define PETSC_HAVE_MPICH 1
#define PETSC_HAVE_MPIIO 1
#define PETSC_HAVE_MPI_COUNT 1
#define PETSC_HAVE_MPI_INT64_T 1
#define PETSC_HAVE_MPI_LARGE_COUNT 1
#define PETSC_HAVE_MPI_REDUCE_LOCAL 1
#define PETSC_HAVE_STDINT_H 1
#define PETSC_HAVE_SYS_TYPES_H 1
#define PETSC_IS_COLORING_MAX USHRT_MAX
#define PETSC_IS_COLORING_VALUE_TYPE short
#define PETSC_LEVEL1_DCACHE_LINESIZE 64
#define PETSC_MAX_PATH_LEN 4096
#define PETSC_MEMALIGN 16
#define PETSC_MPIU_IS_COLORING_VALUE_TYPE MPI_UNSIGNED_SHORT
#define PETSC_Prefetch(a, b, c)
#define PETSC_SIZEOF_INT 4
#define PETSC_SIZEOF_LONG 8
#define PETSC_SIZEOF_LONG_LONG 8
#define PETSC_SIZEOF_SIZE_T 8
#define PETSC_SIZEOF_VOID_P 8
#define PETSC_UINTPTR_T uintptr_t
#define PETSC_UNUSED __attribute((unused))
#define PETSC_USE_INFO 1
#define PETSC_USE_LOG 1
#define PETSC_USE_REAL_DOUBLE 1
#define PETSC_USE_SHARED_LIBRARIES 1
#define PETSC_USE_SINGLE_LIBRARY 1
"""
# `prdp-hpc doctor` prints them.
_RECORDED = f'static const char *petscconfigureoptions = "{" ".join(_OPTIONS)}";\n'
# The pinned MPICH is the one of the binary, so that no versions have to be compared.
_PACKAGE_VERSIONS = """\
#define PETSC_PKG_MPICH_VERSION_GT(major, minor, subminor) 0
#define PETSC_PKG_MPICH_VERSION_LT(major, minor, subminor) 0
"""
_VARIABLES = """\
PETSC_CC_INCLUDES = -I${PETSC_DIR}/include
PETSC_LIB_DIR = ${PETSC_DIR}/lib
PETSC_LIB_BASIC = -lpetsc
BUILDSHAREDLIB = yes
PETSC_LANGUAGE = CONLY
PETSC_SCALAR = real
PETSC_PRECISION = double
PETSC_INDEX_SIZE = 32
PCC = ${PETSC_DIR}/../../../../bin/mpicc
PCC_FLAGS = -fPIC
PCC_LINKER = ${PETSC_DIR}/../../../../bin/mpicc
PCC_LINKER_FLAGS = -fPIC
BLASLAPACK_LIB = -lopenblas
"""
_PACKAGE = '''\
"""PETSc: the libraries of the package dolfinx-solver-real, and the headers of their version."""

from pathlib import Path


def get_petsc_dir():
    """The folder with `lib` and `include`, as in the package petsc of PyPI."""
    return str(Path(__file__).parent)
'''
_WHEEL = "Wheel-Version: 1.0\nGenerator: prdp-hpc\nRoot-Is-Purelib: false\nTag: {tag}\n"
_METADATA = f"Metadata-Version: 2.1\nName: petsc\nVersion: {PETSC}\n"
_TAG = "py3-none-manylinux_2_34_x86_64"


def libraries_wheel(folder: Path) -> Path:
    """The wheel of PETSc's libraries and headers; it is made unless it is in `folder`."""
    wheel = folder / f"petsc-{PETSC}-{_TAG}.whl"
    if not wheel.exists():
        check_is_writable(folder)
        with (
            Step(f"taking PETSc {PETSC} from the binaries on PyPI"),
            tempfile.TemporaryDirectory(dir=folder) as beside,
        ):
            content = Path(beside) / "content"
            _unpack_libraries(_downloaded_binary(Path(beside)), content)
            _unpack_headers(_downloaded_source(Path(beside)), content / "petsc" / "include")
            _write_settings(content)
            python = str(VENV / "bin" / "python")
            run([python, "-m", "wheel", "pack", str(content), "-d", beside])
            next(Path(beside).glob("petsc-*.whl")).replace(wheel)
    return wheel


def _downloaded_binary(folder: Path) -> Path:
    other = ("--only-binary", ":all:", "--python-version", "3.12", "--platform", _TAG[9:])
    _download(locked_entry(*BINARY), folder / "binary", *other)
    return next((folder / "binary").iterdir())


def _downloaded_source(folder: Path) -> Path:
    pinned = f"petsc=={PETSC} --hash=sha256:{SHA256['petsc']}\n"
    source = ("--no-binary", ":all:", "--no-build-isolation")
    _download(pinned, folder / "source", *source)
    return next((folder / "source").iterdir())


def _download(pinned: str, folder: Path, *options: str) -> None:
    folder.mkdir()
    requirements = folder.with_suffix(".txt")
    requirements.write_text(pinned)
    pip("download", "-q", "--no-deps", *options, "-d", str(folder), "-r", str(requirements))


def _unpack_libraries(binary: Path, content: Path) -> None:
    """Unpack the libraries that libpetsc needs, in the same places relative to each other."""
    folders = {_LIBRARIES: content / "petsc" / "lib", _OTHER_LIBRARIES: content / _OTHER_LIBRARIES}
    with zipfile.ZipFile(binary) as archive:
        for entry in archive.infolist():
            name = Path(entry.filename).name
            for inside, folder in folders.items():
                if entry.filename.startswith(inside) and name and not _UNUSED.match(name):
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(archive.read(entry))
    check_settings(content / "petsc" / "lib" / _library())
    (content / "petsc" / "lib" / "libpetsc.so").write_text(f"INPUT(./{_library()})\n")


def _library() -> str:
    return f"libpetsc.so.{PETSC.rpartition('.')[0]}"


def check_settings(library: Path) -> None:
    """`SetupError` unless the library is there and of the options that `SETTINGS` are for."""
    content = library.read_bytes() if library.exists() else b""
    missing = [option for option in _OPTIONS if option.encode() not in content]
    if missing:
        raise SetupError(f"the binaries' {library.name} was not configured {' '.join(missing)}")


def _unpack_headers(source: Path, folder: Path) -> None:
    """Unpack PETSc's public headers: the files of `include`."""
    start = f"petsc-{PETSC}/include/"
    with tarfile.open(source) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(start):
                file = folder / member.name.removeprefix(start)
                file.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                file.write_bytes(content.read() if content else b"")


def _write_settings(content: Path) -> None:
    """Write what PETSc's configure and the package petsc of PyPI would have written."""
    petsc = content / "petsc"
    variables = petsc / "lib" / "petsc" / "conf"
    variables.mkdir(parents=True)
    information = content / f"petsc-{PETSC}.dist-info"
    information.mkdir()
    for file, text in {
        petsc / "include" / "petscconf.h": SETTINGS,
        petsc / "include" / "petscconf_poison.h": "",
        petsc / "include" / "petscfix.h": "",
        petsc / "include" / "petscpkg_version.h": _PACKAGE_VERSIONS,
        petsc / "include" / "petscconfiginfo.h": _RECORDED,
        petsc / "__init__.py": _PACKAGE,
        variables / "variables": "",
        variables / "petscvariables": _VARIABLES,
        information / "WHEEL": _WHEEL.format(tag=_TAG),
        information / "METADATA": _METADATA,
    }.items():
        file.write_text(text)
