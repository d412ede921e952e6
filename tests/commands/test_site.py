"""Usability: a first site file has what the commands of a cluster list, and submit accepts it."""

import subprocess
import sys

import pytest

from prdp_hpc import cli
from prdp_hpc.commands.site_discovery import _fitting_type, _mpi_name
from prdp_hpc.config.site import Site, load_site, site_path

_TYPES = (
    r"MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\nspecific pmix plugin versions: pmix_v4\n"
)
_BIG, _SHORT = "big*|1-00:00:00|20|64|257000|gpu:a100:4(S:0-1)", "short|30:00|2|8|900|(null)"
COMMANDS = {
    "srun": f"[ \"$1\" = --mpi=list ] && printf '{_TYPES}'",
    "sinfo": f"printf '%s\\n' '{_BIG}' '{_SHORT}'",
    "sacctmgr": "printf 'mine\\nmine\\n'",
    "apptainer": "true",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Commands of a cluster, and a home folder without a site file."""
    for name, text in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("LOADEDMODULES", "gcc/12:mpich/4")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("PRDP_SITE", "CRAY_MPICH_VERSION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config" / "prdp-hpc" / "site.yaml"


def test_a_first_site_file(cluster, capsys):
    cli.main(["site"])
    assert site_path() == cluster
    written = cluster.read_text()
    assert written in capsys.readouterr().out
    found = load_site()
    assert found == Site(modules=("gcc/12", "mpich/4"), defaults={"account": "mine"})
    assert "#   srun --mpi=list: none, pmi2, pmix\n" in written
    assert "#     big*: 1-00:00:00, 20 nodes, 64 cores, 257000 MB, gpu:a100:4\n" in written
    assert "#     short: 30:00, 2 nodes, 8 cores, 900 MB, no GPUs\n" in written
    with pytest.raises(SystemExit):
        cli.main(["site"])
    assert f"{cluster} exists: edit it, or replace it with --overwrite" in capsys.readouterr().err
    cluster.write_text("mpi: pmix\n")
    cli.main(["site", "--overwrite"])
    assert load_site().mpi == "pmi2"


def test_a_machine_without_any_of_these_commands(cluster, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("LOADEDMODULES")
    cli.main(["site"])
    assert load_site() == Site()


@pytest.mark.parametrize(
    ("version", "types", "fitting"),
    [
        ("HYDRA build details:\n    Version:     4.2.0\n", ["none", "pmi2", "pmix"], "pmi2"),
        ("HYDRA build details:\n", ["none", "cray_shasta", "pmi2"], "pmi2"),
        ("Cray MPICH 8.1", ["none", "pmi2", "cray_shasta"], "cray_shasta"),
        ("mpiexec (OpenRTE) 4.1.4\n\nReport bugs to Open MPI", ["none", "pmi2", "pmix"], "pmix"),
        ("mpirun (Open MPI) 5.0.3\n", ["none", "pmi2"], None),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9\n", ["none", "pmi2"], "pmi2"),
    ],
)
def test_the_type_of_srun_fits_the_mpi(version, types, fitting):
    assert _fitting_type(_mpi_name(version), types) == fitting


def test_it_loads_no_mpi(cluster):
    code = (
        "import sys; from prdp_hpc import cli; cli.main(['site']); "
        "print(sorted({'mpi4py', 'torch'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
