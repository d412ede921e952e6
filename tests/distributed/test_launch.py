"""A mesh starts in the same way under mpirun, on several nodes, and under torchrun; if it cannot
start, there is one error message.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from launches import MPIEXEC, NODES, SHOW, TORCHRUN, shown


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def test_two_nodes_with_ranks_dealt_in_turn():
    job, (ranks,) = shown(*NODES, grid_ranks=2)
    assert job.returncode == 0, job.stderr
    assert [rank[0] for rank in ranks] == [0, 2, 1, 3]
    assert [rank[2] for rank in ranks] == [0, 0, 1, 1]
    assert all(rank[3:] == [1, 10.0, "gloo"] for rank in ranks)


ALONE = """
import sys
from prdp_hpc.cli import main
if sys.argv[1:] == ["config"]:
    main(["config", "--list"])
    from prdp_hpc import ProcessMesh
    print("ranks", ProcessMesh.from_world().world.size)
"""


def test_commands_that_run_on_one_rank_may_load_mpi():
    """Rank 1 has ended before, without MPI."""
    command = [MPIEXEC, "-n", "1", sys.executable, "-c", ALONE, "config"]
    job = subprocess.run(
        [*command, ":", "-n", "1", sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert job.returncode == 0, job.stderr
    assert job.stdout.endswith("ranks 1\n")


CHILD = "from prdp_hpc import ProcessMesh; print(ProcessMesh.from_world().world.size)"
TRAINS = f"""
import subprocess, sys
from prdp_hpc import ProcessMesh
from prdp_hpc.cli import main
from prdp_hpc.commands import run
mesh = ProcessMesh.from_world()
if mesh.world.rank == 1:
    child = subprocess.check_output([sys.executable, "-c", {CHILD!r}], text=True)
    print(f"[[{{child.strip()}}]]", flush=True)
mesh.world.barrier()
mesh.close()
run.plot_run = run.plot_fields = lambda *_: None  # these take longer than the training
main(sys.argv[1:])
"""


def test_torchrun_trains_as_mpirun_does_and_a_child_of_a_rank_is_no_rank(tmp_path, two_ranks):
    config = tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path, grid={"shape": [6, 5]}))
    words = ["run", config, "parallel.grid_ranks=2"]
    (mpirun,) = two_ranks([[*words, "name=mpirun"]])
    assert mpirun.codes == [0, 0], mpirun.stderr
    script = tmp_path / "trains.py"
    script.write_text(TRAINS)
    job = subprocess.run(
        [*TORCHRUN, "2", script, *words, "name=torchrun"],
        capture_output=True,
        text=True,
        timeout=90,
        env=tiny.environment(),
        check=False,
    )
    assert job.returncode == 0, job.stderr
    assert tiny.rows(tmp_path / "torchrun") == tiny.rows(tmp_path / "mpirun")
    assert job.stdout.count("[[1]]") == 1


DIES = """
import os
from petsc4py import PETSc
vector = PETSc.Vec().createMPI(10, comm=mesh.world)
sys.stdout.flush()
mesh.world.barrier()
mesh.world.rank == 1 and os._exit(3)
vector.norm()
"""


def test_a_torchrun_on_each_node_starts_one_job_which_a_rank_that_dies_ends_on_all_nodes():
    """The others wait in C and hold the interpreter's lock: nothing in Python could end them."""
    code = "import prdp_hpc\n" + SHOW.replace("mesh.close()", DIES)
    words = [TORCHRUN[0], "--nnodes", "2", "--master-addr", "127.0.0.1"]
    words += ["--master-port", str(free_port()), "--nproc-per-node", "2"]
    agents = []
    for node in range(2):
        # As `srun --ntasks-per-node=1 torchrun`: what the outer launcher tells MPI is not for
        # torchrun's processes.
        outer = {"PMI_RANK": str(node), "PMI_SIZE": "2", "PMI_FD": "99"}
        agents.append(
            subprocess.Popen(
                [*words, "--node-rank", str(node), "--no-python", sys.executable, "-c", code, "2"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=tiny.environment() | outer,
            )
        )
    try:
        said = "".join(agent.communicate(timeout=90)[0] for agent in agents)
    finally:
        for agent in agents:
            agent.terminate()
    (ranks,) = (json.loads(line) for line in said.splitlines() if line.startswith("[["))
    assert [rank[:4] for rank in ranks] == [[0, 0, 0, 1], [1, 1, 0, 1], [2, 2, 1, 1], [3, 3, 1, 1]]
    assert all(rank[4:] == [10.0, "gloo"] for rank in ranks)
    assert all(agent.returncode != 0 for agent in agents)
    assert said.count("has ended before the others: ending the job on all 4 ranks") == 1


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
    """Whether a process is running; one that has ended stays in the list until its parent has read
    its exit code.
    """
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.long
def test_an_agent_of_torchrun_that_is_killed_takes_the_ranks_of_all_nodes_with_it(tmp_path):
    words = [
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"localhost:{free_port()}",
    ]
    command = [TORCHRUN[0], *words, "--no-python", sys.executable, "-c", WAIT]
    agents = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=tiny.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
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


CHILDREN = """
import os, subprocess, sys
import torch
from torch.utils.data import DataLoader
from prdp_hpc import ProcessMesh
from prdp_hpc.distributed.collective import MPI
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return torch.tensor([i, MPI.COMM_WORLD.size])
def ranks(*command):
    said = subprocess.check_output([*command, sys.executable, "-c", {child!r}])
    return int(said.split(b";")[0])
if __name__ == "__main__":
    world = ProcessMesh.from_world().world
    found = [ranks(), ranks("sh", "-c", '"$@"; exit $?', "sh")]
    for way in ("fork", "spawn", "forkserver"):
        loader = DataLoader(Numbers(), num_workers=1, multiprocessing_context=way)
        found += sum(batch.sum(0) for batch in loader).tolist()
    if world.rank == 0:
        found.append(ranks({mpiexec!r}, "-n", "2"))
    world.barrier()
    child = os.fork()
    if child == 0:
        sys.exit(7)
    found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    found = world.gather(found)
    if world.rank == 0:
        print(found)
"""


@pytest.mark.long
def test_a_child_of_a_rank_under_mpirun_is_no_rank(tmp_path):
    # In one piece: two ranks may write at the same time.
    child = "from prdp_hpc import ProcessMesh; print(f'{ProcessMesh.from_world().world.size};')"
    script = tmp_path / "script.py"
    script.write_text(CHILDREN.format(child=child, mpiexec=MPIEXEC))
    job = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, script],
        capture_output=True,
        text=True,
        timeout=110,
        env=tiny.environment(),
        check=False,
    )
    assert job.returncode == 0, job.stderr
    # What is forked has MPI as it was there.
    first, second = json.loads(job.stdout.splitlines()[-1])
    alone, workers = [1, 1], [28, 16, 28, 8, 28, 8]
    assert first == [*alone, *workers, 2, 7]
    assert second == [*alone, *workers, 7]


def test_the_mpirun_of_an_mpi_with_pmix_is_named_once():
    # MPICH would end by "Runtime environment uses unsupported PMI version PMIx".
    processes = []
    for rank in ("0", "1"):
        environment = {
            "OMPI_COMM_WORLD_SIZE": "2",
            "PMIX_NAMESPACE": "x",
            "PRTE_LAUNCHED": "1",
            "PMIX_RANK": rank,
        }
        environment |= tiny.environment() | {"OMPI_COMM_WORLD_RANK": rank}
        command = tiny.command(0, "run", tiny.REPOSITORY / "configs" / "heat_1d.yaml")
        processes.append(
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
    said = processes[0].communicate(timeout=60)[1]
    assert processes[0].returncode == 2
    assert "the launcher started 2 processes, but MPI (MPICH) has one rank in each" in said
    # The launcher ends the other process now, which would speak if the first had not.
    processes[1].kill()
    assert processes[1].communicate(timeout=60)[1] == ""
    assert "suspicious" not in said


@pytest.mark.long
def test_three_grid_ranks_do_not_fit_in_two_of_torchrun(tmp_path):
    config = tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path))
    command = [*TORCHRUN, "2", "-m", "prdp_hpc", "run", config, "parallel.grid_ranks=3"]
    job = subprocess.run(
        command, capture_output=True, text=True, timeout=90, env=tiny.environment(), check=False
    )
    assert job.returncode != 0
    assert (
        job.stderr.count("prdp-hpc: error: 2 ranks cannot be split into replicas of 3 grid ranks")
        == 1
    )
