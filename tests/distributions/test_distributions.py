"""A wheel and an sdist have all that the package needs, and run where no clone is."""

import subprocess
import sys
import tarfile
import zipfile

import pytest
import tiny

import prdp_hpc

pytestmark = pytest.mark.xdist_group("distributions")  # One worker makes what all tests use.

BUILD = (
    "import sys; from setuptools import build_meta; "
    "print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
)


def built(kind, source, folder):
    """Build a distribution in a copy of the tree, without an index."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    tracked = subprocess.run(
        ["git", "archive", "HEAD"], cwd=tiny.REPOSITORY, capture_output=True, check=False
    )
    if tracked.returncode:
        pytest.skip("this is no clone of git")
    (folder / "tree").mkdir()
    subprocess.run(["tar", "x", "-C", str(folder / "tree")], input=tracked.stdout, check=True)
    sdist = built("sdist", folder / "tree", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    return sdist, built("wheel", source, folder)


def test_the_wheel_has_configs_types_and_the_job_script_and_no_tests(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
        metadata = next(name for name in names if name.endswith("METADATA"))
        text = wheel.read(metadata).decode()
    configs = {f"prdp_hpc/configs/{path.name}" for path in tiny.REPOSITORY.glob("configs/*.yaml")}
    assert configs | {"prdp_hpc/py.typed", "prdp_hpc/commands/job_common.sh"} <= names
    assert "prdp_hpc/configs/paper/experiments.yaml" in names
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]
    assert f"\nVersion: {prdp_hpc.__version__}\n" in text
    assert "\nLicense-Expression: MIT\n" in text


def test_the_wheel_finds_its_configs_by_name_anywhere(distributions, tmp_path):
    with zipfile.ZipFile(distributions[1]) as wheel:
        wheel.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    shorter = ["training.epochs=1", "data.train=4", "data.validation=2", "data.test=0"]
    done = subprocess.run(
        [sys.executable, "-m", "prdp_hpc", "run", "heat_1d", *shorter],
        cwd=tmp_path / "empty",
        env=tiny.environment() | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty" / "runs" / "heat_1d" / "summary.json").is_file()


@pytest.mark.long
def test_the_wheel_installs_with_petsc_in_a_clean_environment(distributions, tmp_path):
    """As a user does it: pip brings PETSc, MPI and torch from PyPI (3 GB)."""
    if sys.version_info < (3, 12):
        pytest.skip("PETSc's binaries are for Python 3.12 and newer")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"{distributions[1]}[petsc]"], check=True, timeout=900)
    inside = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    command = ["mpiexec", "-n", "2", "prdp-hpc", "run", "heat_1d", "training.epochs=1"]
    subprocess.run(command, cwd=tmp_path, env=inside, check=True, timeout=200)
    assert (tmp_path / "runs" / "heat_1d" / "summary.json").is_file()
