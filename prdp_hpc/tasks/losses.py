"""Losses by name, of single entries and of whole fields that are divided among grid ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.transport import all_reduce_sum
from prdp_hpc.errors import InputError, returned
from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.fourier import FourierTransform

Loss = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class FieldLoss(Protocol):
    """A loss of whole fields, e.g. with norms or derivatives of them.

    A user-defined loss with this method is used like the built-in ones. It is called once per task,
    with the task's grid.

    Examples
    --------
    The squared difference of the means over the domain:

    >>> import torch
    >>> from prdp_hpc import Grid
    >>> from prdp_hpc.distributed.transport import all_reduce_sum
    >>> class Means:
    ...     def on(self, grid):
    ...         def loss(prediction, target):
    ...             part = (prediction - target).flatten(2).sum(dim=2) / grid.size
    ...             means = all_reduce_sum(part, grid.comm, grid.partition.group)
    ...             return means.square().mean(dim=1) / grid.comm.size
    ...
    ...         return loss
    >>> loss = Means().on(Grid((8,)))
    >>> loss(torch.ones(3, 1, 8), torch.zeros(3, 1, 8))
    tensor([1., 1., 1.])
    """

    def on(self, grid: Grid) -> Loss:
        """Return the loss of fields on a grid; collective over the grid's ranks.

        Parameters
        ----------
        grid : Grid
            The grid of the fields.

        Returns
        -------
        callable
            `loss(prediction, target)` with two tensors of shape `(b, C, *local_shape)`, collective:
            this rank's part of the loss of each sample, of shape `(b,)`. The sum of the parts over
            the grid's ranks is the loss, whose mean over the samples is minimised. b may be 0.
        """
        ...


class Squared:
    """The squared error of each entry, `(prediction − target)²`."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each entry."""
        return (prediction - target).square()


class Absolute:
    """The absolute error of each entry, `|prediction − target|`."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each entry."""
        return (prediction - target).abs()


class Huber:
    """The Huber loss of each entry: `e²/2` for errors `|e| ≤ δ`, else `δ (|e| − δ/2)`.

    `delta`: δ, in the unit of the fields; default 1.
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each entry."""
        return torch.nn.functional.huber_loss(
            prediction, target, reduction="none", delta=self.delta
        )


class RelativeL2:
    """The relative error of each sample, `‖prediction − target‖ / ‖target‖`.

    The norms are over all channels and the whole grid. A target that is zero everywhere raises
    `InputError` on the ranks of its replica, which ends the job.

    Source: Li et al., Fourier Neural Operator, ICLR 2021.
    """

    def on(self, grid: Grid) -> Loss:
        """Return the loss on a grid, see `FieldLoss`."""

        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            squares = torch.stack([_sums((prediction - target).square()), _sums(target.square())])
            error, scale = all_reduce_sum(squares, grid.comm, grid.partition.group)
            if not bool(scale.all()):
                raise InputError(
                    "training.loss: relative_l2 divides by the norm of the data, and a state of "
                    "the training data is zero everywhere: leave its sample out, or choose "
                    "another loss"
                )
            # The root has no derivative at 0, where the loss has its minimum.
            relative = (error.clamp_min(torch.finfo(error.dtype).tiny) / scale).sqrt()
            part: Tensor = relative / grid.comm.size
            return part

        return loss


class H1:
    """The squared H1 norm of each sample's error e, `mean(e²) + w Σ_d mean((∂_d e)²)`.

    The means are over the channels and the domain, and derivatives are differences of neighbouring
    points, also across the periodic boundary and to the value 0 beyond a Dirichlet boundary; the
    derivative across a Neumann boundary is 0.

    `weight`: w, in units of length squared; default 1.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def on(self, grid: Grid) -> Loss:
        """Return the loss on a grid, see `FieldLoss`."""
        halo = Halo(grid.partition, 1, 1, nearest=True)
        axes = range(grid.dim)
        # The face below this rank's first point belongs to the rank below, if there is one.
        starts = [0 if grid.partition.neighbour(axis, -1) is None else 1 for axis in axes]

        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            error = prediction - target
            total, padded = _sums(error.square()), halo(error)
            for axis in axes:
                line = _inside_but(padded, axis, grid.dim)
                slopes = line.diff(dim=2 + axis) / grid.spacing[axis]
                start = starts[axis]
                own = slopes.narrow(2 + axis, start, slopes.shape[2 + axis] - start)
                total = total + self.weight * _sums(own.square())
            return total / (error.shape[1] * grid.size)

        return loss


class Spectral:
    """The squared error of each sample with the weight `(1 + |k|²)^s` for the wave number k.

    It is `Σ_k (1 + |k|²)^s |ê_k|²` with the Fourier coefficients `ê_k` of the error, k in waves per
    length of the domain, averaged over the channels; with `s = 0` it is the mean squared error, and
    for other s the squared norm of the Sobolev space H^s, up to constants. It needs periodic axes.

    `order`: s; default 1.
    """

    def __init__(self, order: float = 1.0) -> None:
        self.order = order

    def on(self, grid: Grid) -> Loss:
        """Return the loss on a grid, see `FieldLoss`.

        Raises
        ------
        InputError
            If an axis is not periodic.
        """
        if set(grid.boundary) != {"periodic"}:
            raise InputError(
                f"training.loss: spectral needs grid.boundary=periodic, not {grid.boundary}: "
                "choose h1 or another loss"
            )
        transform = FourierTransform(grid)
        squares = sum(np.square(k) for k in transform.frequencies)
        weights = torch.from_numpy(np.asarray((1.0 + squares) ** self.order))

        def weighted(fields: Tensor) -> Tensor:
            """`F⁻¹ W F e` for fields with any leading axes, a symmetric map."""
            rows = fields.reshape(-1, *grid.local_shape)
            if not len(rows):
                return torch.zeros_like(fields)
            found = transform.backward(transform.forward(rows) * weights.to(rows.device))
            return found.to(fields.dtype).reshape(fields.shape)

        symmetric = LinearMap(weighted, weighted)

        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            error = prediction - target
            # By Parseval's theorem.
            return _sums(error * symmetric(error)) / (error.shape[1] * grid.size)

        return loss


def summed(loss: Loss | FieldLoss, grid: Grid) -> Loss:
    """The sum of a loss over this rank's part of a batch, of shape `()`, as a multiple of the mean
    over the samples, channels and points; collective.

    Raises
    ------
    InputError
        If the loss does not have the shape of the prediction or, for a `FieldLoss`, of a batch.
    """
    if not callable(loss) and not isinstance(loss, FieldLoss):
        raise InputError(
            f"training.loss: must be made as a function of prediction and target, or with a method "
            f"on(grid), not as {loss!r}"
        )
    if not isinstance(loss, FieldLoss):
        return lambda prediction, target: _sum_of_entries(loss(prediction, target), prediction)
    of_samples = loss.on(grid)

    def sum_of_samples(prediction: Tensor, target: Tensor) -> Tensor:
        found = of_samples(prediction, target)
        _check_real(found)
        if found.shape != prediction.shape[:1]:
            raise InputError(
                f"training.loss: must return this rank's part of the loss of each sample in the "
                f"shape {tuple(prediction.shape[:1])}, not {tuple(found.shape)}"
            )
        return found.sum() * (prediction.shape[1] * grid.size)

    return sum_of_samples


def _check_real(loss: Any) -> None:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        raise returned("training.loss: the loss", "a tensor of real numbers", loss)


def _sum_of_entries(loss: Tensor, prediction: Tensor) -> Tensor:
    _check_real(loss)
    if loss.shape != prediction.shape:
        raise InputError(
            f"training.loss: must return the loss of each entry in the shape "
            f"{tuple(prediction.shape)} of the prediction, not {tuple(loss.shape)}; for losses "
            'of torch, give reduction="none"'
        )
    return loss.sum()


def _sums(fields: Tensor) -> Tensor:
    """Sums over the channels and this rank's points, of shape `(b,)`."""
    return fields.flatten(1).sum(dim=1)


def _inside_but(padded: Tensor, axis: int, dim: int) -> Tensor:
    """Fields with a halo along one axis only."""
    index = [slice(None) if d == axis else slice(1, -1) for d in range(dim)]
    return padded[(..., *index)]
