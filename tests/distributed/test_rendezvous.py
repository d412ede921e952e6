"""Reliability: the ranks of several nodes meet at an address of rank 0 that all of them reach."""

import os
import socket
import subprocess
import threading

import pytest
from launches import MPIEXEC, NODES, SHOW, shown

from prdp_hpc.distributed import rendezvous


def test_an_address_is_believed_only_with_the_token():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    threading.Thread(
        target=rendezvous._answer, args=(listener, b"right token 1234"), daemon=True
    ).start()
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
    code = SHOW.replace(
        "import torch,",
        "import prdp_hpc.distributed.rendezvous as r; r._answers = lambda *a: False\nimport torch,",
        1,
    )
    job, _ = shown(*NODES[:-1], "2", code=code)
    assert job.returncode != 0
    assert "the nodes cannot reach rank 0" in job.stderr
    assert "GLOO_SOCKET_IFNAME=ib0" in job.stderr


def test_nothing_but_loopback_is_needed():
    try:
        subprocess.run(
            ["unshare", "--net", "ip", "link", "set", "lo", "up"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces: needs root")
    command = f'ip link set lo up && exec {MPIEXEC} -n 2 "$@"'
    # Without it torch waits for a name server that is not there.
    job, (ranks,) = shown(
        "unshare", "--net", "sh", "-c", command, "sh", env={"RES_OPTIONS": "timeout:1 attempts:1"}
    )
    assert job.returncode == 0, job.stderr
    assert [rank[4] for rank in ranks] == [3.0, 3.0]


@pytest.fixture
def nodes(tmp_path):
    """Two nodes with a network between them, and an address that each has for itself; the command
    to start ranks on them.
    """
    one, two = (f"prdp{os.getpid()}{name}" for name in "ab")
    commands = [
        *(f"ip netns add {node}" for node in (one, two)),
        f"ip link add eth7 netns {one} type veth peer name eth7 netns {two}",
        *(
            f"ip -n {node} addr add 10.77.0.{i}/24 dev eth7"
            for i, node in enumerate((one, two), start=1)
        ),
        *(f"ip -n {node} link add docker0 type bridge" for node in (one, two)),
        *(f"ip -n {node} addr add 172.17.0.1/16 dev docker0" for node in (one, two)),
        *(
            f"ip -n {node} link set {link} up"
            for node in (one, two)
            for link in ("lo", "docker0", "eth7")
        ),
    ]
    launcher = tmp_path / "launcher"
    # As ssh: options, the host, the command.
    launcher.write_text(
        "#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\n"
        f"[[ $1 == 10.77.0.1 ]] && node={one} || node={two}\nshift\n"
        f'exec ip netns exec $node sh -c "exec $*"\n'
    )
    launcher.chmod(0o755)
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, check=False)
            if done.returncode:
                pytest.skip("no network namespaces: needs root")
        start = f"ip netns exec {one} {MPIEXEC} -launcher ssh -launcher-exec {launcher} "
        yield f"{start} -hosts 10.77.0.1,10.77.0.2 -ppn 1 -n 2".split()
    except OSError:
        pytest.skip("no network namespaces: needs iproute2")
    finally:
        for node in (one, two):
            subprocess.run(["ip", "netns", "del", node], capture_output=True, check=False)


def test_the_address_is_one_that_the_other_node_reaches(nodes):
    code = (
        "import json; from mpi4py import MPI\n"
        "from prdp_hpc.distributed.rendezvous import candidates, common_address\n"
    )
    code += "world = MPI.COMM_WORLD; found = common_address(world, world.rank)\n"
    code += "if world.rank == 0: print(json.dumps([[found, candidates()]]))"
    job, ((found,),) = shown(*nodes, code=code)
    assert job.returncode == 0, job.stderr
    assert sorted(found[1]) == ["10.77.0.1", "127.0.0.1", "172.17.0.1"]
    assert found[0] == "10.77.0.1"
