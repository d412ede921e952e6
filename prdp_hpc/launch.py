"""Who started this process, and how processes of torchrun become one MPI job."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where mpirun and srun say how many processes they started."""

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


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
    os.environ["PMI_PORT"] = f"{os.environ['MASTER_ADDR']}:{store.get('port').decode()}"
    os.environ["PMI_ID"] = str(rank)
