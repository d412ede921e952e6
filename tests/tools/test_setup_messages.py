"""Usability: where the environment cannot be prepared, one sentence has the reason and the remedy.

The first file of the set-up is read by any Python, also by one that is too old.
"""

import ast
import os
import subprocess
import sys

import pytest
import tiny

TOOLS = tiny.REPOSITORY / "tools"
sys.path.insert(0, str(TOOLS))

import environment  # noqa: E402
import petsc_source  # noqa: E402
import setup_steps  # noqa: E402

# What Python 2.7 and 3.6 cannot read.
NEW_SYNTAX = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match, ast.AsyncFunctionDef)


def test_an_old_python_can_read_the_first_file():
    nodes = list(ast.walk(ast.parse((TOOLS / "environment.py").read_text())))
    assert not [node for node in nodes if isinstance(node, NEW_SYNTAX)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    assert functions
    assert not [one for one in functions if one.returns]
    assert not [node for node in nodes if isinstance(node, ast.arg) and node.annotation]
    imported = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    assert {name for name in imported if (TOOLS / f"{name}.py").exists()} == {"prepare_environment"}
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("given", ["", "python3.9"])
def test_a_python_that_is_too_old_is_named(given, monkeypatch):
    monkeypatch.setenv("PYTHON", given)
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(environment, "newest", lambda *_: None)
    with pytest.raises(SystemExit, match=r"3\.11 or newer is needed") as end:
        environment.main()
    assert (f"PYTHON={given} is" if given else "make PYTHON=/path/to/python3.12") in str(end.value)


@pytest.fixture
def interpreters(tmp_path, monkeypatch):
    """A function that puts interpreters on the PATH: their names and exit codes."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("PYTHON", "PETSC", "PETSC_DIR", "CUDA", environment.CHOSEN):
        monkeypatch.delenv(name, raising=False)

    def put(**codes):
        for name, code in codes.items():
            file = tmp_path / name.replace("_", ".")
            file.write_text(f"#!/bin/sh\nexit {code}\n")
            file.chmod(0o755)

    return put


def chosen():
    found = environment.choice()
    return found and os.path.basename(found)


def test_the_newest_interpreter_that_the_binaries_support_is_chosen(interpreters, monkeypatch):
    interpreters(python3_14=1, python3_13=127, python3_12=0, python3_11=0)
    assert chosen() == "python3.12"
    monkeypatch.setenv("PETSC", "build")
    assert chosen() is None
    monkeypatch.delenv("PETSC")
    monkeypatch.setenv("PYTHON", "python3.11")
    assert chosen() is None


@pytest.mark.parametrize(("version", "expected"), [((3, 11), None), ((3, 9), "python3.11")])
def test_an_old_python_is_replaced_by_any_that_is_new_enough(
    version, expected, interpreters, monkeypatch
):
    interpreters(python3_11=0)
    monkeypatch.setattr(environment.sys, "version_info", version)
    assert chosen() == expected


@pytest.mark.parametrize("present", ["", "cc", "cc g++", "cc make"])
def test_missing_compilers_are_named_before_anything_is_installed(present, tmp_path):
    """In an environment without compilers, PETSC=build makes no `.venv`."""
    for name in present.split():
        (tmp_path / name).symlink_to("/bin/true")
    settings = {"PATH": str(tmp_path), "PETSC": "build", "PRDP_VENV": str(tmp_path / "venv")}
    done = subprocess.run(
        [sys.executable, str(TOOLS / "environment.py")],
        env={**settings, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "then run make again" in done.stderr
    assert ("g++" if present else "gcc") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_build_in_a_path_with_blanks_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(petsc_source, "VENV", tmp_path / "my clone" / ".venv")
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(petsc_source.shutil, "which", lambda name: name)
    with pytest.raises(setup_steps.SetupError, match=r"blank: .*my clone.*Move the clone"):
        petsc_source.check_build_is_possible()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_cache_that_cannot_be_written_is_named(name, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(setup_steps, "CACHE", tmp_path / name)
    with pytest.raises(setup_steps.SetupError, match=r"PRDP_CACHE=… to a folder"):
        setup_steps.check_is_writable(tmp_path / name / "wheels")


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("ERROR: Could not find a version that satisfies the requirement mpich==5.0.2", "proxy"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "cache purge",
        ),
        ("OSError: [Errno 28] No space left on device", "PRDP_VENV"),
        ("The virtual environment was not created because ensurepip is not available", "venv"),
    ],
)
def test_a_failed_command_ends_with_what_to_do(output, remedy):
    command = [sys.executable, "-c", f"print({output!r}); raise SystemExit(1)"]
    with pytest.raises(setup_steps.SetupError) as error:
        setup_steps.run(command)
    last = str(error.value).splitlines()[-1]
    assert "what to do" in last
    assert remedy in last
    assert error.value.reason() == output.removeprefix("ERROR: ")
