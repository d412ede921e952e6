"""Validation and test of tasks that train a network on trajectories, in batches of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import DataError
from prdp_hpc.data.samples import Ids, Samples
from prdp_hpc.data.windowed import dataset_name
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.data_parallel import DataParallel
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError, returned
from prdp_hpc.tasks.task_data import TaskData


class Validation:
    """Base of `SupervisedTask`: the errors of its samples for validation and test."""

    mesh: ProcessMesh
    network: nn.Module
    _parallel: DataParallel
    _data: TaskData
    network_on: Callable[[Tensor], Tensor]
    _validated_weights: Callable[[], AbstractContextManager[None]]
    _all_validation: Tensor | None = None

    @property
    def validation(self) -> Tensor:
        """All validation samples.

        They are read into memory at the first access, which is collective.

        Returns
        -------
        Tensor
            States of shape `(samples, steps + 1, C, *local_shape)`.
        """
        if self._all_validation is None:
            samples = self._data.validation
            self._all_validation = samples.batch(np.arange(len(samples.windows)))
        return self._all_validation

    def validate(self) -> dict[str, Any]:
        """Compute the means of the errors of the validation samples; collective.

        The samples are divided among the replicas, and evaluated in batches of bounded memory. The
        network's buffers, e.g. running statistics, are set to those of rank 0.

        Returns
        -------
        dict
            The means of the entries of `sample_errors`, equal on all ranks. A user-defined task
            that overrides this method returns the validation error as `error`, and further entries
            of the metrics.
        """
        sums: dict[str, float] = {}
        self._parallel.share_buffers()
        with self.evaluating():
            for errors in self._errors_in_batches(self._data.validation):
                for name, found in errors.items():
                    sums[name] = sums.get(name, 0.0) + float(found.sum())
        total = np.array(list(sums.values()))
        self.mesh.replica_comm.Allreduce(MPI.IN_PLACE, total)
        means = (total / len(self._data.validation.windows)).tolist()
        return self.mesh.world.bcast(dict(zip(sums, means, strict=True)))  # type: ignore[no-any-return]

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """Compute the errors of each sample; collective.

        It is called without gradients and with the network in evaluation mode. A user-defined task
        has this method, or overrides `validate`, or both; with this method it is also evaluated at
        the end of a run, see `test`.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, steps + 1, C, *local_shape)`; b may be 0.

        Returns
        -------
        dict
            Arrays of shape `(b,)` by name, with the error for the schedule as `error`.
        """
        raise NotImplementedError

    def test(self) -> dict[str, Any] | None:
        """Compute the errors of each sample of the group "test"; collective, equal on all ranks.

        If the data have no group "test", those of "validation" are computed.

        Returns
        -------
        dict or None
            The name of the group as `group`, and `samples`: lists with one error per sample, by
            name. None for a task without `sample_errors`.
        """
        if not self._has_sample_errors:
            return None
        group = self._data.test or self._data.validation
        mine: dict[str, list[float]] = {}
        self._parallel.share_buffers()
        with self.evaluating():
            for errors in self._errors_in_batches(group):
                for name, found in errors.items():
                    mine.setdefault(name, []).extend(found.tolist())
        whole = self.mesh.replica_comm.allgather(mine)
        samples = {key: [error for part in whole for error in part[key]] for key in whole[0]}
        return self.mesh.world.bcast({"group": group.reader.group, "samples": samples})  # type: ignore[no-any-return]

    def _errors_after(
        self, trajectories: Tensor, steps: Sequence[int]
    ) -> dict[str, NDArray[np.float64]]:
        """The `step_errors` of a prediction after these steps, and that of the last one as `error`;
        collective.
        """
        errors: dict[str, NDArray[np.float64]] = {}
        state = trajectories[:, 0]
        for step in range(1, steps[-1] + 1):
            state = self.advance(state)
            if step in steps:
                before, truth = trajectories[:, step - 1], trajectories[:, step]
                errors |= self.step_errors(step, state, truth, before)
        return {"error": errors[f"error_{steps[-1]}"], **errors}

    def zero_reference(self, trajectories: Tensor) -> tuple[int, str] | None:
        """Find a sample whose errors are relative to a state that is zero everywhere.

        Collective over the grid ranks, optional. Such samples are rejected before training.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, steps + 1, C, *local_shape)`; b may be 0.

        Returns
        -------
        tuple or None
            The index of the sample and the place in it for the message, e.g. "step 2"; by default
            None, for errors that are not relative.
        """
        return None

    def advance(self, state: Tensor) -> Tensor:
        """Predict the next state with the trained network, as validation does; collective.

        This method is optional. It is called without gradients and with the network in evaluation
        mode. A user-defined task with this method is supported by `prdp_hpc.predict` and has a
        figure of its fields.

        Parameters
        ----------
        state : Tensor
            This rank's part of the states, of shape `(b, C, *local_shape)`; b may be 0.

        Returns
        -------
        Tensor
            The next states, of the same shape.
        """
        raise NotImplementedError

    @property
    def predicts(self) -> bool:
        """Whether the task has the method `advance`."""
        return type(self).advance is not Validation.advance

    def step_errors(
        self, step: int, prediction: Tensor, truth: Tensor, before: Tensor
    ) -> dict[str, NDArray[np.float64]]:
        """Compute the normalised squared errors of predicted states; collective.

        The default is `‖û^s − u^s‖² / ‖u^s‖²`.

        Parameters
        ----------
        step : int
            Number s of the time step, from 1.
        prediction, truth : Tensor
            The predicted and the true state after this step, `(b, C, *local_shape)`.
        before : Tensor
            The true state before this step, of the same shape.

        Returns
        -------
        dict
            Arrays of shape `(b,)`: `error_<step>`, and possibly further ones.
        """
        difference = self.squares(prediction - truth).sum(axis=1)
        return {f"error_{step}": relative(difference, self.squares(truth).sum(axis=1))}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Return a context without gradients, with the network in evaluation mode.

        The network's weights are their averages if `recipe.ema` is given.
        """
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad(), self._validated_weights():
                yield
        finally:
            self.network.train(training)

    def squares(self, fields: Tensor) -> NDArray[np.float64]:
        """Compute the sum of squares over the whole grid; collective.

        Parameters
        ----------
        fields : Tensor
            This rank's part of the fields, of shape `(B, C, *local_shape)`.

        Returns
        -------
        numpy array
            Sums of shape `(B, C)`, float64.
        """
        sums: NDArray[np.float64] = (
            fields.to(torch.float64).square().flatten(2).sum(2).cpu().numpy()
        )
        self.mesh.grid_comm.Allreduce(MPI.IN_PLACE, sums)
        return sums

    def _errors_in_batches(self, group: Samples) -> Iterator[dict[str, NDArray[np.float64]]]:
        """The errors of this replica's share of a group, batch by batch; collective."""
        for ids, batch in self._data.evaluated(group):
            yield call_together(self.mesh.world, partial(self._checked_errors, group, ids, batch))

    def _checked_errors(
        self, group: Samples, ids: Ids, batch: Tensor
    ) -> dict[str, NDArray[np.float64]]:
        if group.streamed:
            self._check_references(group, ids, batch)
        name = f"{type(self).__name__}.sample_errors(trajectories)"
        return checked_errors(name, self.sample_errors(batch), len(batch), "error")

    def _check_references(self, group: Samples, ids: Ids, batch: Tensor) -> None:
        zero = self.zero_reference(batch)
        if zero is not None:
            trajectory, start = group.windows.place(ids[zero[0]])
            raise DataError(
                f"{dataset_name(self._data.data)}: {group.reader.group}/trajectories is zero "
                f"everywhere in sample {trajectory}, "
                f"{f'after state {start}, ' if start else ''}{zero[1]}, "
                "and errors are measured relative to it: leave that sample out"
            )

    def _check_groups(self) -> None:
        """Check that the errors of all samples in memory can be computed; collective."""
        for group in (self._data.validation, self._data.test):
            if group is not None and not group.streamed:
                for ids, batch in self._data.evaluated(group):
                    check = partial(self._check_references, group, ids, batch)
                    call_together(self.mesh.world, check)

    @property
    def _has_sample_errors(self) -> bool:
        return type(self).sample_errors is not Validation.sample_errors

    def _method_error(self) -> InputError | None:
        if self._has_sample_errors or type(self).validate is not Validation.validate:
            return None
        return InputError(
            f"task: {type(self).__name__} has neither a method sample_errors(trajectories) nor "
            "validate(): add one of them, see SupervisedTask"
        )


def checked_errors(
    name: str, found: Any, samples: int, needed: str
) -> dict[str, NDArray[np.float64]]:
    """Errors of samples that a method computed, as arrays; `InputError` for anything else.

    Parameters
    ----------
    name : the method, for the message.
    found : what it returned.
    samples : number of samples.
    needed : the entry that it must have.
    """
    wanted = f"a dict with {needed!r} and arrays of shape ({samples},), one number per sample"
    if not isinstance(found, Mapping) or needed not in found:
        keys = f" with the keys {list(found)}" if isinstance(found, Mapping) else ""
        raise InputError(f"{returned(name, wanted, found)}{keys}")
    errors = {}
    for key, own in found.items():
        host = own.detach().cpu() if isinstance(own, Tensor) else own
        try:
            errors[key] = np.asarray(host, dtype=np.float64)
        except (TypeError, ValueError):
            errors[key] = np.zeros(())
        if not isinstance(key, str) or errors[key].shape != (samples,):
            raise InputError(f"{returned(name, wanted, own)} for {key!r}")
    return errors


def relative(squares: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared errors divided by their scale: NaN or infinity where it is 0, without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = squares / scale
    return found
