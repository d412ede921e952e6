"""The files of pinned versions cover what pyproject.toml asks for, each with hashes."""

import re
import sys
import tomllib

import pytest
import tiny
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOOLS = tiny.REPOSITORY / "tools"
sys.path.insert(0, str(TOOLS))

import lock  # noqa: E402
import petsc_binary  # noqa: E402
import setup_steps  # noqa: E402

LOCKS = sorted(TOOLS.glob("*.txt"))
ENTRY = re.compile(r"^[a-z0-9][^#\n]*(?:\n +[^\n]*)*", re.MULTILINE)


def entries(path):
    """Requirement and hashes of each pinned package of a file."""
    for entry in ENTRY.findall(path.read_text()):
        words = entry.replace("\\\n", " ").split(" --hash=")
        yield Requirement(words[0].strip()), words[1:]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_each_package_has_one_version_and_hashes(path):
    found = list(entries(path))
    assert found
    for requirement, hashes in found:
        assert re.fullmatch(r"==[\w.+]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes)


def test_all_that_pyproject_asks_for_is_pinned():
    """But PETSc and mpi4py, which the chosen PETSc brings."""
    pinned = {}
    for path in LOCKS:
        for requirement, _ in entries(path):
            pinned.setdefault(canonicalize_name(requirement.name), []).append(requirement.specifier)
    project = tomllib.loads((tiny.REPOSITORY / "pyproject.toml").read_text())["project"]
    development = [*lock.extra(project, "dev"), *lock.extra(project, "docs")]
    for line in [*project["dependencies"], *development]:
        wanted = Requirement(line)
        versions = pinned.get(canonicalize_name(wanted.name), [])
        assert versions, f"{line}: run `make lock`"
        for version in versions:
            assert wanted.specifier.contains(str(version).removeprefix("==")), f"{line}: make lock"


def test_one_package_of_a_file_is_found_with_its_hashes():
    entry = setup_steps.locked_entry("petsc-build.txt", "mpich==5.0.2")
    assert entry.startswith("mpich==5.0.2")
    assert "--hash=sha256:" in entry
    with pytest.raises(setup_steps.SetupError, match="make lock"):
        setup_steps.locked_entry("petsc-build.txt", "mpich==5.0")


def test_removing_the_binaries_of_petsc_keeps_what_other_packages_need(monkeypatch):
    removed = []
    monkeypatch.setattr(petsc_binary, "uninstall", lambda *names: removed.extend(names))
    petsc_binary.remove_binary()
    kept = {
        canonicalize_name(requirement.name)
        for name in ("packages.txt", "dev.txt")
        for requirement, _ in entries(TOOLS / name)
    }
    assert {"petsc4py", "dolfinx-solver-real"} & {canonicalize_name(name) for name in removed}
    assert not kept & {canonicalize_name(name) for name in removed}
