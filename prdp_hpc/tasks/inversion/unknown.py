"""What is searched for: the logarithm of the coefficient, as a field or as a network's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor, nn

from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.grid.structured import Grid


class Unknown(Protocol):
    """`m`, the natural logarithm of the coefficient, as a function of parameters.

    Attributes
    ----------
    parameters : what is optimised; leaf tensors on this rank.
    distributed : whether each grid rank has its own part of them; else all ranks have the same.
    """

    parameters: list[nn.Parameter]
    distributed: bool

    def __call__(self) -> Tensor:
        """This rank's part of m, `local_shape`, float64; differentiable, collective."""
        ...

    def reduce(self) -> None:
        """Sum the gradients, to which each rank has added those of its part of the loss, over the
        ranks that share the parameters; collective.
        """
        ...

    def dot(self, one: Tensor, other: Tensor) -> float:
        """The inner product of two vectors of parameters, each flat on this rank; collective, equal
        on all ranks.
        """
        ...

    def whole(self, part: Tensor) -> Tensor:
        """The whole of a tensor of the parameters' shape, for a checkpoint; collective."""
        ...

    def part(self, whole: Tensor) -> Tensor:
        """This rank's part of it."""
        ...


class FieldUnknown:
    """One number per point, divided among the grid ranks.

    Parameters
    ----------
    grid : where m lives.
    mesh : the ranks; every replica has the same field.
    start : where the search starts: a number, or this rank's part of a field.
    """

    distributed = True

    def __init__(self, grid: Grid, mesh: ProcessMesh, start: float | Tensor = 0.0) -> None:
        self._grid, self._mesh = grid, mesh
        field = torch.as_tensor(start, dtype=torch.float64).expand(grid.local_shape)
        self.parameters = [nn.Parameter(field.clone())]

    def __call__(self) -> Tensor:
        """The parameter itself."""
        return self.parameters[0]

    def reduce(self) -> None:
        """Over the replicas."""
        _reduce(self.parameters, self._mesh.replica_comm)

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Over the grid ranks."""
        return float(self._mesh.grid_comm.allreduce(torch.dot(one, other).item(), op=MPI.SUM))

    def whole(self, part: Tensor) -> Tensor:
        """The field of all grid ranks."""
        found: Tensor = self._grid.gather(part.reshape(self._grid.local_shape))
        return found

    def part(self, whole: Tensor) -> Tensor:
        """This rank's part of a whole field."""
        # Fused optimisers take the numbers in the order of memory.
        found: Tensor = whole[self._grid.local_slices].contiguous()
        return found


class NetworkUnknown:
    """m at each point by a network of its coordinates, with the same parameters on all ranks.

    Parameters
    ----------
    network : from `(n, dim)` coordinates, each scaled to 0 … 1, to `(n, 1)`; it is converted to
        float64. The same parameters on all ranks, as after `torch.manual_seed`.
    grid : where m lives.
    mesh : the ranks.
    """

    distributed = False

    def __init__(self, network: nn.Module, grid: Grid, mesh: ProcessMesh) -> None:
        self.network = network.to(torch.float64)
        self._shape, self._mesh = grid.local_shape, mesh
        axes = zip(grid.coordinates(), grid.length, strict=True)
        self._coordinates = torch.stack([(x / a).reshape(-1) for x, a in axes], dim=-1)
        self.parameters = list(self.network.parameters())

    def __call__(self) -> Tensor:
        """The network at this rank's points."""
        found: Tensor = self.network(self._coordinates).reshape(self._shape)
        return found

    def reduce(self) -> None:
        """Over all ranks: each has its points' part."""
        _reduce(self.parameters, self._mesh.world)

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Without communication."""
        return torch.dot(one, other).item()

    def whole(self, part: Tensor) -> Tensor:
        """The tensor itself."""
        return part

    def part(self, whole: Tensor) -> Tensor:
        """The tensor itself."""
        return whole


class CoordinateNetwork(nn.Module):
    """A perceptron on Fourier features of the coordinates: `Linear → tanh → … → Linear` on
    `[sin(2π B x), cos(2π B x)]`.

    Parameters
    ----------
    dim : coordinates of a point.
    features : rows of B, which are drawn once from a normal distribution of standard deviation
        `bandwidth` (waves per length of the domain); default 64.
    hidden : widths of the hidden layers; default (64, 64).
    seed : of B and of the initial parameters.

    Source: Tancik et al., Fourier features let networks learn high frequency functions, 2020.
    """

    def __init__(
        self,
        dim: int,
        features: int = 64,
        bandwidth: float = 2.0,
        hidden: Sequence[int] = (64, 64),
        seed: int = 1,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            waves = torch.randn(dim, features, dtype=torch.float64) * bandwidth
            layers: list[nn.Module] = []
            width = 2 * features
            for wide in hidden:
                layers += [nn.Linear(width, wide), nn.Tanh()]
                width = wide
            last = nn.Linear(width, 1)
        # It starts at 0 everywhere.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("waves", waves)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, coordinates: Tensor) -> Tensor:
        angles = 2 * torch.pi * coordinates @ self.waves.to(coordinates.dtype)  # type: ignore[operator]
        found: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return found


def _reduce(parameters: list[nn.Parameter], comm: MPI.Comm) -> None:
    """All gradients in one sum, which has the same rounding on all ranks."""
    if comm.size == 1:
        return
    gradients: list[Any] = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    total = np.empty(flat.numel())
    comm.Allreduce(flat.numpy(), total, op=MPI.SUM)
    parts = torch.from_numpy(total).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
