"""One network on replicas × grid ranks, with gradients of the whole loss."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prdp_hpc.distributed.mpi_gradients import MpiGradients, average_by_mpi
from prdp_hpc.distributed.sharding import explained, shard
from prdp_hpc.errors import returned


class Fields(Protocol):
    """The part of a grid's interface that a network needs."""

    def gather(self, local: Tensor) -> Tensor:
        """Return whole fields from the ranks' parts; collective."""
        ...

    def scatter(self, whole: Tensor) -> Tensor:
        """Return this rank's part of whole fields."""
        ...


def on_parts(network: object) -> bool:
    """Whether a network maps each rank's part of a field, so that gradients are parts of a sum."""
    return bool(getattr(network, "works_on_parts", False))


class DataParallel(nn.Module):
    """A network that is trained on all ranks of a mesh; made by `ProcessMesh.data_parallel`.

    It maps this rank's part of fields, `(B, C, *local_shape)`, to this rank's part of the result,
    `(B, C', *local_shape)`. A network with `works_on_parts = True` receives the part; any other
    network receives whole fields, gathered from the grid ranks, and its result is scattered.
    Collective over the grid ranks of a replica.

    Gradients are averaged over `loss_weight` ranks: all ranks for a network on parts, where each
    rank has a part of the gradient, or otherwise the ranks of the other replicas. The result is the
    gradient of the loss of the whole batch if each rank calls

        (loss_weight * part).backward()

    with its part of that loss: the sum over its samples and its points, divided by the number of
    samples and points of the whole batch. `mesh.sum(part)` is the loss itself.

    If the network is sharded, each rank has a part of every parameter, see
    `prdp_hpc.distributed.sharding`. Then each call is collective over all ranks of the mesh, so all
    ranks must call it equally often, if necessary with an empty batch, also without gradients.

    Attributes
    ----------
    network : the wrapped module with the parameters; save its `state_dict()`.
    loss_weight : see above; 1 on one rank.
    transport : what averages the gradients: "mpi", "nccl" or "gloo"; "none" on one rank.
    sharded : whether the parameters are divided among the ranks.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        loss_weight: int,
        group: dist.ProcessGroup | None,
        grid: Fields | None = None,
        autocast: torch.dtype | None = None,
        mpi: MpiGradients | None = None,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.loss_weight = network, loss_weight
        self._device, self._autocast, self.sharded = device, autocast, sharded
        # The grid, if whole fields have to be gathered.
        self._grid = None if on_parts(network) else grid
        # Not registered as a submodule, because its parameters are those of the network.
        self._reducer: list[nn.Module] = []
        self.transport = "none"
        if sharded:
            shard(network, device)
            self.transport = dist.get_backend()
        elif loss_weight > 1 and any(p.requires_grad for p in network.parameters()):
            devices = [device] if device.type == "cuda" else None
            reducer = DistributedDataParallel(
                network, devices, process_group=group, gradient_as_bucket_view=True
            )
            self.transport = dist.get_backend(group)
            if mpi is not None:
                reducer.register_comm_hook(mpi, average_by_mpi)
                self.transport = "mpi"
            self._reducer.append(reducer)

    def forward(self, fields: Tensor) -> Tensor:
        """Apply the network to this rank's part of the fields."""
        # Without gradients there is nothing to reduce.
        reduces = bool(self._reducer) and torch.is_grad_enabled()
        network: Any = self._reducer[0] if reduces else self.network
        if self.sharded:
            network = self._sharded_network
        # Entering autocast takes as long as a layer of a small network, also if it is disabled.
        with (
            torch.autocast(self._device.type, self._autocast)
            if self._autocast is not None
            else nullcontext()
        ):
            given = fields if self._grid is None else self._grid.gather(fields)
            output = _applied(network, given, self.network).to(fields.dtype)
        return output if self._grid is None else self._grid.scatter(output)

    def share_buffers(self) -> None:
        """Set the buffers of the network, e.g. running statistics, to those of rank 0; collective.

        Each forward pass of training does so, and each one of a sharded network.
        """
        if self.sharded or self._reducer:
            for buffer in self.network.buffers():
                # `data`, because autograd may have stored the buffer for a backward pass.
                dist.broadcast(buffer.data, 0)

    def _sharded_network(self, fields: Tensor) -> Tensor:
        self.share_buffers()
        try:
            output: Tensor = self.network(fields)
        except RuntimeError as error:
            raise explained(error, self.network) from error
        return output

    def no_sync(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are accumulated without being averaged over ranks.

        The next backward pass outside of it averages the accumulated gradients. Those of a sharded
        network are averaged at once, because no rank is to hold all of them.
        """
        found: AbstractContextManager[None] = (
            self._reducer[0].no_sync() if self._reducer else nullcontext()  # type: ignore[operator]
        )
        return found

    def settle(self, example: Tensor) -> None:
        """Determine DDP's buckets by a step on fields of this shape, whose gradients are discarded;
        collective.

        Otherwise DDP determines them after the first step. The buckets determine the order in which
        ranks are summed, so the rounding errors of the first gradients of a resumed run would
        differ from those of an uninterrupted run. Buffers, e.g. running statistics, do not change.
        """
        if self._reducer:
            buffers = [buffer.clone() for buffer in self.network.buffers()]
            self(torch.zeros_like(example)).sum().backward()
            self.network.zero_grad(set_to_none=True)
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.data.copy_(before)


def _applied(network: Any, fields: Tensor, named: nn.Module) -> Tensor:
    """The output for a batch, which may be empty: many layers, e.g. FFTs and reshapes, refuse that,
    so one sample is computed and dropped, with a gradient of zero. `named`: whose class is named in
    the error for another output than a real tensor.
    """
    given = fields
    if not len(fields):
        # Numbers that differ, because e.g. the derivative of a norm is not finite at 0.
        shape = (1, *fields.shape[1:])
        sample = torch.linspace(-1.0, 1.0, math.prod(shape), dtype=fields.dtype)
        given = sample.view(shape).to(fields.device)
    output: Tensor = network(given)
    if not isinstance(output, Tensor) or output.is_complex():
        name = f"network.kind: {type(named).__name__}(fields)"
        raise returned(name, "a tensor of real numbers", output)
    return output if len(fields) else output[:0]
