"""Usability: the names of the package are the same for Python and for type checkers."""

import ast
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest
import tiny

import prdp_hpc
from prdp_hpc import cli

SOURCE = ast.parse(Path(prdp_hpc.__file__).read_text(encoding="utf-8"))
USER_SCRIPT = tiny.REPOSITORY / "tests" / "typing" / "user_script.py"


def imported_for_type_checkers():
    """(name, module) of each `from module import name as name` under `if TYPE_CHECKING`."""
    (block,) = [
        node
        for node in SOURCE.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            # Without `as`, a strict type checker treats the name as private.
            assert alias.asname == alias.name
            yield alias.name, statement.module


def test_both_lists_agree():
    lazy = {name: f"prdp_hpc.{home}" for name, home in prdp_hpc._HOMES.items()}
    assert dict(imported_for_type_checkers()) == lazy
    assert list(lazy) == prdp_hpc.__all__


@pytest.mark.parametrize("name", prdp_hpc.__all__)
def test_each_name_exists(name):
    found = getattr(prdp_hpc, name)
    assert found is getattr(importlib.import_module(f"prdp_hpc.{prdp_hpc._HOMES[name]}"), name)
    assert name in dir(prdp_hpc)
    assert inspect.getdoc(found)


def test_the_checked_script_uses_each_name():
    script = ast.parse(USER_SCRIPT.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(script) if isinstance(node, ast.Name)}
    assert used >= set(prdp_hpc.__all__) - {"SolveError"}
    assert "prdp_hpc" in {n.module for n in ast.walk(script) if isinstance(n, ast.ImportFrom)}


def test_one_version(capsys):
    project = tomllib.loads((tiny.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "prdp_hpc.__version__"}
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"prdp-hpc {prdp_hpc.__version__}\n")
