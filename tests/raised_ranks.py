"""Errors that all ranks raise together."""

from mpi4py import MPI

WORLD = MPI.COMM_WORLD


def raised_everywhere(kind, words, call):
    try:
        call()
        message = None
    except kind as error:
        message = str(error)
    for rank, told in enumerate(WORLD.allgather(message)):
        assert told is not None, f"rank {rank} did not raise for {words!r}"
        assert words in told, (rank, told)
