"""Amortised inversion: a network that computes coefficient fields directly from measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import share
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.networks.precision import in_precision
from prdp_hpc.tasks.forward import prepare_forward
from prdp_hpc.tasks.inversion.experiments import Observations, PointObservations
from prdp_hpc.tasks.inversion.physics import CoefficientPDE
from prdp_hpc.tasks.inversion.sides import uncovered_sensor
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.task import AfterStep, Parts, Stopwatch
from prdp_hpc.tasks.trained_network import TrainedNetwork


@dataclass(frozen=True)
class FieldSamples:
    """The same E experiments on N fields.

    Attributes
    ----------
    data : measurements, `(N, E, *observe.shape)`.
    fields : this rank's part of the true m of each sample, `(N, *local_shape)`.
    """

    data: Tensor
    fields: Tensor


class AmortisedInversion(TrainedNetwork):
    """Train a network that maps the measurements of E experiments to the field `m = ln κ`.

    Training does not use the true fields: the loss of a sample is `½ Σ ‖O u − d‖² / σ² / n` over
    its n measurements, where u solves the PDE with `κ = exp(net(d))` at the solver's level. The
    input of the network consists of E fields, in units of the root mean square of the training
    data: whole solutions unchanged, values of sensors distributed to the neighbouring grid points.
    Validation needs no solve: `error` is the mean over samples of `‖m − m*‖² / ‖m*‖²`. Batches are
    distributed over the replicas, fields over the grid ranks.

    Parameters
    ----------
    physics : the PDE, see `CoefficientPDE`, with one coefficient field per sample:
        `(M, *local_shape)` with sources `(M, E, *local_shape)`.
    network : from `(B, E, …)` to `(B, 1, …)`, on whole fields or on parts, see `Network`.
    sources : sources of the E experiments, `(E, *local_shape)`.
    observe : the measured quantities of each solution.
    noise : standard deviation σ of the measurements.
    train, validation : the samples.
    mesh : the ranks.
    recipe : optimiser, learning rate and batch size; loss and precision are not used, and the
        network computes in float64.

    Raises
    ------
    InputError
        If the true m of a validation sample is zero everywhere, or the network has a wrong output.
    """

    def __init__(
        self,
        physics: CoefficientPDE,
        network: nn.Module,
        sources: Tensor,
        observe: Observations,
        noise: float,
        train: FieldSamples,
        validation: FieldSamples,
        mesh: ProcessMesh,
        recipe: Recipe | None = None,
    ) -> None:
        recipe = recipe or Recipe()
        self.mesh, self.grid, self.solver = mesh, physics.grid, physics.solver
        self.stopwatch = Stopwatch(physics.solver)
        self._physics, self._sources, self._observe, self._noise = physics, sources, observe, noise
        self._train, self._validation = train, validation
        self._scale = self._root_mean_square(train.data if len(train.data) else validation.data)
        self.network = in_precision(network, torch.float64)
        prepare_forward(self.network, recipe)
        self._parallel = mesh.data_parallel(self.network, self.grid)
        self._numbers = len(sources) * self._count()
        self._parallel.settle(self._images(validation.data[:1]))
        self._squares = self._field_squares(validation.fields)
        raise_together(mesh.world, self._error())
        self._prepare_training([len(sources), 1], len(train.data), recipe)

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> AmortisedInversion:
        """Create the inversion of a config; collective."""
        from prdp_hpc.tasks.inversion.from_config import amortised_settings

        return cls(**amortised_settings(parts))

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """Train for one pass over the training samples; return the mean loss of the batches."""
        losses = list(earlier)
        batches = self._sampler.batches(epoch)
        with self.stopwatch.part("network"):
            for batch in batches[len(losses) :]:
                losses.append(self._optimise(partial(self._backward, batch), float))
                if after_step is not None and len(losses) < len(batches):
                    after_step(lambda: losses)
        return float(np.mean(losses))

    def gradient(self) -> Tensor:
        """Compute the gradient of the first batch's loss with respect to all parameters, as one
        vector; collective, equal on all ranks.
        """
        with self._measuring(0):
            self._backward(self._sampler.batches(1)[0])
            return self._parameter_gradient()

    def validate(self) -> dict[str, Any]:
        """Compute the mean normalised squared error of the fields; collective.

        The samples are divided among the replicas.
        """
        count, replicas = len(self._squares), self.mesh.replicas
        mine = share(np.arange(count), self.mesh.replica, replicas)
        found = self._recovered(torch.from_numpy(mine))
        squares = self._field_squares(found - self._validation.fields[torch.from_numpy(mine)])
        total = self.mesh.replica_comm.allreduce(float((squares / self._squares[mine]).sum()))
        return {"error": total / count}

    def recovered(self) -> tuple[Tensor, Tensor]:
        """Compute this rank's part of the m of each validation sample; collective.

        Returns
        -------
        fields, truth : Tensor
            The computed and the true m, each of shape `(N, *local_shape)`.
        """
        return self._recovered(torch.arange(len(self._squares))), self._validation.fields

    def _recovered(self, samples: Tensor) -> Tensor:
        """This rank's part of the computed m of some validation samples; collective over the grid
        ranks.
        """
        if not len(samples) and not self._parallel.sharded:
            return self._validation.fields[:0]
        self.network.eval()
        self._parallel.share_buffers()
        with torch.no_grad(), self._validated_weights():
            found = self._fields(self._validation.data[samples])
        self.network.train()
        return found

    def close(self) -> None:
        """Do nothing, since no file is open."""

    def _backward(self, batch: NDArray[np.int64]) -> float:
        """Set the gradients of the parameters for a batch; return the loss, equal on all ranks."""
        mine = torch.from_numpy(share(batch, self.mesh.replica, self.mesh.replicas))
        self._optimiser.zero_grad(set_to_none=True)
        data = self._train.data[mine]
        m = self._fields(data)
        misfit = self._misfit(m, data) if len(mine) else m.sum()
        part = misfit / (len(batch) * self._numbers)
        (self._parallel.loss_weight * part).backward()
        counts = self._observe.local or self.mesh.grid_comm.rank == 0
        return self.mesh.sum(part.item() if counts else 0.0)

    def _misfit(self, m: Tensor, data: Tensor) -> Tensor:
        """`½ Σ ‖O u − d‖² / σ²` over this rank's part of a batch."""
        sources = self._sources.expand(len(m), *self._sources.shape)
        u = self.stopwatch.physics(lambda kappa: self._physics(kappa, sources), m.exp())
        return 0.5 * ((self._observe(u) - data) / self._noise).square().sum()

    def _fields(self, data: Tensor) -> Tensor:
        """This rank's part of the m of each sample, `(b, *local_shape)`; collective."""
        found: Tensor = self._parallel(self._images(data))
        return found[:, 0]

    def _images(self, data: Tensor) -> Tensor:
        """The input of the network, `(b, E, *local_shape)`."""
        observe, scaled = self._observe, data / self._scale
        if isinstance(observe, PointObservations):
            return observe.positions.sources(scaled) * float(np.prod(self.grid.spacing))
        return scaled

    def _count(self) -> int:
        """Number of measurements of one experiment; collective."""
        mine = int(np.prod(self._observe.shape))
        comm = self.mesh.grid_comm
        return int(comm.allreduce(mine, op=MPI.SUM)) if self._observe.local else mine

    def _root_mean_square(self, data: Tensor) -> float:
        sums = np.array([data.square().sum().item(), float(data.numel())])
        if self._observe.local:
            self.mesh.grid_comm.Allreduce(MPI.IN_PLACE, sums)
        return float(np.sqrt(sums[0] / sums[1])) or 1.0

    def _field_squares(self, fields: Tensor) -> NDArray[np.float64]:
        """`Σ m²` of each sample over the whole grid; collective."""
        squares: NDArray[np.float64] = fields.square().flatten(1).sum(dim=1).numpy().copy()
        self.mesh.grid_comm.Allreduce(MPI.IN_PLACE, squares)
        return squares

    def _error(self) -> InputError | None:
        if not self._squares.all():
            return InputError(
                f"validation: the true m of sample {int(np.argmin(self._squares))} is zero "
                "everywhere, and errors are measured relative to it: leave that sample out"
            )
        return uncovered_sensor(self._physics, self._observe, {})
