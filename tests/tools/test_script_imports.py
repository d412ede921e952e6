"""Scripts outside of the package, most of which no other test runs, import only what exists."""

import ast
import importlib
from pathlib import Path

import pytest
import tiny

SCRIPTS = sorted(
    path
    for folder in ("benchmarks", "docker", "docs", "examples", "jobs", "tools")
    for path in (tiny.REPOSITORY / folder).rglob("*.py")
)


def imported(path: Path) -> set[tuple[str, str]]:
    """The modules of the package that a script imports, each with a name that it takes from it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
    return {(module, name) for module, name in found if module.split(".")[0] == "prdp_hpc"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(tiny.REPOSITORY)))
def test_what_a_script_imports_from_the_package_exists(path):
    for module, name in sorted(imported(path)):
        found = importlib.import_module(module)
        if name and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def test_some_scripts_import_the_package():
    assert any(imported(path) for path in SCRIPTS)
