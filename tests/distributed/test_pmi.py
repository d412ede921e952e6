"""The process manager answers as MPICH expects, and detects when a job cannot continue."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.distributed.pmi import ProcessManager, process_mapping


class Served:
    """A manager at work, and what it said at its end."""

    def __init__(self, size):
        self.manager, self.reasons = ProcessManager(size), []
        self._thread = threading.Thread(
            target=lambda: self.reasons.append(self.manager.serve()), daemon=True
        )
        self._thread.start()

    @contextmanager
    def connection(self, first):
        """A connection that begins with a line; the function to ask with."""
        address = ("127.0.0.1", self.manager.port)
        with (
            socket.create_connection(address, timeout=10) as connection,
            connection.makefile("rw", newline="\n") as stream,
        ):

            def ask(line, answers=1):
                try:
                    stream.write(line + "\n")
                    stream.flush()
                    return [stream.readline().strip() for _ in range(answers)]
                except ConnectionError:  # closed with something that was not read
                    return [""] * answers

            ask(first, 0)
            yield ask

    def join(self, rank, node=0):
        """A line of a rank, which shows the manager that the rank is alive."""
        return self.connection(f"cmd=join rank={rank} node={node} token={self.manager.token}")

    def reason(self):
        """Why it ended."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.reasons[0]


def together(count, action):
    """Do something for each rank at once; what each returned."""
    found = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: action(rank)}))
        for rank in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return found


def test_two_processes_exchange_addresses_and_finish():
    served = Served(2)

    def process(rank):
        said = []
        with (
            served.join(rank, node=rank),
            served.connection(f"cmd=initack pmiid={rank}") as ask,
        ):
            said += ask("cmd=init pmi_version=1 pmi_subversion=1", 5)
            said += ask(f"cmd=put kvsname=x key=address-{rank} value=here={rank} and more")
            said += ask("cmd=barrier_in")
            said += ask(f"cmd=get kvsname=x key=address-{1 - rank}")
            said += ask("cmd=get kvsname=x key=nothing")
            said += ask("cmd=get kvsname=x key=PMI_process_mapping")
            said += ask("cmd=finalize")
        return said

    for rank, said in together(2, process).items():
        assert said[:4] == [
            "cmd=initack",
            "cmd=set size=2",
            f"cmd=set rank={rank}",
            "cmd=set debug=0",
        ]
        assert said[6] == "cmd=barrier_out rc=0"
        assert said[7] == f"cmd=get_result rc=0 msg=success value=here={1 - rank} and more"
        assert said[8] == "cmd=get_result rc=-1 msg=key_not_found"
        assert said[9].endswith("value=(vector,(0,2,1))")
        assert said[10] == "cmd=finalize_ack rc=0"
    assert served.reason() == ""


def test_a_process_that_ends_in_the_middle_ends_the_job():
    served = Served(2)
    with served.join(0), served.connection("cmd=initack pmiid=0"):
        with served.join(1):
            time.sleep(0.1)
            assert served.reasons == []
        assert served.reason() == "rank 1 has ended before the others"


def test_mpi_may_start_before_the_rank_s_line_is_read():
    served = Served(1)
    with served.connection("cmd=initack pmiid=0") as ask:
        time.sleep(0.2)
        with served.join(0):
            assert ask("cmd=init pmi_version=1 pmi_subversion=1", 5)[-1].startswith(
                "cmd=response_to_init"
            )


def test_processes_that_never_use_mpi_may_end():
    served = Served(2)
    for rank in range(2):
        with served.join(rank):
            pass
    assert served.reason() == ""


def test_a_stranger_is_no_process_of_the_job():
    served = Served(1)
    for words in ("GET / HTTP/1.1", "", "cmd=join rank=here", "cmd=initack"):
        with served.connection(words):
            pass
    with (
        served.join(0),
        served.connection("cmd=initack pmiid=0") as ask,
    ):
        assert ask("cmd=finalize", 5)[-1] == "cmd=finalize_ack rc=0"
    assert served.reason() == ""


def test_a_process_without_the_token_is_no_process_of_the_job(monkeypatch):
    monkeypatch.setattr("prdp_hpc.distributed.pmi.JOIN_DELAY", 0.2)
    served = Served(2)
    wrong = "0" * 32
    with (
        served.connection("cmd=join rank=0 node=0") as without,
        served.connection(f"cmd=join rank=1 node=0 token={wrong}") as guessed,
        served.connection("cmd=initack pmiid=0") as early,
    ):
        # Closed immediately, whereas the connection of a rank stays open without data.
        assert [ask("x", 1) for ask in (without, guessed, early)] == [[""]] * 3
    with (
        served.join(0),
        served.join(1),
        served.connection("cmd=initack pmiid=0") as first,
        served.connection("cmd=initack pmiid=1") as second,
    ):
        assert [ask("cmd=get_maxes", 5)[-1][:9] for ask in (first, second)] == ["cmd=maxes"] * 2
        with served.join(1) as again:
            assert again("x", 1) == [""]
        assert first("cmd=finalize", 1)[-1] == "cmd=finalize_ack rc=0"
        assert second("cmd=finalize", 1)[-1] == "cmd=finalize_ack rc=0"
        with served.connection("cmd=initack pmiid=0") as stranger:
            assert stranger("cmd=finalize", 1) == [""]
    assert served.reason() == ""


def test_what_it_cannot_do_fails_at_once():
    served = Served(1)
    with (
        served.join(0),
        served.connection("cmd=initack pmiid=0") as ask,
    ):
        assert ask("cmd=spawn", 5)[-1] == ""


def test_processes_that_do_not_come_are_counted(monkeypatch):
    monkeypatch.setattr("prdp_hpc.distributed.pmi.PATIENCE", 0.2)
    served = Served(3)
    with served.join(0):
        assert served.reason() == "only 1 of 3 processes have connected within 0 s"


def expanded(mapping):
    """The node of each rank, as MPICH reads it."""
    blocks = [
        tuple(map(int, block.split(",")))
        for block in mapping.removeprefix("(vector,(").removesuffix("))").split("),(")
    ]
    return [first + i for first, many, each in blocks for i in range(many) for _ in range(each)]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_the_mapping_gives_every_rank_its_node(nodes):
    numbers = {node: i for i, node in enumerate(dict.fromkeys(nodes))}
    assert expanded(process_mapping(nodes)) == [numbers[node] for node in nodes]


@pytest.mark.parametrize(
    ("nodes", "mapping"),
    [([0, 0, 1, 1], "(0,2,2)"), ([7, 7, 7, 2], "(0,1,3),(1,1,1)"), ([3], "(0,1,1)")],
)
def test_the_mapping_of_equal_nodes_is_short(nodes, mapping):
    assert process_mapping(nodes) == f"(vector,{mapping})"
