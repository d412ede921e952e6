"""Messages and sums among the ranks of a grid, for tensors of any type on the CPU or on GPUs."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.gpu_messages import mpi_reports_gpu_support

GPU_AWARE_VARIABLES = (
    "PRDP_GPU_AWARE_MPI",
    "MPICH_GPU_SUPPORT_ENABLED",
    "MV2_USE_CUDA",
    "OMPI_MCA_opal_cuda_support",
)
"""Set to 1 (or true) if MPI supports GPU memory, to 0 if it does not; the first that is set
counts. Without any, the report of the MPI library is used.
"""

DEVICE_TAGS = 1024
"""The first tag of messages between GPUs."""


@dataclass
class Traffic:
    """Counts of this process since it began: messages, their bytes, and all-reduces."""

    messages: int = 0
    bytes: int = 0
    reductions: int = 0


TRAFFIC = Traffic()


@dataclass(frozen=True)
class Message:
    """A contiguous tensor to send to a rank, or to receive from it; `tag` distinguishes messages
    between the same ranks.
    """

    rank: int
    tag: int
    tensor: Tensor


class Transport(Protocol):
    """The interface for the communication of tensors."""

    def exchange(self, sent: list[Message], received: list[Message]) -> None:
        """Send and receive; returns after the received tensors have been written."""

    def all_reduce(self, partial: Tensor) -> Tensor:
        """Return the sum over all ranks, in a new tensor."""


def transport_for(
    comm: MPI.Comm, group: dist.ProcessGroup | None, device: torch.device
) -> Transport:
    """The transport for a device: torch.distributed for GPUs with a group (NCCL), else MPI, with
    GPU memory if MPI supports it and through the host otherwise.
    """
    if device.type == "cuda" and group is not None:
        return TorchTransport(group)
    return MpiTransport(comm, staged=device.type != "cpu" and not gpu_aware_mpi())


def gpu_aware_mpi() -> bool:
    """Whether MPI may be given GPU memory: the environment (`GPU_AWARE_VARIABLES`) or the MPI
    library itself declares it, and a message of this process to itself from GPU memory arrives.
    """
    value = next((os.environ[name] for name in GPU_AWARE_VARIABLES if name in os.environ), None)
    declared = mpi_reports_gpu_support() if value is None else value.lower() in ("1", "true", "yes")
    return declared and _message_arrives(torch.device("cuda"))


@cache
def _message_arrives(device: torch.device) -> bool:
    """Whether a message from memory of a device arrives in memory of the device unchanged."""
    sent = torch.arange(1.0, 65.0, dtype=torch.float64, device=device)
    received = torch.zeros_like(sent)
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        MPI.COMM_SELF.Sendrecv(as_bytes(sent), 0, 0, as_bytes(received), 0, 0)
        arrived = torch.equal(sent, received)
    except MPI.Exception:
        arrived = False
    if not arrived:
        warnings.warn(
            "MPI is declared to be GPU-aware, but a test message between addresses of GPU memory "
            "did not arrive: messages go through the host. Set PRDP_GPU_AWARE_MPI=0, or load a "
            "GPU-aware MPI",
            stacklevel=2,
        )
    return arrived


class MpiTransport:
    """Point-to-point messages and sums by MPI, on private copies of the communicator.

    `staged`: GPU memory is copied to the host and back.
    """

    def __init__(self, comm: MPI.Comm, staged: bool = False) -> None:
        self._copies, self._staged = private(comm), staged

    def exchange(self, sent: list[Message], received: list[Message]) -> None:
        """Send and receive all messages; collective over the ranks that they name.

        Raises
        ------
        InputError
            If a message has another size than expected.
        """
        comm = self._copies.halos
        host = [self._there(message.tensor, fill=False) for message in received]
        outgoing = [self._there(message.tensor, fill=True) for message in sent]
        # Also before receiving: memory that torch has reused may still be in use by queued kernels.
        _wait_for_device([*host, *outgoing])
        incoming = [
            comm.Irecv([as_bytes(buffer), MPI.BYTE], message.rank, _tag(message))
            for message, buffer in zip(received, host, strict=True)
        ]
        pending = [
            comm.Isend([as_bytes(buffer), MPI.BYTE], message.rank, _tag(message))
            for message, buffer in zip(sent, outgoing, strict=True)
        ]
        # Wait for all before raising an error, because MPI still writes to the others' memory.
        wrong = [
            _wait_for(request, message.rank, as_bytes(buffer).nbytes)
            for request, message, buffer in zip(incoming, received, host, strict=True)
        ]
        MPI.Request.Waitall(pending)
        for error in wrong:
            if error is not None:
                raise error
        for message, buffer in zip(received, host, strict=True):
            if buffer is not message.tensor:
                message.tensor.copy_(buffer)
        _count(sent)

    def all_reduce(self, partial: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors in a new tensor of the same shape; collective."""
        own = partial.detach().contiguous().clone()
        # MPI cannot add numbers of half precision.
        summed = own.float() if own.dtype in (torch.bfloat16, torch.float16) else own
        buffer = self._there(summed, fill=True)
        _wait_for_device([buffer])
        copies = self._copies
        comm = copies.sums if partial.device.type == "cpu" else copies.device_sums
        comm.Allreduce(MPI.IN_PLACE, buffer.numpy() if buffer.device.type == "cpu" else buffer)
        TRAFFIC.reductions += 1
        return buffer if buffer is own else own.copy_(buffer)

    def _there(self, tensor: Tensor, fill: bool) -> Tensor:
        """The tensor that MPI reads or writes."""
        if not self._staged:
            return tensor
        return tensor.cpu() if fill else torch.empty_like(tensor, device="cpu")


class TorchTransport:
    """Messages by torch.distributed: NCCL between GPUs (gloo between CPUs)."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def exchange(self, sent: list[Message], received: list[Message]) -> None:
        # NCCL has no tags, so messages between the same ranks are matched by their order, which is
        # that of `tag` on both sides.
        """Send and receive all messages; collective over the ranks that they name."""
        works: list[tuple[int, Any, Message]] = [
            (message.tag, dist.isend, message) for message in sent
        ]
        works += [(message.tag, dist.irecv, message) for message in received]
        operations = [
            dist.P2POp(
                kind,
                message.tensor,
                dist.get_global_rank(self._group, message.rank),
                self._group,
                tag=tag,
            )
            for tag, kind, message in sorted(works, key=lambda work: work[0])
        ]
        if operations:
            for request in dist.batch_isend_irecv(operations):
                request.wait()
        _count(sent)

    def all_reduce(self, partial: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors in a new tensor of the same shape; collective."""
        own = partial.detach().contiguous().clone()
        dist.all_reduce(own, group=self._group)
        TRAFFIC.reductions += 1
        return own


def all_reduce_sum(
    partial: Tensor, comm: MPI.Comm, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The sum of all ranks' tensors of one shape, replicated on every rank; differentiable to any
    order, collective.

    Each rank has a part of the sum's cotangent, so the adjoint is an all-reduce too.
    """
    if comm.size == 1:
        return partial
    transport = transport_for(comm, group, partial.device)
    return LinearMap(transport.all_reduce, transport.all_reduce)(partial)


def _wait_for(request: MPI.Request, rank: int, wanted: int) -> InputError | None:
    """Wait for a message; an error if it is shorter or longer than expected."""
    status = MPI.Status()
    try:
        request.Wait(status)
        came = status.Get_count(MPI.BYTE)
    except MPI.Exception as error:
        if error.Get_error_class() != MPI.ERR_TRUNCATE:
            raise
        came = wanted + 1
    if came == wanted:
        return None
    return InputError(
        f"{wanted} bytes were expected from rank {rank}, but {'more' if came > wanted else came} "
        "arrived: the fields that ranks exchange must have the same leading axes and the same type"
    )


def _tag(message: Message) -> int:
    """The tag for a device: autograd runs exchanges of the CPU and of a GPU in two threads."""
    return message.tag if message.tensor.device.type == "cpu" else DEVICE_TAGS + message.tag


def as_bytes(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor, for MPI; NumPy does not have all of torch's types."""
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    return flat.numpy() if flat.device.type == "cpu" else flat


def _wait_for_device(buffers: list[Tensor]) -> None:
    """Wait for CUDA's streams, with which MPI does not synchronise."""
    if any(buffer.device.type == "cuda" for buffer in buffers):
        torch.cuda.current_stream().synchronize()


def _count(sent: list[Message]) -> None:
    TRAFFIC.messages += len(sent)
    TRAFFIC.bytes += sum(message.tensor.numel() * message.tensor.element_size() for message in sent)
