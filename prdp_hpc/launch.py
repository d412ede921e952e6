"""Who started this process, and how processes of torchrun become one MPI job."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where mpirun and srun say how many processes they started."""

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")

PR_SET_PDEATHSIG = 1
"""Source: linux/prctl.h."""

SILENCE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""Seconds, seconds and times: a node that is gone without a word is noticed after 20 seconds."""


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched_size() -> int:
    """How many processes the launcher says it started; 1 without one."""
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return max((int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdigit()), default=1)


def launched_rank() -> int:
    """This process's rank as the launcher says, before MPI is there."""
    names = ("RANK",) if under_torchrun() else RANKS
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def end_with_torchrun() -> None:
    """Let the kernel kill this process when torchrun dies, whose processes would train on without it. Does nothing elsewhere.

    mpirun and SLURM's daemons have ranks end with them. Not a thread that looks after the launcher: while a rank waits in MPI
    for another, Python runs none.
    """
    if under_torchrun():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def join_torchrun() -> None:
    """Let the processes of torchrun become one MPI job; must come before MPI is loaded. Does nothing elsewhere.

    Rank 0 starts a process manager (`prdp_hpc.pmi`) and tells the others its address through torchrun's store. MPICH and the
    MPIs made from it look for `PMI_PORT` and `PMI_ID` when they start; other MPIs do not, and `ProcessMesh` says so.
    """
    if not under_torchrun() or "PMI_PORT" in os.environ or "PMI_FD" in os.environ or "mpi4py.MPI" in sys.modules:
        return
    import torch.distributed as dist  # slow, and needed under torchrun only

    found: Any = dist
    store, rank, size = next(iter(found.rendezvous("env://")))
    # A store outlives the processes of a restart by torchrun.
    store = found.PrefixStore(f"prdp-hpc/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    if rank == 0:
        per_node = os.environ.get("LOCAL_WORLD_SIZE", str(size))
        manager = subprocess.Popen(
            [sys.executable, "-m", "prdp_hpc.pmi", str(size), per_node],
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "TORCHELASTIC_RUN_ID"},
        )
        assert manager.stdout is not None
        store.set("port", manager.stdout.readline().strip())
    address = os.environ["MASTER_ADDR"], int(store.get("port"))
    os.environ["PMI_PORT"] = f"{address[0]}:{address[1]}"
    os.environ["PMI_ID"] = str(rank)
    _hold_lifeline(address)


def notice_silence(connection: socket.socket) -> None:
    """Let a connection end when the other node does not answer any more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in SILENCE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _hold_lifeline(address: tuple[str, int]) -> None:
    """Let the kernel kill this process when the process manager ends, as it does once it has lost another one of the job.

    torchrun does not: where it is killed on one node, the ranks on other nodes wait for ever.
    """
    line = socket.create_connection(address)
    notice_silence(line)
    line.sendall(b"cmd=lifeline\n")
    flags = fcntl.fcntl(line, fcntl.F_GETFL)
    fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
    # What comes on this connection is its end, nothing else.
    fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(line, fcntl.F_SETFL, flags | os.O_ASYNC)

    def let_go() -> None:
        fcntl.fcntl(line, fcntl.F_SETFL, flags)
        with suppress(OSError):
            line.sendall(b"cmd=let_go\n")
        line.close()

    # Registered before MPI is loaded, and so called after MPI has ended.
    atexit.register(let_go)
