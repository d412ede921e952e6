"""The libraries that stand in for CUDA's load, and their functions return cudaErrorNoDevice."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from numpy._core import _multiarray_umath

sys.path.insert(0, str(tiny.REPOSITORY / "tools"))

import torch_without_cuda

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in torch_without_cuda._CODE,
    reason="for Linux on x86-64 and aarch64",
)
NAMES = [f"cublasFunction{number}" for number in range(500)] + ["cudaGetErrorString"]


@pytest.fixture
def libraries(tmp_path):
    """The library with the functions, and an empty one that loads it."""
    for name, needed, functions in (
        (torch_without_cuda.FUNCTIONS, [], NAMES),
        ("libcublas.so.13", [torch_without_cuda.FUNCTIONS], []),
    ):
        made = torch_without_cuda.shared_library(name, needed, functions)
        (tmp_path / name).write_bytes(made)
    return tmp_path


def test_every_function_is_found_through_the_empty_library(libraries):
    question = (
        "import ctypes; library = ctypes.CDLL('libcublas.so.13'); "
        f"names = {NAMES[:-1]!r}; "
        "assert all(getattr(library, name)() == 100 for name in names); "
        "text = library.cudaGetErrorString; text.restype = ctypes.c_char_p; "
        "print(text(0).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", question],
        env={"LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "CUDA is not installed\n", done.stderr


def test_a_name_that_is_not_there_is_not_found(libraries):
    library = ctypes.CDLL(str(libraries / torch_without_cuda.FUNCTIONS))
    with pytest.raises(AttributeError):
        _ = library.cublasOther


def test_what_a_library_needs_is_read_from_its_file():
    undefined, needed = torch_without_cuda.linked(Path(_multiarray_umath.__file__))
    assert "libc.so.6" in needed
    assert {"PyList_New", "malloc"} <= set(undefined)


def test_cuda_leaves_the_requirements_and_nothing_else(tmp_path):
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    metadata = tmp_path / "torch-2.13.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    kept = "Name: torch\nRequires-Dist: sympy>=1.13.3\n"
    cuda = "Requires-Dist: nvidia-cudnn-cu13==9.20\nRequires-Dist: triton==3.7.1\n"
    metadata.write_text(kept + cuda)
    torch_without_cuda.replace_cuda(tmp_path)
    assert metadata.read_text() == kept
    assert torch_without_cuda.remove_replacements(tmp_path)
    assert not torch_without_cuda.remove_replacements(tmp_path)
