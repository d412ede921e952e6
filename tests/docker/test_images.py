"""The build step of the images runs here without an image, and the definitions of images copy
existing files.
"""

import os
import re
import subprocess

import pytest
import tiny

DOCKER = tiny.REPOSITORY / "docker"
FILES = ["Dockerfile", "Dockerfile.cuda"]


@pytest.mark.long
@pytest.mark.timeout(500)
def test_the_build_step_makes_an_environment_that_needs_no_clone(tmp_path):
    """Build with the wheels of this environment, if they are still in the cache."""
    prefix = tmp_path / "prefix"
    command = [str(DOCKER / "build.sh"), str(prefix)]
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=480, env=tiny.environment(), check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "nothing is missing" in built.stdout
    inside = {
        "PATH": f"{prefix / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    config = tiny.write(tmp_path / "config.yaml", tiny.emulator("runs"))
    job = ["mpiexec", "-n", "2", "prdp-hpc", "run", config, "parallel.grid_ranks=2"]
    ran = subprocess.run(
        job, capture_output=True, text=True, timeout=100, env=inside, cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
    where = [str(prefix / "bin" / "python"), "-c", "import prdp_hpc; print(prdp_hpc.__file__)"]
    found = subprocess.run(
        where, capture_output=True, text=True, env=inside, cwd=tmp_path, check=True
    )
    assert found.stdout.startswith(str(prefix))


@pytest.mark.parametrize("name", FILES)
def test_copied_files_exist_and_the_user_is_not_root(name):
    text = (DOCKER / name).read_text()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (tiny.REPOSITORY / source).exists(), source
    stages = re.findall(r"^FROM .*$", text, re.MULTILINE)
    assert len(stages) == 2
    last = text[text.index(stages[1]) :]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE)
    assert not re.search(r"password|secret|token", text, re.IGNORECASE)


def test_apptainer_copies_existing_files():
    text = (DOCKER / "prdp-hpc.def").read_text()
    section = text.split("%files")[1].split("%post")[0]
    sources = [line.split()[0] for line in section.strip().splitlines()]
    assert all((tiny.REPOSITORY / source).exists() for source in sources)
    assert os.access(DOCKER / "build.sh", os.X_OK)
