"""All-reduce of gradients by MPI, as a communication hook of DistributedDataParallel.

Where torch.distributed uses gloo, gradients would be sent by TCP, also between ranks of one node.
MPI uses shared memory there, and the fast network between nodes.
"""

# Without `from __future__ import annotations`: DDP compares the annotations of a hook with types.
from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor
from torch.futures import Future

from prdp_hpc.distributed.communicators import private

_HALF = (torch.float16, torch.bfloat16)


class MpiGradients:
    """Averages the buckets of DDP by non-blocking all-reduces.

    DDP calls the hook for one bucket after the other, in the same order on all ranks, as soon as
    the gradients of a bucket are complete. So the sum of a bucket overlaps with the computation of
    the next gradients. The call for the last bucket waits for all of them, in the thread of the
    backward pass: no other thread is needed, and no rank leaves the backward pass before all have
    the gradients. The messages have a separate communicator, so they cannot match others.

    The sum of a bucket has the same bits on all ranks and in each run with the same ranks, as the
    MPI standard recommends; tests check it with MPICH.

    References: torch documentation, DDP Communication Hooks; MPI standard, section Nonblocking
    Collective Operations.

    Parameters
    ----------
    comm : the ranks that average their gradients; collective.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        private(comm)
        self._started: list[tuple[MPI.Request, Tensor, Tensor, Future[Tensor]]] = []

    def average(self, bucket: Any) -> Future[Tensor]:
        """Start the all-reduce of a bucket; collective."""
        gradients = bucket.buffer()
        # MPI cannot add numbers of half precision, nor those of a GPU in every installation.
        wide = torch.float32 if gradients.dtype in _HALF else gradients.dtype
        host = gradients.to("cpu", wide).div_(self._comm.size)
        devices: Any = [gradients.device] if gradients.device.type == "cuda" else None
        future: Future[Tensor] = Future(devices=devices)
        comm = private(self._comm).gradients
        if not bucket.is_last():
            request = comm.Iallreduce(MPI.IN_PLACE, host.numpy())
            self._started.append((request, host, gradients, future))
            return future
        # Nothing is left to overlap with, and a blocking all-reduce is faster.
        comm.Allreduce(MPI.IN_PLACE, host.numpy())
        started, self._started = self._started, []
        for request, earlier, its_gradients, its_future in started:
            request.Wait()
            _complete(earlier, its_gradients, its_future)
        _complete(host, gradients, future)
        return future


def _complete(host: Tensor, gradients: Tensor, future: Future[Tensor]) -> None:
    future.set_result(host if host is gradients else gradients.copy_(host))


def average_by_mpi(
    state: MpiGradients,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> Future[Tensor]:
    """The hook of DDP; `state` is the first argument of `register_comm_hook`."""
    return state.average(bucket)
