"""Who started this process, and how processes become one MPI job where MPI alone would not see that
they are.
"""

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
"""Where mpirun and srun say how many processes they started."""

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")

_LAUNCHERS = ("PMI_", "PMI2_", "PMIX_", "HYDI_", "MPI_LOCAL")
"""What mpirun and srun tell MPI begins with one of these."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_TOLD = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "OMPI_COMM_WORLD_RANK",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
)
"""Other variables that differ between two jobs, or two ranks of one."""

_RANK = "PRDP_RANK_PROCESS"
"""Which process is a rank, and how it was launched: its children, which inherit all that launchers
have set, are no ranks.
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
    """How many processes the launcher says it started; 1 without one."""
    if child_of_a_rank():
        return 1
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return max(
        (int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdigit()), default=1
    )


def launched_rank() -> int:
    """This process's rank as the launcher says, before MPI is there."""
    if child_of_a_rank():
        return 0
    names = ("RANK",) if under_torchrun() else RANKS
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def prepare_mpi() -> None:
    """What must be done before MPI is loaded, which looks only once for the other processes of its
    job.

    Under torchrun its processes become one MPI job. A process that a rank started itself, such as a
    worker of a DataLoader, becomes a job of its own: it is not to take the rank's place. Where an
    Open MPI's mpirun or `srun --mpi=pmix` started an MPICH without PMIx, which would end by an
    obscure message, MPI sees each process alone, and `ProcessMesh` says what is wrong.
    """
    if child_of_a_rank():
        _forget(*_LAUNCHERS)
        _mark(os.environ.get(_RANK, "").partition(" ")[0] or str(os.getppid()))
        return
    if "mpi4py.MPI" not in sys.modules:
        if under_torchrun():
            _join_torchrun()
        elif "PMIX_RANK" in os.environ and _mpich_without_pmix():
            _forget("PMIX_", "PRTE_LAUNCHED")
            # mpi4py's words, from every rank; ProcessMesh says it once.
            warnings.filterwarnings(
                "ignore", "suspicious MPI execution environment", RuntimeWarning
            )
    if _launched():
        _mark(str(os.getpid()))


def child_of_a_rank() -> bool:
    """Whether a rank started this process, itself or through others, and no launcher in between."""
    rank, _, launched = os.environ.get(_RANK, "").partition(" ")
    if rank == str(os.getpid()):
        return False
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        # torchrun's own interface in Python starts ranks this way too.
        return rank != "" or "TORCHELASTIC_RUN_ID" not in os.environ
    if rank == "":
        return False
    mine = _launched()
    # A child has none of the rank's open connection to its launcher, or has inherited it.
    return not mine or mine in (launched, launched.partition(" ")[0])


def _mark(rank: str) -> None:
    os.environ[_RANK] = f"{rank} {_launched()}"


def _launched() -> str:
    """What tells processes that launchers started from all others: what they have set and, after a
    blank, the connection to the launcher; "" without a launcher.
    """
    told = [f"{name}={os.environ[name]}" for name in sorted(os.environ) if _is_told(name)]
    if not told:
        return ""
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    with suppress(OSError, ValueError):
        connection = os.fstat(int(os.environ.get("PMI_FD", "")))
        if stat.S_ISSOCK(connection.st_mode):
            return f"{digest} {connection.st_ino}"
    return digest


def _is_told(name: str) -> bool:
    return name.startswith(_LAUNCHERS) or name in _TOLD


def _join_torchrun() -> None:
    """Rank 0 starts a process manager (`pmi`) and tells the others its port and token through
    torchrun's store.

    MPICH and the MPIs made from it look for `PMI_PORT` and `PMI_ID` when they start; with others
    `ProcessMesh` says what to do.
    """
    # torchrun's processes would train on without it, while those of mpirun and SLURM end with their
    # launchers. Not a thread that looks after it: while a rank waits in MPI for another, Python
    # runs none.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    import torch.distributed as dist  # slow, and needed under torchrun only

    # Of the srun or mpirun that started torchrun itself, once on each node.
    _forget(*_LAUNCHERS)
    found: Any = dist
    store, rank, size = next(iter(found.rendezvous("env://")))
    # torchrun's store or, in rank 0, what serves it: it must be there until all have asked.
    _kept.append(store)
    # A store outlives the processes of a restart by torchrun.
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
    """The port and the token of a new process manager. It ends by itself, not with rank 0: it has
    to tell the others.
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


def _open_connection(address: tuple[str, int], said: str) -> None:
    """Have the kernel kill this process when the process manager ends: in a library that waits, no
    Python would run.
    """
    connection = socket.create_connection(address, timeout=60)
    stay_alive(connection)
    connection.sendall(said.encode())
    connection.setblocking(False)
    fcntl(connection, F_SETSIG, signal.SIGKILL)
    fcntl(connection, F_SETOWN, os.getpid())
    fcntl(connection, F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):  # nothing has come, as it should be
        connection.recv(1)
        raise ConnectionError("the process manager of this job has ended: see what rank 0 says")
    # Not a Python object, which would be closed before MPI is finalised.
    connection.detach()


def _mpich_without_pmix() -> bool:
    """Whether mpi4py was built with an MPICH that was not linked with PMIx; without initialising
    MPI.
    """
    spec = importlib.util.find_spec("mpi4py.MPI")
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(spec.origin if spec is not None else None)
        said, length = ctypes.create_string_buffer(8192), ctypes.c_int()
        library.MPI_Get_library_version(said, ctypes.byref(length))
        return said.value.startswith(b"MPICH") and not hasattr(library, "PMIx_Init")
    return False


def _forget(*beginnings: str) -> None:
    for name in [name for name in os.environ if name.startswith(beginnings)]:
        del os.environ[name]
