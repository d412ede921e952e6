"""A small process manager by which separately started processes become one MPI job and end
together.

Processes of MPICH, and of MPIs derived from it, find each other through the text protocol PMI-1:
each process stores its address under a key, waits in a barrier, and reads the others' addresses.
`serve` is the server of this protocol, in a separate process.

Each process first opens a further connection (`join`, with the token of its job) and never closes
it, so the end of the connection is the end of the process. If a process ends without finalising MPI
while others use it, the manager ends too, which closes all connections, so that the other processes
are killed (`prdp_hpc.distributed.launch`). torchrun only ends the processes of the node on which a
process has failed.

Source: MPICH, src/pmi (PMI-1 wire protocol).
"""

from __future__ import annotations

import secrets
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import TextIO

MAXES = "cmd=maxes rc=0 kvsname_max=256 keylen_max=256 vallen_max=4096"
PATIENCE = 300.0
"""Seconds within which all processes must have joined."""

JOIN_DELAY = 30.0
"""Seconds to wait for the `join` line of a rank that has already started MPI."""

_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class ProcessManager:
    """The server of one job of `size` processes."""

    def __init__(self, size: int) -> None:
        self._size = size
        # MPICH derives the name of its shared memory from this name, so it must differ from those
        # of other jobs on the node, also of killed ones.
        self._name = f"prdp_hpc_{secrets.token_hex(8)}"
        self.token = secrets.token_hex(16)
        self._values: dict[str, str] = {}
        self._barrier = threading.Barrier(size)
        self._changed = threading.Condition()
        self._nodes: dict[int, int] = {}
        self._hosts: dict[int, str] = {}
        self._initialised: set[int] = set()
        self._finalised: set[int] = set()
        self._ended: set[int] = set()
        self._listener = socket.create_server(("", 0), backlog=size)

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        return int(self._listener.getsockname()[1])

    def serve(self) -> str:
        """Serve until all processes have ended; returns "", or the reason for ending the job."""
        threading.Thread(target=self._accept, daemon=True).start()
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._all_joined() or bool(self._lost()), PATIENCE
            ):
                return (
                    f"only {len(self._nodes)} of {self._size} processes have connected within "
                    f"{PATIENCE:.0f} s"
                )
            self._changed.wait_for(lambda: len(self._ended) == self._size or bool(self._lost()))
            return self._lost()

    def _all_joined(self) -> bool:
        return len(self._nodes) == self._size

    def _lost(self) -> str:
        lost = sorted(self._ended - self._finalised)
        return f"rank {lost[0]} has ended before the others" if lost and self._initialised else ""

    def _accept(self) -> None:
        while True:
            connection, (host, _) = self._listener.accept()
            threading.Thread(target=self._converse, args=(connection, host), daemon=True).start()

    def _converse(self, connection: socket.socket, host: str) -> None:
        # Connections with other data, e.g. from a port scanner, are ignored.
        with connection, suppress(OSError, ValueError, KeyError, threading.BrokenBarrierError):
            stay_alive(connection)
            with connection.makefile("r", encoding="ascii", newline="\n") as lines:
                message = _fields(lines.readline())
                if message.get("cmd") == "join" and self._joins(message, host):
                    self._wait_for_the_end(lines, int(message["rank"]))
                elif message.get("cmd") == "initack" and self._may_initialise(message, host):
                    self._serve_mpi(connection, lines, int(message["pmiid"]))

    def _joins(self, message: dict[str, str], host: str) -> bool:
        """Accept a process with the right token whose rank has not joined yet."""
        known = secrets.compare_digest(message["token"].encode(), self.token.encode())
        rank, node = int(message["rank"]), int(message["node"])
        with self._changed:
            joins = known and 0 <= rank < self._size and rank not in self._nodes
            if joins:
                self._nodes[rank], self._hosts[rank] = node, host
                self._changed.notify_all()
            return joins

    def _may_initialise(self, message: dict[str, str], host: str) -> bool:
        """Allow a rank that has joined from this host to start MPI, once: MPI sends no token.

        A rank sends `join` before it starts MPI, but on another connection, which may be read
        later.
        """
        rank = int(message["pmiid"])
        with self._changed:
            self._changed.wait_for(lambda: rank in self._hosts, JOIN_DELAY)
            may = self._hosts.get(rank) == host and rank not in self._initialised
            if may:
                self._initialised.add(rank)
                self._changed.notify_all()
            return may

    def _wait_for_the_end(self, lines: TextIO, rank: int) -> None:
        try:
            lines.read()
        finally:
            with self._changed:
                self._ended.add(rank)
                self._changed.notify_all()

    def _serve_mpi(self, connection: socket.socket, lines: TextIO, rank: int) -> None:
        _send(
            connection,
            "cmd=initack",
            f"cmd=set size={self._size}",
            f"cmd=set rank={rank}",
            "cmd=set debug=0",
        )
        for line in lines:
            _send(connection, self._answer(_fields(line), rank))

    def _answer(self, message: dict[str, str], rank: int) -> str:
        command = message["cmd"]
        if command == "get":
            value = (
                self._mapping()
                if message["key"] == "PMI_process_mapping"
                else self._values.get(message["key"])
            )
            return (
                "cmd=get_result rc=-1 msg=key_not_found"
                if value is None
                else f"cmd=get_result rc=0 msg=success value={value}"
            )
        if command == "put":
            self._values[message["key"]] = message["value"]
        if command == "barrier_in":
            self._barrier.wait()
        if command == "finalize":
            with self._changed:
                self._finalised.add(rank)
        # A KeyError closes the connection, so that an unsupported command (e.g. spawning) fails
        # instead of waiting.
        return {
            "init": "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1",
            "get_maxes": MAXES,
            "get_appnum": "cmd=appnum rc=0 appnum=0",
            "get_my_kvsname": f"cmd=my_kvsname rc=0 kvsname={self._name}",
            "get_universe_size": f"cmd=universe_size rc=0 size={self._size}",
            "put": "cmd=put_result rc=0 msg=success",
            "barrier_in": "cmd=barrier_out rc=0",
            "finalize": "cmd=finalize_ack rc=0",
        }[command]

    def _mapping(self) -> str:
        with self._changed:
            self._changed.wait_for(self._all_joined)
            return process_mapping([self._nodes[rank] for rank in range(self._size)])


def serve(size: int) -> None:
    """Print the port and the token of a new manager and serve; exits with the reason if the job
    must end.
    """
    manager = ProcessManager(size)
    print(manager.port, manager.token, flush=True)
    if reason := manager.serve():
        sys.exit(f"prdp-hpc: {reason}: ending the job on all {size} ranks")


def process_mapping(nodes: Sequence[int]) -> str:
    """The node of each rank in MPICH's format: blocks of (first node, number of nodes, ranks per
    node).
    """
    blocks: list[list[int]] = []
    for node, count in _runs(nodes):
        if blocks and [node, count] == [sum(blocks[-1][:2]), blocks[-1][2]]:
            blocks[-1][1] += 1
        else:
            blocks.append([node, 1, count])
    return f"(vector,{','.join(f'({first},{many},{each})' for first, many, each in blocks)})"


def stay_alive(connection: socket.socket) -> None:
    """Set keep-alive, so that a failure of the peer's machine is detected in half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _runs(nodes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive ranks: the node, numbered by first occurrence, and the length."""
    numbers = {node: number for number, node in enumerate(dict.fromkeys(nodes))}
    return ((numbers[node], len(list(ranks))) for node, ranks in groupby(nodes))


def _fields(line: str) -> dict[str, str]:
    """Parse `key=value` pairs; the key `value` is the last one, and its value is arbitrary text."""
    pairs, _, value = line.strip().partition(" value=")
    found = {key: text for key, _, text in (word.partition("=") for word in pairs.split())}
    return found | ({"value": value} if value else {})


def _send(connection: socket.socket, *lines: str) -> None:
    connection.sendall("".join(f"{line}\n" for line in lines).encode())
