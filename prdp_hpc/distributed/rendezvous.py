"""An address of rank 0 that every node can reach."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import secrets
import socket
import struct
import threading
from contextlib import suppress

import numpy as np
from mpi4py import MPI

from prdp_hpc.errors import InputError

SECONDS = 3.0
"""Seconds for which a node tries to reach one address."""

SIOCGIFADDR = 0x8915
CHOSEN = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interfaces() -> dict[str, str]:
    """The IPv4 addresses of this node's network interfaces by name, loopback last; Linux."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(
                    query.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15])
                )
                found[name] = socket.inet_ntoa(answer[20:24])
    return dict(sorted(found.items(), key=lambda item: ipaddress.ip_address(item[1]).is_loopback))


def candidates() -> list[str]:
    """Addresses by which other nodes may reach this one, in the order of preference: interfaces
    that the user names, then all others.
    """
    named = next((os.environ[variable] for variable in CHOSEN if variable in os.environ), "")
    mine = interfaces()
    return sorted(
        mine.values(),
        key=lambda address: address not in [mine.get(name) for name in named.split(",")],
    )


def common_address(world: MPI.Comm, node: int) -> str:
    """An address of rank 0 that one rank of every node has reached; collective.

    `node`: the number of this rank's node. Each node tries rank 0's addresses, and accepts one
    only if it answers with rank 0's token, because a loopback address reaches the node itself.
    Raises `InputError` on all ranks if no address does.
    """
    nodes = world.allgather(node)
    if len(set(nodes)) == 1:
        return "127.0.0.1"
    leader = nodes.index(node) == world.rank
    listener = socket.create_server(("", 0), backlog=len(nodes)) if world.rank == 0 else None
    offered = world.bcast(
        (candidates(), listener.getsockname()[1], secrets.token_bytes(16))
        if listener is not None
        else None
    )
    addresses, port, token = offered
    if listener is not None:
        threading.Thread(target=_answer, args=(listener, token), daemon=True).start()
    reached = np.array(
        [not leader or _answers(address, port, token) for address in addresses], dtype=np.int32
    )
    world.Allreduce(MPI.IN_PLACE, reached, op=MPI.MIN)
    if listener is not None:
        # Closing the socket would not wake the thread that waits for connections.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    found = [address for address, by_all in zip(addresses, reached, strict=True) if by_all]
    if not found:
        raise InputError(
            f"the nodes cannot reach rank 0 ({socket.gethostname()}) at any of its addresses: "
            f"{', '.join(addresses)}: open the "
            "network between the nodes, or set the right interface, e.g. GLOO_SOCKET_IFNAME=ib0"
        )
    return str(found[0])


def use_interface_to(address: str) -> None:
    """Make gloo and NCCL use the interface by which rank 0 is reached, unless the user has
    named one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # a datagram socket: nothing is sent
        own = probe.getsockname()[0]
    name = next((name for name, other in interfaces().items() if other == own), None)
    if name is not None:
        for variable in CHOSEN:
            os.environ.setdefault(variable, name)


def _answer(listener: socket.socket, token: bytes) -> None:
    with suppress(OSError):  # closed: all have tried
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(token)


def _answers(address: str, port: int, token: bytes) -> bool:
    with (
        suppress(OSError),
        socket.create_connection((address, port), timeout=SECONDS) as connection,
    ):
        connection.settimeout(SECONDS)
        return connection.recv(len(token), socket.MSG_WAITALL) == token
    return False
