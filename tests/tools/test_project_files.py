"""Files for other tools (conda, Spack, GitHub, pre-commit, citation) agree with the project."""

import ast
import os
import re
import shutil
import subprocess
import tomllib

import pytest
import tiny
import yaml
from packaging.requirements import Requirement

import prdp_hpc

ROOT = tiny.REPOSITORY
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LEAST = {
    requirement.name: str(requirement.specifier).removeprefix(">=")
    for requirement in map(Requirement, PROJECT["dependencies"])
}
CONDA = {"matplotlib": "matplotlib-base", "torch": "pytorch"}


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LEAST)
def test_conda_installs_what_the_project_needs(name):
    lines = read("recipes/environment.yml")["dependencies"]
    known = dict(line.split(">=", 1) for line in lines if ">=" in str(line))
    assert known[CONDA.get(name, name)] == LEAST[name]


def spack_calls(function):
    """The calls of one of Spack's directives in the recipe."""
    tree = ast.parse((ROOT / "recipes" / "spack" / "package.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.literal_eval(call.args[0]) for call in calls if call.func.id == function]


@pytest.mark.parametrize("name", LEAST)
def test_spack_installs_what_the_project_needs(name):
    assert [one for one in spack_calls("depends_on") if one.startswith(f"py-{name}@{LEAST[name]}:")]


def test_petsc_and_python_have_one_lower_bound():
    python = PROJECT["requires-python"].removeprefix(">=")
    assert f"python@{python}:" in spack_calls("depends_on")
    found = {
        re.search(r"petsc4py\W{1,3}([\d.]+\d)", (ROOT / name).read_text(encoding="utf-8"))[1]
        for name in ("pyproject.toml", "recipes/environment.yml", "recipes/spack/package.py")
    }
    assert len(found) == 1
    for name in ("docs/howto/install.md", "docs/faq.md"):
        assert f"PETSc ≥ {found.copy().pop()}" in (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_is_that_of_the_project():
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["abstract"].removesuffix(".") == PROJECT["description"]
    paper = citation["preferred-citation"]
    assert {author["family-names"] for author in paper["authors"]} == {
        "Bhatia",
        "Koehler",
        "Thuerey",
    }
    number = paper["identifiers"][0]["value"].removeprefix("arXiv:")
    assert PROJECT["urls"]["Paper"].endswith(number)


def test_there_is_one_version():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", prdp_hpc.__version__)
    named = [
        name
        for name in ("pyproject.toml", "CITATION.cff", "mkdocs.yml", "docker/Dockerfile")
        if re.search(rf"\bversion\W+{re.escape(prdp_hpc.__version__)}", (ROOT / name).read_text())
    ]
    assert not named


def test_pre_commit_runs_lint_and_nothing_else():
    hooks = [hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == ["make lint"]
    assert hooks[0]["language"] == "system"
    assert hooks[0]["pass_filenames"] is False


def test_github_runs_the_check_of_the_project():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = read(path.relative_to(ROOT))["jobs"].values()
        assert [step["run"] for job in jobs for step in job["steps"] if "run" in step] == [
            ".ci/run"
        ]


def test_reports_of_bugs_ask_for_what_doctor_prints():
    form = read(".github/ISSUE_TEMPLATE/bug.yml")
    required = [one for one in form["body"] if one.get("validations", {}).get("required")]
    assert [one for one in required if "prdp-hpc doctor" in one["attributes"]["label"]]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_runs_on_as_many_ranks_whatever_omp_num_threads_is():
    """Users of MPI often set it to 1, which nproc takes for the number of cores."""
    found = set()
    for threads in ("1", "2", "8", None):
        own = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        own |= {} if threads is None else {"OMP_NUM_THREADS": threads}
        printed = subprocess.run(
            ["make", "-n", "demo"], cwd=ROOT, env=own, capture_output=True, text=True
        )
        found |= set(re.findall(r"mpiexec -n (\d+)", printed.stdout))
    assert found == {"1" if len(os.sched_getaffinity(0)) == 1 else "2"}
