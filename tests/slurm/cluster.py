#!/usr/bin/env python3
"""A real SLURM on this machine: one controller and two virtual nodes, with all files in one folder.

    tests/slurm/cluster.py up FOLDER      start it; then: export SLURM_CONF=FOLDER/slurm.conf
    tests/slurm/cluster.py down FOLDER    end only processes that `up` and its jobs started

It has separate ports, a separate munge key and a separate munge socket, so an existing SLURM is not
affected. As root, `up` installs missing packages of Debian, without starting their services.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODES = ("n1", "n2")
_PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
_DEVICES = ("null", "zero", "full", "random")  # files in place of GPUs: SLURM only counts them
_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
_POLICY = Path(
    "/usr/sbin/policy-rc.d"
)  # Debian's packages call this script before they start a service

_CONFIGURATION = """\
ClusterName=prdp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
JobSubmitPlugins=lua
# Virtual nodes have more cores than this machine, and GPUs that are not there.
SlurmdParameters=config_overrides
ReturnToService=2
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Tests cannot wait as long as clusters do.
SlurmdTimeout=5
MessageTimeout=5
KillWait=20
SchedulerParameters=bf_interval=2
{nodes}
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 MaxTime=1-0
PartitionName=graceless Nodes=ALL PriorityTier=1 GraceTime=0 MaxTime=1-0
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF MaxTime=1-0
"""
# Accounts need a database. Without one, this rejects an account with SLURM's error
# ESLURM_INVALID_ACCOUNT.
_ACCOUNTS = """\
function slurm_job_submit(job, partitions, user)
    if job.account == "nobodys" then return 2045 end
    return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, user) return slurm.SUCCESS end
return slurm.SUCCESS
"""


class UnavailableError(Exception):
    """SLURM is not available on this machine; the message has the reason."""


def up(folder: Path) -> None:
    """Start munge, the controller and the nodes; `UnavailableError` if SLURM is neither installed
    nor can be installed.
    """
    _install()
    folder.mkdir(parents=True)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    (folder / "slurm.conf").write_text(_configuration(folder))
    (folder / "gres.conf").write_text("".join(f"Name=gpu File=/dev/{file}\n" for file in _DEVICES))
    (folder / "job_submit.lua").write_text(_ACCOUNTS)
    files = {
        "socket": "munge.socket",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "munge.seed",
    }
    # `--force`, because munged requires folders that all users may enter, but here there is only
    # one user.
    paths = [f"--{option}={folder / name}" for option, name in files.items()]
    _start(folder, "munged", "--foreground", "--force", f"--key-file={key}", *paths)
    wait_for(lambda: (folder / "munge.socket").exists(), "munged", folder / "munged.controller.log")
    _start(folder, "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
    for node in NODES:
        start_node(folder, node)
    wait_for(
        lambda: _idle_nodes(folder) == len(NODES), "the nodes", folder / "slurmctld.controller.log"
    )


def down(folder: Path) -> None:
    """End the jobs, then the daemons, and kill their remaining processes. Has no effect if `up` has
    not started them.
    """
    if not (folder / "slurm.conf").exists():
        return
    environment = environment_of(folder)
    subprocess.run(
        ["scancel", "--user", _user()],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    end = time.monotonic() + 30
    while time.monotonic() < end and _output(folder, "squeue", "--noheader"):
        time.sleep(0.2)
    for process in _processes(folder):
        _signal(process, signal.SIGTERM)
    end = time.monotonic() + 10
    while time.monotonic() < end and _processes(folder):
        time.sleep(0.1)
    for process in _processes(folder):
        _signal(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def start_node(folder: Path, node: str) -> None:
    """Start a virtual node."""
    _start(folder, "slurmd", "-D", "-N", node, "-f", str(folder / "slurm.conf"), node=node)


def kill_node(folder: Path, node: str) -> None:
    """Kill the daemon of a node and all processes on it at the same time, like a power failure."""
    processes = _processes_of(folder, node)
    # The parents of ranks are slurmstepds, whose process title overwrites their environment.
    steps = {parent for process in processes if _name(parent := _parent(process)) == "slurmstepd"}
    for process in [*steps, *processes]:
        _signal(process, signal.SIGKILL)


def kill_daemon(folder: Path, node: str) -> None:
    """Kill the daemon of a node only; its jobs continue."""
    for process in _processes_of(folder, node):
        if _name(process) == "slurmd":
            _signal(process, signal.SIGKILL)


def environment_of(folder: Path) -> dict[str, str]:
    """The environment with which SLURM's commands use this cluster, without variables of another
    job or launcher.
    """
    others = ("SLURM", "SBATCH", "SRUN", "PMI", "HYD", "MPI")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return kept | {"PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}


def wait_for(
    condition: Callable[[], bool], what: str, log: Path | None = None, seconds: float = 180
) -> None:
    """Wait until the condition holds; `TimeoutError` with the end of the log after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            last = (
                log.read_text(errors="replace")[-3000:]
                if log is not None and log.exists()
                else "no log"
            )
            raise TimeoutError(f"waited {seconds} s for {what}:\n{last}")
        time.sleep(0.1)


def _install() -> None:
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if not missing:
        return
    if os.environ.get("SLURM") != "install":
        raise UnavailableError(
            f"SLURM is not installed ({', '.join(missing)}): make test SLURM=install installs it"
        )
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise UnavailableError(
            f"SLURM is not installed ({', '.join(missing)}): that needs root on Debian or Ubuntu"
        )
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        subprocess.run([*apt, "update"], env=environment, capture_output=True, check=False)
        install = [*apt, "install", "-y", "--no-install-recommends", *_PACKAGES]
        ended = subprocess.run(
            install, env=environment, capture_output=True, text=True, check=False
        )
    if ended.returncode:
        raise UnavailableError(f"SLURM cannot be installed: {ended.stderr.strip()[-500:]}")


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages that are installed in the meantime from starting their services."""
    before = _POLICY.read_bytes() if _POLICY.exists() else None
    mode = _POLICY.stat().st_mode if before is not None else 0o755
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(before)
            _POLICY.chmod(mode)


def _configuration(folder: Path) -> str:
    host = socket.gethostname().split(".")[0]
    port, *node_ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=32 "
        f"Gres=gpu:{len(_DEVICES)}"
        for node, port in zip(NODES, node_ports, strict=True)
    )
    return _CONFIGURATION.format(folder=folder, host=host, user=_user(), port=port, nodes=nodes)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(folder: Path, program: str, *arguments: str, node: str = "controller") -> None:
    environment = environment_of(folder) | {"SLURMD_NODENAME": node}  # as processes in jobs have
    with (folder / f"{program}.{node}.log").open("ab") as log:
        subprocess.Popen(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _output(folder: Path, *words: str) -> str:
    return subprocess.run(
        words, env=environment_of(folder), capture_output=True, text=True, timeout=90, check=False
    ).stdout


def _idle_nodes(folder: Path) -> int:
    return (
        _output(folder, "sinfo", "--noheader", "--Node", "--partition=normal", "--format=%T")
        .split()
        .count("idle")
    )


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _processes(folder: Path) -> list[int]:
    """The daemons and all processes in jobs. The shell of a user also has the cluster's SLURM_CONF,
    but no node name.
    """
    marks = {
        f"SLURM_CONF={folder / 'slurm.conf'}".encode(),
        *(f"SLURMD_NODENAME={node}".encode() for node in NODES),
    }
    marks.add(b"SLURMD_NODENAME=controller")
    return [
        process for process in _numbers() if len(marks.intersection(_environment(process))) == 2
    ]


def _numbers() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _processes_of(folder: Path, node: str) -> list[int]:
    return [
        process
        for process in _processes(folder)
        if f"SLURMD_NODENAME={node}".encode() in _environment(process)
    ]


def _environment(process: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return []


def _name(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def _parent(process: int) -> int:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))
    return 0


def _signal(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        sys.exit(__doc__)
    try:
        {"up": up, "down": down}[sys.argv[1]](Path(sys.argv[2]).resolve())
    except UnavailableError as reason:
        sys.exit(str(reason))
