"""A mesh starts alike under mpirun, on several nodes, and under torchrun; what cannot start says so once."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny

from prdp_hpc import rendezvous
from prdp_hpc.pmi import ProcessManager

SHOW = """
import json, sys
from prdp_hpc import ProcessMesh
import torch, torch.distributed as dist
mesh = ProcessMesh.from_world(int(sys.argv[1]))
from mpi4py import MPI
total = torch.tensor([1.0 + mesh.world.rank])
dist.all_reduce(total)
nodes = mesh.grid_comm.allgather(mesh.seats[mesh.world.rank].node)
mine = [MPI.COMM_WORLD.rank, mesh.world.rank, mesh.replica, len(set(nodes)), total.item(), dist.get_backend()]
found = mesh.world.gather(mine)
if mesh.is_root:
    print(json.dumps(found))
mesh.close()
"""


def shown(*launcher, grid_ranks=1, code=SHOW, env=None):
    """What the ranks say about themselves, or the error."""
    command = [*launcher, sys.executable, "-c", code, str(grid_ranks)]
    if "torchrun" in str(launcher[0]):
        command = [*launcher, "--no-python", sys.executable, "-c", code, str(grid_ranks)]
    job = subprocess.run(
        command, capture_output=True, text=True, timeout=90, env={**tiny.environment(), **(env or {})}, check=False
    )
    return job, [json.loads(line) for line in job.stdout.splitlines() if line.startswith("[[")]


MPIEXEC = str(tiny.BIN / "mpiexec")
TORCHRUN = (str(tiny.BIN / "torchrun"), "--standalone", "--nproc-per-node")
NODES = (MPIEXEC, "-launcher", "fork", "-hosts", "a,b", "-ppn", "1", "-n", "4")
"""Two nodes as MPI sees them, to which ranks are dealt in turn."""


def test_two_nodes_with_ranks_dealt_in_turn():
    job, (ranks,) = shown(*NODES, grid_ranks=2)
    assert job.returncode == 0, job.stderr
    assert [rank[0] for rank in ranks] == [0, 2, 1, 3]
    assert [rank[2] for rank in ranks] == [0, 0, 1, 1]
    assert all(rank[3:] == [1, 10.0, "gloo"] for rank in ranks)


def test_torchrun_starts_the_same_job():
    job, (ranks,) = shown(*TORCHRUN, "4", grid_ranks=2)
    assert job.returncode == 0, job.stderr
    assert [rank[:3] for rank in ranks] == [[0, 0, 0], [1, 1, 0], [2, 2, 1], [3, 3, 1]]
    assert all(rank[4:] == [10.0, "gloo"] for rank in ranks)


def test_torchrun_trains_as_mpirun_does(tmp_path):
    config = tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path, grid={"shape": [6, 5]}))
    mpirun = tiny.prdp_hpc(2, "run", config, "name=mpirun", "parallel.grid_ranks=2")
    assert mpirun.returncode == 0, mpirun.stderr
    command = [*TORCHRUN, "2", "-m", "prdp_hpc", "run", config, "name=torchrun", "parallel.grid_ranks=2"]
    job = subprocess.run(command, capture_output=True, text=True, timeout=90, env=tiny.environment(), check=False)
    assert job.returncode == 0, job.stderr
    assert tiny.rows(tmp_path / "torchrun") == tiny.rows(tmp_path / "mpirun")


def test_a_rank_that_dies_under_torchrun_ends_the_job():
    code = "import os\nfrom prdp_hpc import ProcessMesh\nmesh = ProcessMesh.from_world()\n"
    code += "mesh.world.rank == 1 and os._exit(3)\nmesh.world.barrier()"
    job, _ = shown(*TORCHRUN, "3", code=code)
    assert job.returncode != 0


WAIT = """
import json, os, pathlib, time
from prdp_hpc import ProcessMesh
world = ProcessMesh.from_world().world
processes = world.gather((os.getpid(), os.getppid()))
if world.rank == 0:
    pathlib.Path("processes.new").write_text(json.dumps(processes))
    os.rename("processes.new", "processes")
else:
    time.sleep(90)
world.barrier()
"""


def runs(process):
    """Whether a process is there; one that has ended stays in the list until its parent has asked for its exit code."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_an_agent_of_torchrun_that_is_killed_takes_the_ranks_of_all_nodes_with_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"]
    command = [TORCHRUN[0], *words, "--no-python", sys.executable, "-c", WAIT]
    agents = [
        subprocess.Popen(command, cwd=tmp_path, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "processes").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        ranks, parents = zip(*json.loads((tmp_path / "processes").read_text()), strict=True)
        os.kill(parents[1], signal.SIGKILL)
        for agent in agents:
            assert agent.wait(timeout=30) != 0
        assert not any(map(runs, ranks))
    finally:
        for agent in agents:
            agent.kill()


@pytest.mark.parametrize("in_order", [True, False])
def test_the_process_manager_ends_at_once_when_a_lifeline_breaks(in_order):
    manager = ProcessManager(1, 1)
    found = []
    served = threading.Thread(target=lambda: found.append(manager.serve()), daemon=True)
    served.start()
    with (
        socket.create_connection(("127.0.0.1", manager.port)) as talk,
        socket.create_connection(("127.0.0.1", manager.port)) as line,
    ):
        line.sendall(b"cmd=lifeline\n" + b"cmd=let_go\n" * in_order)
        line.shutdown(socket.SHUT_WR)
        if in_order:
            served.join(0.2)
            assert served.is_alive()  # until the process has finished
            talk.shutdown(socket.SHUT_WR)
        served.join(10)
    assert found == [in_order]


@pytest.mark.parametrize("launcher", [(MPIEXEC, "-n", "4"), (*TORCHRUN, "4")], ids=["mpirun", "torchrun"])
def test_three_grid_ranks_do_not_fit_in_four(tmp_path, launcher):
    config = tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path))
    words = ["-m", "prdp_hpc", "run", config, "parallel.grid_ranks=3"]
    command = [*launcher, *words] if "torchrun" in launcher[0] else [*launcher, sys.executable, *words]
    job = subprocess.run(command, capture_output=True, text=True, timeout=90, env=tiny.environment(), check=False)
    assert job.returncode != 0
    assert job.stderr.count("prdp-hpc: error: 4 ranks cannot be split into replicas of 3 grid ranks") == 1


def test_an_address_is_believed_only_with_the_token():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    threading.Thread(target=rendezvous._answer, args=(listener, b"right token 1234"), daemon=True).start()
    assert rendezvous._answers("127.0.0.1", port, b"right token 1234")
    assert not rendezvous._answers("127.0.0.1", port, b"other token 5678")
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert not rendezvous._answers("127.0.0.1", port, b"right token 1234")


def test_loopback_is_the_last_candidate_and_the_named_interface_the_first(monkeypatch):
    mine = {"eth0": "10.0.0.1", "ib0": "10.1.0.1", "lo": "127.0.0.1"}
    monkeypatch.setattr(rendezvous, "interfaces", lambda: mine)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    assert rendezvous.candidates() == ["10.0.0.1", "10.1.0.1", "127.0.0.1"]
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert rendezvous.candidates()[0] == "10.1.0.1"


def test_interfaces_of_this_machine_hold_loopback():
    assert rendezvous.interfaces().get("lo") == "127.0.0.1"


def test_nodes_that_cannot_reach_each_other_are_told_so_on_all_ranks():
    code = SHOW.replace("import torch,", "import prdp_hpc.rendezvous as r; r._answers = lambda *a: False\nimport torch,", 1)
    job, _ = shown(*NODES, code=code)
    assert job.returncode != 0
    assert "the nodes cannot reach rank 0" in job.stderr
    assert "GLOO_SOCKET_IFNAME=ib0" in job.stderr


def test_the_process_manager_answers_as_mpich_expects():
    manager = ProcessManager(2, 1)
    served = threading.Thread(target=manager.serve)
    served.start()

    def process(rank, said):
        with (
            socket.create_connection(("127.0.0.1", manager.port)) as connection,
            connection.makefile("rw", newline="\n") as stream,
        ):

            def ask(line, answers=1):
                stream.write(line + "\n")
                stream.flush()
                said[rank] += [stream.readline().strip() for _ in range(answers)]

            ask(f"cmd=initack pmiid={rank}", answers=4)
            ask(f"cmd=put kvsname=x key=address-{rank} value=here={rank}")
            ask("cmd=barrier_in")
            ask(f"cmd=get kvsname=x key=address-{1 - rank}")
            ask("cmd=get kvsname=x key=nothing")
            ask("cmd=get kvsname=x key=PMI_process_mapping")
            ask("cmd=finalize")

    lifelines = [socket.create_connection(("127.0.0.1", manager.port)) for _ in range(2)]
    for line in lifelines:
        line.sendall(b"cmd=lifeline\n")
    said = {0: [], 1: []}
    processes = [threading.Thread(target=process, args=(rank, said)) for rank in said]
    for thread in (*processes, served):
        thread.start() if thread is not served else None
    for thread in processes:
        thread.join(10)
    assert served.is_alive()
    for line in lifelines:
        line.sendall(b"cmd=let_go\n")
        line.close()
    for thread in (*processes, served):
        thread.join(10)
        assert not thread.is_alive()
    for rank, answers in said.items():
        assert answers[:4] == ["cmd=initack", "cmd=set size=2", f"cmd=set rank={rank}", "cmd=set debug=0"]
        assert answers[6] == f"cmd=get_result rc=0 msg=success value=here={1 - rank}"
        assert answers[7] == "cmd=get_result rc=-1 msg=key_not_found"
        assert answers[8].endswith("value=(vector,(0,2,1))")
