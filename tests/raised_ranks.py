"""Errors that all ranks raise together."""

from mpi4py import MPI


def raised_everywhere(kind, words, call, comm=MPI.COMM_WORLD):
    """Require an error of a kind, with these words in its message, on all ranks."""
    try:
        call()
        message = None
    except kind as error:
        message = str(error)
    for rank, raised in enumerate(comm.allgather(message)):
        assert raised is not None, f"rank {rank} did not raise for {words!r}"
        assert words in raised, (rank, raised)
