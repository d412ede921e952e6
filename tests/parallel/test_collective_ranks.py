"""Property: what is raised on one rank is caught by the same `except` on all; private communicators
are as many as there are kinds of operations.
"""

import errno
import pickle
import traceback

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mpi4py import MPI

from prdp_hpc import Grid, ProcessMesh
from prdp_hpc.distributed.call_ahead import CallAhead
from prdp_hpc.distributed.collective import RemoteError, call_together, raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.grid.halo import Halo
from prdp_hpc.linalg import SolveError
from prdp_hpc.petsc import PETSc

WORLD = MPI.COMM_WORLD


class TwoArgumentsError(RuntimeError):
    def __init__(self, what, where):
        super().__init__(what, where)
        self.lock = np.empty(1)  # what is not simple is not sent

    def __str__(self):
        return "{} in {}".format(*self.args)


class UnpicklableError(LookupError):
    def __reduce__(self):
        raise TypeError("never")


class StrangeError(Exception):
    def __str__(self):
        raise ValueError("no text")


class FalseError(Exception):
    def __bool__(self):
        return False


class UndecidedError(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.data = [number]

    def __bool__(self):
        return bool(self.data)


class FixedError(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("cannot be changed")


class NamesakeError(Exception):
    """Its property has the name of an attribute of ours, and no setter."""

    rank = property(lambda self: 99)


class HiddenError(Exception):
    """A property hides an attribute of the object."""

    code = property(lambda self: 3)

    def __init__(self, text):
        super().__init__(text)
        self.__dict__["code"] = 4


ERRORS = [
    (FixedError("fixed"), FixedError, "fixed"),
    (NamesakeError("same"), NamesakeError, "same"),
    (HiddenError("property"), HiddenError, "property"),
    (FalseError("no"), FalseError, "no"),
    (UndecidedError(1), UndecidedError, "1"),
    (PETSc.Error(63), PETSc.Error, "63"),
    (InputError("b has 3 rows"), InputError, "b has 3 rows"),
    (SolveError("it broke down", "DIVERGED_X", 7), SolveError, "it broke down"),
    (UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad byte"), UnicodeDecodeError, "bad byte"),
    (FileNotFoundError(errno.ENOENT, "no such file", "x"), FileNotFoundError, "no such file: 'x'"),
    (KeyError("level"), KeyError, "'level'"),
    (TwoArgumentsError("a hole", "row 4"), TwoArgumentsError, "a hole in row 4"),
    (UnpicklableError("hidden"), LookupError, "hidden"),
    (StrangeError(), StrangeError, "StrangeError"),
    (ExceptionGroup("two", [ValueError("one"), KeyError("other")]), Exception, "two"),
    (type("Local", (ArithmeticError,), {})("of here"), Exception, "of here"),
    (MemoryError(), MemoryError, ""),
]


def check_error(error, kind, text):
    last = WORLD.size - 1

    def fails():
        if WORLD.rank == last:
            raise error

    with pytest.raises(kind) as caught:
        call_together(WORLD, fails)
    if WORLD.rank == last:
        assert caught.value is error
        return
    remote = caught.value
    assert isinstance(remote, RemoteError)
    assert remote.rank == last
    assert str(remote).startswith(f"rank {last}: ")
    assert text in str(remote)
    shown = "".join(traceback.format_exception(remote))
    # The place of the error is shown, and its message once.
    assert "in fails" in shown
    assert shown.count(str(remote)) == 1
    if isinstance(error, SolveError):
        assert (remote.reason, remote.iteration) == (error.reason, error.iteration)
    if isinstance(error, OSError):
        assert remote.errno == error.errno


def check_that_a_report_of_a_report_names_the_origin():
    def told():
        try:
            raise_together(WORLD, InputError("first") if WORLD.rank == 1 else None)
        except InputError as error:
            return error
        raise AssertionError

    error = told()
    with pytest.raises(InputError, match="first") as caught:
        raise_together(WORLD, error if WORLD.rank == 0 else None)
    assert str(caught.value).count("first") == 1
    assert "rank 1: first" in str(caught.value) or WORLD.rank == 1


def check_errors_of_calls_ahead():
    """Each is raised where its own result is used, for any calls of the ranks in between."""
    last = WORLD.size - 1

    def number(n):
        if n == 1 and WORLD.rank == last:
            raise InputError("of call 1")
        return n * 10

    calls = [CallAhead(WORLD, lambda n=n: number(n)) for n in range(3)]
    with pytest.raises(KeyError):
        raise_together(WORLD, KeyError("in between") if WORLD.rank == 0 else None)
    assert calls[0].result() == 0
    with pytest.raises(InputError, match="of call 1") as caught:
        calls[1].result()
    assert isinstance(caught.value, RemoteError) == (WORLD.rank != last)
    assert calls[2].result() == 20
    # One that is given up does not take part in what follows.
    CallAhead(WORLD, lambda: number(1)).discard()
    assert CallAhead(WORLD, lambda: number(2)).result() == 20


def check_a_rank_does_not_wait_in_a_call_ahead():
    """A rank continues although another one has not called yet."""
    if WORLD.rank == 0:
        call = CallAhead(WORLD, lambda: "first")
        WORLD.send("done", 1)
    else:
        if WORLD.rank == 1:
            assert WORLD.recv(source=0) == "done"
        call = CallAhead(WORLD, lambda: "first")
    assert call.result() == "first"


def check_many_halos_on_one_communicator():
    comm = WORLD.Dup()
    grids = [Grid((8,), comm=comm) for _ in range(10)]
    # MPICH has 2,048 communicators at a time; a halo takes microseconds to make, a grid more.
    halos = [Halo(grid.partition, 1, 1) for grid in grids for _ in range(300)]
    assert halos[-1](torch.ones(grids[-1].n_local)).numel() == grids[-1].n_local + 2
    copies = private(comm)
    assert private(comm) is copies
    results = [MPI.Comm.Compare(one, comm) for one in copies]
    assert results == [MPI.CONGRUENT] * len(copies)
    comm.Free()
    assert not any(copies)


def check_many_communicators():
    for _ in range(600):
        comm = WORLD.Dup()
        raise_together(comm, None)
        comm.Free()


def check_messages_of_the_user_are_not_taken():
    grid = Grid((3 * WORLD.size,), boundary="periodic")
    right, left = (WORLD.rank + 1) % WORLD.size, (WORLD.rank - 1) % WORLD.size
    sent = [WORLD.isend("mine", right, tag) for tag in (0, 1)]
    x = torch.arange(3.0) + 3 * WORLD.rank
    padded = grid.halo(x)
    assert padded[0] == (3 * WORLD.rank - 1) % (3 * WORLD.size)
    assert [WORLD.recv(source=left, tag=tag) for tag in (0, 1)] == ["mine", "mine"]
    MPI.Request.waitall(sent)


def check_a_process_group_of_the_user():
    start = torch.distributed.TCPStore
    port = WORLD.bcast(
        (server := start("127.0.0.1", 0, is_master=True, wait_for_workers=False)).port
        if WORLD.rank == 0
        else None
    )
    store = server if WORLD.rank == 0 else start("127.0.0.1", port, is_master=False)

    def begin(rank, name):
        of_its_own = dist.PrefixStore(name, store)
        dist.init_process_group("gloo", store=of_its_own, rank=rank, world_size=WORLD.size)

    begin(WORLD.size - 1 - WORLD.rank, "reversed")
    with pytest.raises(InputError, match=r"numbers MPI rank 0 of 3 as 2 of 3.*init_process_group"):
        ProcessMesh.from_world()
    dist.destroy_process_group()
    begin(WORLD.rank, "same")
    mesh = ProcessMesh.from_world()
    total = torch.ones(1)
    dist.all_reduce(total, group=mesh.replica_group)
    assert total == WORLD.size
    mesh.close()
    assert dist.is_initialized()
    dist.all_reduce(total)
    assert total == WORLD.size**2
    dist.destroy_process_group()
    own = ProcessMesh.from_world()
    other = ProcessMesh.from_world(WORLD.size)
    other.close()
    assert dist.is_initialized()
    own.close()
    assert not dist.is_initialized()


@pytest.mark.parallel(3)
def test_agreement_and_privacy():
    assert WORLD.size == 3
    with pytest.raises(TypeError):
        pickle.dumps(UnpicklableError("hidden"))
    for case in ERRORS:
        check_error(*case)
    check_that_a_report_of_a_report_names_the_origin()
    check_messages_of_the_user_are_not_taken()
    check_errors_of_calls_ahead()
    check_a_rank_does_not_wait_in_a_call_ahead()
    check_many_communicators()
    check_a_process_group_of_the_user()
    check_many_halos_on_one_communicator()
