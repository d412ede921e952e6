"""The unknown of an inversion: the logarithm of the coefficient, as a field or by a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor, nn

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.network_checks import check_network
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.networks.precision import in_precision
from prdp_hpc.number_checks import check_count, check_number


class Unknown(Protocol):
    """Interface of m, the natural logarithm of the coefficient, as a function of parameters.

    Attributes
    ----------
    parameters : the parameters to optimise; leaf tensors on this rank.
    distributed : whether the parameters are distributed over the grid ranks (True) or replicated on
        all ranks (False).
    """

    parameters: list[nn.Parameter]
    distributed: bool

    def __call__(self) -> Tensor:
        """Compute this rank's part of m, `local_shape`, float64; differentiable, collective."""
        ...

    def reduce(self) -> None:
        """Sum the gradients of the ranks' parts of the loss over all ranks that share parameters;
        collective.
        """
        ...

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Compute the inner product of two vectors of parameters, given by flat tensors of this
        rank; collective, equal on all ranks.
        """
        ...

    def whole(self, part: Tensor) -> Tensor:
        """Gather a tensor of the parameters' shape for a checkpoint; collective."""
        ...

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's part of a gathered tensor."""
        ...


class FieldUnknown:
    """The unknown m with one value per grid point, distributed over the grid ranks.

    Calling it returns this rank's part of m, of shape `local_shape`.

    Parameters
    ----------
    grid : Grid
        The grid of m.
    mesh : ProcessMesh
        The ranks; m is replicated on all replicas.
    start : float or Tensor, default 0.0
        Initial m: a number, or this rank's part of a field of shape `local_shape`.

    Attributes
    ----------
    parameters : list of torch.nn.Parameter
        This rank's part of m.
    distributed : bool
        True: each grid rank has a part of the parameters.

    Raises
    ------
    InputError
        For a start of another shape, or that is not finite.

    Examples
    --------
    >>> from prdp_hpc import FieldUnknown, Grid, ProcessMesh
    >>> mesh = ProcessMesh.from_world()
    >>> unknown = FieldUnknown(Grid((3,), comm=mesh.grid_comm), mesh, start=1.0)
    >>> unknown().tolist()
    [1.0, 1.0, 1.0]
    >>> mesh.close()
    """

    distributed = True

    def __init__(self, grid: Grid, mesh: ProcessMesh, start: float | Tensor = 0.0) -> None:
        self._grid, self._mesh = grid, mesh
        if not isinstance(start, Tensor):
            check_number("start", start)
        raise_together(mesh.grid_comm, _start_error(start, grid))
        field = torch.as_tensor(start, dtype=torch.float64).expand(grid.local_shape)
        self.parameters = [nn.Parameter(field.clone())]

    def __call__(self) -> Tensor:
        """Return the parameter."""
        return self.parameters[0]

    def reduce(self) -> None:
        """Sum the gradients over the replicas; collective."""
        _reduce(self.parameters, self._mesh.replica_comm)

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Compute an inner product over the grid ranks; collective.

        Parameters
        ----------
        one, other : Tensor
            This rank's parts of two vectors, of shape `(parameters,)`.

        Returns
        -------
        float
            The inner product, equal on all ranks.
        """
        return float(self._mesh.grid_comm.allreduce(torch.dot(one, other).item(), op=MPI.SUM))

    def whole(self, part: Tensor) -> Tensor:
        """Gather a field from the grid ranks; collective.

        Parameters
        ----------
        part : Tensor
            This rank's part of the field, with as many entries as `local_shape`.

        Returns
        -------
        Tensor
            The whole field, of the shape of the grid.
        """
        found: Tensor = self._grid.gather(part.reshape(self._grid.local_shape))
        return found

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's part of a whole field.

        Parameters
        ----------
        whole : Tensor
            The field, of the shape of the grid.

        Returns
        -------
        Tensor
            The part, of shape `local_shape`.
        """
        # Fused optimisers need contiguous memory.
        found: Tensor = whole[self._grid.local_slices].contiguous()
        return found


def _start_error(start: float | Tensor, grid: Grid) -> InputError | None:
    """The error for an initial field of another shape, or with NaN or infinity, on this rank."""
    field = torch.as_tensor(start)
    if tuple(field.shape) not in ((), tuple(grid.local_shape)):
        return InputError(
            f"start must be a number or this rank's part of a field, {grid.local_shape}, not of "
            f"the shape {tuple(field.shape)}"
        )
    return None if bool(field.isfinite().all()) else InputError("start has NaN or infinity")


class NetworkUnknown:
    """The unknown m as a network of the coordinates, with replicated parameters.

    Calling it returns this rank's part of m, of shape `local_shape`.

    Parameters
    ----------
    network : torch.nn.Module
        Network from coordinates of shape `(n, dim)`, each scaled to 0 … 1, to `(n, 1)`; it is
        converted to float64. The initial parameters must be equal on all ranks, e.g. after
        `torch.manual_seed`.
    grid : Grid
        The grid of m.
    mesh : ProcessMesh
        The ranks.

    Attributes
    ----------
    parameters : list of torch.nn.Parameter
        The parameters of the network.
    distributed : bool
        False: the parameters are replicated on all ranks.

    Raises
    ------
    InputError
        For an object that is not a network, or one with lazy layers that have no sizes yet.

    Examples
    --------
    >>> from prdp_hpc import CoordinateNetwork, Grid, NetworkUnknown, ProcessMesh
    >>> mesh = ProcessMesh.from_world()
    >>> unknown = NetworkUnknown(CoordinateNetwork(1), Grid((3,), comm=mesh.grid_comm), mesh)
    >>> unknown().tolist()
    [0.0, 0.0, 0.0]
    >>> mesh.close()
    """

    distributed = False

    def __init__(self, network: nn.Module, grid: Grid, mesh: ProcessMesh) -> None:
        check_network(network)
        self.network = in_precision(network, torch.float64)
        self._shape, self._mesh = grid.local_shape, mesh
        axes = zip(grid.coordinates(), grid.length, strict=True)
        self._coordinates = torch.stack([(x / a).reshape(-1) for x, a in axes], dim=-1)
        self.parameters = list(self.network.parameters())

    def __call__(self) -> Tensor:
        """Evaluate the network at this rank's points."""
        found: Tensor = self.network(self._coordinates).reshape(self._shape)
        return found

    def reduce(self) -> None:
        """Sum the gradients over all ranks, each of which has that of its points; collective."""
        _reduce(self.parameters, self._mesh.world)

    def dot(self, one: Tensor, other: Tensor) -> float:
        """Compute an inner product; needs no communication.

        Parameters
        ----------
        one, other : Tensor
            Two vectors, of shape `(parameters,)`.

        Returns
        -------
        float
            The inner product.
        """
        return torch.dot(one, other).item()

    def whole(self, part: Tensor) -> Tensor:
        """Return the tensor unchanged, since parameters are replicated.

        Parameters
        ----------
        part : Tensor
            A tensor of the shape of a parameter.

        Returns
        -------
        Tensor
            The same tensor, of the same shape.
        """
        return part

    def part(self, whole: Tensor) -> Tensor:
        """Return the tensor unchanged, since parameters are replicated.

        Parameters
        ----------
        whole : Tensor
            A tensor of the shape of a parameter.

        Returns
        -------
        Tensor
            The same tensor, of the same shape.
        """
        return whole


class CoordinateNetwork(nn.Module):
    """A multilayer perceptron on Fourier features of the coordinates.

    The layers `Linear → tanh → … → Linear` are applied to `[sin(2π B x), cos(2π B x)]`, where B is
    a random matrix that is not trained. The initial output is 0.

    Parameters
    ----------
    dim : int
        Number of coordinates of a point.
    features : int, default 64
        Number of rows of B.
    bandwidth : float, default 2.0
        Standard deviation of the normal distribution of B, in waves per length of the domain.
    hidden : sequence of int, default (64, 64)
        Widths of the hidden layers.
    seed : int, default 1
        Random seed of B and of the initial parameters.

    Raises
    ------
    InputError
        For a number of coordinates, features or a width below 1, or a bandwidth that is not
        positive.

    References
    ----------
    Tancik et al.: Fourier features let networks learn high frequency functions, 2020.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import CoordinateNetwork
    >>> network = CoordinateNetwork(dim=2, features=16, hidden=(32,))
    >>> network(torch.rand(5, 2)).shape
    torch.Size([5, 1])
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
        check_count("dim", dim)
        check_count("features", features)
        check_number("bandwidth", bandwidth, above=0)
        for width in hidden:
            check_count("an entry of hidden", width)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            waves = torch.randn(dim, features, dtype=torch.float64) * bandwidth
            layers: list[nn.Module] = []
            width = 2 * features
            for wide in hidden:
                layers += [nn.Linear(width, wide), nn.Tanh()]
                width = wide
            last = nn.Linear(width, 1)
        # The initial output is 0 everywhere.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("waves", waves)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        coordinates : Tensor
            Points of shape `(n, dim)`, each coordinate scaled to 0 … 1.

        Returns
        -------
        Tensor
            Values of shape `(n, 1)`.
        """
        angles = 2 * torch.pi * coordinates @ self.waves.to(coordinates.dtype)  # type: ignore[operator]
        found: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return found


def _reduce(parameters: list[nn.Parameter], comm: MPI.Comm) -> None:
    """Sum all gradients in one all-reduce, whose rounding is the same on all ranks."""
    if comm.size == 1:
        return
    gradients: list[Any] = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    total = np.empty(flat.numel())
    comm.Allreduce(flat.numpy(), total, op=MPI.SUM)
    parts = torch.from_numpy(total).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
