"""Detection of the launcher, and how torchrun's processes become one MPI job."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
import warnings
from contextlib import suppress
from fcntl import F_SETFL, F_SETOWN, F_SETSIG, fcntl
from typing import Any

from prdp_hpc.distributed.pmi import stay_alive

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables in which mpirun and srun store the number of processes."""

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")

_LAUNCHERS = ("PMI_", "PMI2_", "PMIX_", "HYDI_", "MPI_LOCAL")
"""Prefixes of the variables by which mpirun and srun configure MPI."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_JOB_VARIABLES = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "OMPI_COMM_WORLD_RANK",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
)
"""Other variables that differ between two jobs, or two ranks of a job."""

_RANK = "PRDP_RANK_PROCESS"
"""Identifies the process that is a rank and its launch, because its children, which inherit all
variables of the launcher, are not ranks.
"""

_kept: list[Any] = []


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return (
        "TORCHELASTIC_RUN_ID" in os.environ
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
        and not child_of_a_rank()
    )


def launched_size() -> int:
    """The number of processes according to the launcher; 1 without a launcher."""
    if child_of_a_rank():
        return 1
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return max(
        (int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdigit()), default=1
    )


def launched_rank() -> int:
    """The rank of this process according to the launcher, before MPI is initialised."""
    if child_of_a_rank():
        return 0
    names = ("RANK",) if under_torchrun() else RANKS
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def prepare_mpi() -> None:
    """Prepare the environment before MPI is loaded, which looks for the other processes only then.

    Processes of torchrun become one MPI job. A process that a rank started, e.g. a worker of a
    DataLoader, becomes a separate job, so that it does not connect as the rank. If Open MPI's
    mpirun or `srun --mpi=pmix` started an MPICH without PMIx, which would end with an obscure
    message, MPI initialises each process as a separate job, and `ProcessMesh` raises the error.
    """
    if child_of_a_rank():
        _unset(*_LAUNCHERS)
        _mark(os.environ.get(_RANK, "").partition(" ")[0] or str(os.getppid()))
        return
    if "mpi4py.MPI" not in sys.modules:
        if under_torchrun():
            _join_torchrun()
        elif "PMIX_RANK" in os.environ and _mpich_without_pmix():
            _unset("PMIX_", "PRTE_LAUNCHED")
            # mpi4py warns on every rank; ProcessMesh raises one error instead.
            warnings.filterwarnings(
                "ignore", "suspicious MPI execution environment", RuntimeWarning
            )
    if _launched():
        _mark(str(os.getpid()))


def leave_the_launch() -> None:
    """Become a job with one process, unless MPI is loaded; the other ranks end without it.

    Otherwise MPI would wait for them as soon as anything loads it, e.g. a user-defined component.
    """
    if "mpi4py.MPI" not in sys.modules:
        _unset(*_LAUNCHERS)
        _mark(str(os.getppid()))


def child_of_a_rank() -> bool:
    """Whether a rank started this process, directly or indirectly, without a launcher."""
    rank, _, launched = os.environ.get(_RANK, "").partition(" ")
    if rank == str(os.getpid()):
        return False
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        # torchrun's Python interface starts ranks in the same way.
        return rank != "" or "TORCHELASTIC_RUN_ID" not in os.environ
    if rank == "":
        return False
    mine = _launched()
    # A child either has no connection to a launcher, or has inherited the rank's.
    return not mine or mine in (launched, launched.partition(" ")[0])


def _mark(rank: str) -> None:
    os.environ[_RANK] = f"{rank} {_launched()}"


def _launched() -> str:
    """Identifies a launch: a checksum of the launcher's variables and, after a blank, the
    connection to the launcher; "" without a launcher.
    """
    told = [f"{name}={os.environ[name]}" for name in sorted(os.environ) if _is_from_launcher(name)]
    if not told:
        return ""
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    with suppress(OSError, ValueError):
        connection = os.fstat(int(os.environ.get("PMI_FD", "")))
        if stat.S_ISSOCK(connection.st_mode):
            return f"{digest} {connection.st_ino}"
    return digest


def _is_from_launcher(name: str) -> bool:
    return name.startswith(_LAUNCHERS) or name in _JOB_VARIABLES


def _join_torchrun() -> None:
    """Start a process manager (`pmi`) on rank 0 and send its port and token to the others through
    torchrun's store.

    MPICH and MPIs derived from it read `PMI_PORT` and `PMI_ID` when they start; for other MPIs
    `ProcessMesh` raises an error with advice.
    """
    # Without this, torchrun's processes would continue after torchrun has ended, whereas those of
    # mpirun and SLURM end with their launchers. A thread could not do it: while a rank waits in
    # MPI for another, Python runs no other thread.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    import torch.distributed as dist  # a slow import, needed under torchrun only

    # Variables of the srun or mpirun that started torchrun once per node.
    _unset(*_LAUNCHERS)
    found: Any = dist
    store, rank, size = next(iter(found.rendezvous("env://")))
    # torchrun's store or, on rank 0, its server, which must exist until all ranks have read it.
    _kept.append(store)
    # A store remains after a restart by torchrun, so keys contain the number of restarts.
    store = found.PrefixStore(
        f"prdp-hpc/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
    )
    if rank == 0:
        store.set("manager", _start_manager(size))
    port, token = store.get("manager").decode().split()
    address = os.environ["MASTER_ADDR"], int(port)
    node = os.environ.get("GROUP_RANK", "0")
    _open_connection(address, f"cmd=join rank={rank} node={node} token={token}\n")
    os.environ |= {
        "PMI_PORT": "{}:{}".format(*address),
        "PMI_ID": str(rank),
    }


def _start_manager(size: int) -> str:
    """The port and the token of a new process manager. It does not end with rank 0, because it has
    to notify the others.
    """
    manager = subprocess.Popen(
        [sys.executable, "-c", f"from prdp_hpc.distributed.pmi import serve; serve({size})"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != "TORCHELASTIC_RUN_ID"},
    )
    _kept.append(manager)
    assert manager.stdout is not None
    return manager.stdout.readline().strip()


def _open_connection(address: tuple[str, int], request: str) -> None:
    """Make the kernel kill this process when the process manager ends, because Python code does not
    run while a library waits.
    """
    connection = socket.create_connection(address, timeout=60)
    stay_alive(connection)
    connection.sendall(request.encode())
    connection.setblocking(False)
    fcntl(connection, F_SETSIG, signal.SIGKILL)
    fcntl(connection, F_SETOWN, os.getpid())
    fcntl(connection, F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):  # no data, as expected
        connection.recv(1)
        raise ConnectionError("the process manager of this job has ended: see the output of rank 0")
    # A file descriptor, because a Python object would be closed before MPI is finalised.
    connection.detach()


def _mpich_without_pmix() -> bool:
    """Whether mpi4py was built with an MPICH that was not linked with PMIx; without initialising
    MPI.
    """
    spec = importlib.util.find_spec("mpi4py.MPI")
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(spec.origin if spec is not None else None)
        version, length = ctypes.create_string_buffer(8192), ctypes.c_int()
        library.MPI_Get_library_version(version, ctypes.byref(length))
        return version.value.startswith(b"MPICH") and not hasattr(library, "PMIx_Init")
    return False


def _unset(*prefixes: str) -> None:
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        del os.environ[name]
