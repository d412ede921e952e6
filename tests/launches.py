"""Jobs that are started like those of users, and the reports of their ranks about the mesh."""

import json
import subprocess
import sys

import tiny

SHOW = """
import json, sys
from prdp_hpc import ProcessMesh
import torch, torch.distributed as dist
mesh = ProcessMesh.from_world(int(sys.argv[1]))
from mpi4py import MPI
total = torch.tensor([1.0 + mesh.world.rank])
dist.all_reduce(total)
nodes = mesh.grid_comm.allgather(mesh.locations[mesh.world.rank].node)
ranks = [MPI.COMM_WORLD.rank, mesh.world.rank, mesh.replica]
mine = [*ranks, len(set(nodes)), total.item(), dist.get_backend()]
found = mesh.world.gather(mine)
if mesh.is_root:
    print(json.dumps(found))
mesh.close()
"""


MPIEXEC = str(tiny.BIN / "mpiexec")
TORCHRUN = (str(tiny.BIN / "torchrun"), "--standalone", "--nproc-per-node")
NODES = (MPIEXEC, "-launcher", "fork", "-hosts", "a,b", "-ppn", "1", "-n", "4")
"""Two nodes for MPI, to which ranks are assigned alternately."""


def shown(*launcher, grid_ranks=1, code=SHOW, env=None):
    """The reports of the ranks, or the error."""
    command = [*launcher, sys.executable, "-c", code, str(grid_ranks)]
    if "torchrun" in str(launcher[0]):
        command = [*launcher, "--no-python", sys.executable, "-c", code, str(grid_ranks)]
    job = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=90,
        env={**tiny.environment(), **(env or {})},
        check=False,
    )
    return job, [json.loads(line) for line in job.stdout.splitlines() if line.startswith("[[")]
