"""A small process manager that lets processes which were started apart become one MPI job.

MPICH and the MPIs made from it find each other through the text protocol PMI-1: each process puts its address under a key, waits
in a barrier, and gets the others' addresses. `python -m prdp_hpc.pmi SIZE PER_NODE` serves that on a free port, prints the
port, and ends when every process has finished. Each process also holds a second connection to it, its lifeline; when one breaks,
the manager ends at once, and with it all lifelines (see `prdp_hpc.launch`).

Source: MPICH, src/pmi (PMI-1 wire protocol).
"""

from __future__ import annotations

import queue
import secrets
import socket
import sys
import threading
from contextlib import suppress

from prdp_hpc.launch import notice_silence

MAXES = "cmd=maxes rc=0 kvsname_max=256 keylen_max=256 vallen_max=4096"
PATIENCE = 120.0
"""Seconds that the first process may keep the server waiting."""


class ProcessManager:
    """Serves one job of `size` processes, `per_node` of them on each node."""

    def __init__(self, size: int, per_node: int) -> None:
        self._size = size
        self._connections = 2 * size  # of each process one to talk, and its lifeline
        # MPICH names its shared memory after it: two jobs on a node must not meet there, nor what a killed one left behind.
        self._name = f"prdp_hpc_{secrets.token_hex(8)}"
        self._values = {"PMI_process_mapping": f"(vector,(0,{-(-size // per_node)},{per_node}))"}
        self._barrier = threading.Barrier(size)
        self._ends: queue.Queue[bool] = queue.Queue()
        self._listener = socket.create_server(("", 0), backlog=size)
        self._listener.settimeout(PATIENCE)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def serve(self) -> bool:
        """Serve until all processes have left (True), or one was lost (False)."""
        threading.Thread(target=self._accept, daemon=True).start()
        return all(self._ends.get() for _ in range(self._connections))

    def _accept(self) -> None:
        try:
            for _ in range(self._connections):
                connection, _ = self._listener.accept()
                connection.settimeout(None)
                notice_silence(connection)
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()
        except TimeoutError:
            self._ends.put(False)

    def _converse(self, connection: socket.socket) -> None:
        lifeline = False
        with connection, connection.makefile("r", encoding="ascii", newline="\n") as lines, suppress(OSError):
            for line in lines:
                said = _fields(line)
                lifeline = said.get("cmd") == "lifeline" or (lifeline and said.get("cmd") != "let_go")
                connection.sendall("".join(f"{part}\n" for part in self._answer(said)).encode("ascii"))
        self._ends.put(not lifeline)

    def _answer(self, said: dict[str, str]) -> list[str]:
        command = said.get("cmd", "")
        if command == "initack":
            return ["cmd=initack", f"cmd=set size={self._size}", f"cmd=set rank={said['pmiid']}", "cmd=set debug=0"]
        if command == "put":
            self._values[said["key"]] = said["value"]
        if command == "get":
            value = self._values.get(said["key"])
            return [
                "cmd=get_result rc=-1 msg=key_not_found" if value is None else f"cmd=get_result rc=0 msg=success value={value}"
            ]
        if command == "barrier_in":
            self._barrier.wait()
        answers = {
            "init": "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1",
            "get_maxes": MAXES,
            "get_appnum": "cmd=appnum rc=0 appnum=0",
            "get_my_kvsname": f"cmd=my_kvsname rc=0 kvsname={self._name}",
            "get_universe_size": f"cmd=universe_size rc=0 size={self._size}",
            "put": "cmd=put_result rc=0 msg=success",
            "barrier_in": "cmd=barrier_out rc=0",
            "finalize": "cmd=finalize_ack rc=0",
        }
        return [answers[command]] if command in answers else []


def _fields(line: str) -> dict[str, str]:
    """`key=value` pairs; the last value may hold anything."""
    pairs = (word.partition("=") for word in line.split())
    return {key: value for key, _, value in pairs}


if __name__ == "__main__":
    manager = ProcessManager(int(sys.argv[1]), int(sys.argv[2]))
    print(manager.port, flush=True)
    manager.serve()
