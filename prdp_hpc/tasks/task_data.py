"""The data of a task: samples of each group on this rank, and their division into batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor, nn

from prdp_hpc.console import note
from prdp_hpc.data import (
    TEST,
    DataError,
    TrajectoryArrays,
    TrajectoryDataset,
    Windows,
    check_agreement,
    share,
    windowed,
)
from prdp_hpc.data.free_memory import SHARE, free_address_space, free_bytes
from prdp_hpc.data.group_reader import GroupReader
from prdp_hpc.data.moments import combined, group_moments
from prdp_hpc.data.samples import Ids, MemorySamples, Samples
from prdp_hpc.data.streaming import ReadingThread, StreamedSamples
from prdp_hpc.data.windowed import dataset_name
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.networks.normalised import NormalisedNetwork
from prdp_hpc.physics.stepper import Stepper, attributes

EVALUATED_BYTES = 2**24
"""Bytes of the states that a rank evaluates at once, which bounds the memory of a validation."""


class TaskData:
    """The samples of a task, this rank's part; creating it is collective.

    Parameters
    ----------
    data : the trajectories, with the settings of their windows if it is a `WindowedDataset`.
    stepper : the PDE, whose channels the data must have.
    mesh : the ranks.
    dtype : floating-point type of the samples.
    window : number of states that a training sample needs.
    steps : number of steps that a sample for validation needs.

    Attributes
    ----------
    data : the trajectories.
    train : training samples; None without the group "train".
    validation : validation samples.
    test : test samples; None without the group "test".
    first : the first state of the validation samples, `(1, C, *local_shape)`, as an example.
    """

    def __init__(
        self,
        data: TrajectoryDataset,
        stepper: Stepper,
        mesh: ProcessMesh,
        dtype: torch.dtype,
        window: int,
        steps: int,
    ) -> None:
        self.data, self._mesh, self._dtype = windowed(data), mesh, dtype
        self._grid: Grid = stepper.grid
        needed = self.data.window or window
        call_together(mesh.world, lambda: self._check_sizes(window, needed, steps))
        numbers, inner = attributes(stepper), self.data.data
        call_together(
            mesh.world,
            lambda: check_agreement(inner, numbers, self._grid.shape, self._grid.spacing),
        )
        if isinstance(inner, TrajectoryArrays):
            inner.check_equal(mesh.world)
        self.first = call_together(mesh.world, lambda: self._first_state(stepper))
        self._budget = self._memory()
        self._thread: ReadingThread | None = None
        has_train = self.data.count("train") > 0
        # A test group is opened now, so that errors in it are not found only at the end of a run.
        has_test = has_train and TEST in getattr(self.data, "groups", ())
        # In this order, so that the smaller groups are in memory if not all of them fit.
        self.validation = self._opened("validation", steps + 1)
        self.test = self._opened(TEST, steps + 1) if has_test else None
        self.train = self._opened("train", needed) if has_train else None
        if mesh.is_root:
            assumed: str = getattr(inner, "assumed", "")
            if assumed:
                note(f"{dataset_name(inner)}: {assumed}")
            for samples in self._all:
                _note_unused(dataset_name(self.data), samples.reader.group, samples.windows)

    @property
    def channels(self) -> int:
        """Number of channels of a state."""
        return self.first.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of the samples on this rank, in bytes."""
        return sum(samples.nbytes for samples in self._all)

    def evaluated(self, samples: Samples) -> Iterator[tuple[Ids, Tensor]]:
        """This replica's share of the samples of a group in batches of bounded memory, equally many
        on all ranks: the numbers of the samples, and the samples `(b, window, C, *local_shape)`,
        where b may be 0.
        """
        count, replicas = len(samples.windows), self._mesh.replicas
        mine = share(np.arange(count), self._mesh.replica, replicas)
        # Independent of the rank, since all ranks must have the same number of batches.
        state = self.channels * self._grid.size * self._dtype.itemsize / self._mesh.grid_ranks
        at_once = max(1, int(EVALUATED_BYTES // (samples.windows.length * state)))
        ids = [mine[first : first + at_once] for first in range(0, -(-count // replicas), at_once)]
        return zip(ids, samples.batches(ids), strict=True)

    def normalised(self, network: nn.Module, predicts_state: bool) -> nn.Module:
        """The network between normalised states if the data are to be normalised; collective.

        Without training samples the statistics have to be loaded with the network's parameters.
        """
        if self.data.normalise == "none":
            return network
        if self.train is None:
            nothing = [0.0] * self.channels
            return NormalisedNetwork(network, nothing, [1.0] * self.channels, predicts_state)
        reader, world = self.train.reader, self._mesh.world
        trajectories = np.arange(reader.windows.trajectories)
        mine = share(trajectories, self._mesh.replica, self._mesh.replicas)
        parts = world.allgather(call_together(world, lambda: group_moments(reader, mine)))
        moments = combined(parts)
        return NormalisedNetwork(
            network, moments.mean.tolist(), moments.std.tolist(), predicts_state
        )

    def close(self) -> None:
        """Close open files."""
        for samples in self._all:
            samples.close()
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        close: Any = getattr(self.data, "close", None)
        if close is not None:
            close()

    @property
    def _all(self) -> list[Samples]:
        groups = (self.train, self.validation, self.test)
        return [samples for samples in groups if samples is not None]

    def _opened(self, group: str, length: int) -> Samples:
        """The samples of a group; collective."""
        reader = GroupReader(
            self.data,
            group,
            self.data.windows(group, length),
            tuple(self._grid.local_slices),
            self.channels,
            self._dtype,
        )
        if self._fits(reader):
            # Only one rank's part may contain a number that is not finite.
            return call_together(self._mesh.world, lambda: MemorySamples(reader, self._mesh.device))
        self._thread = self._thread or ReadingThread(self._mesh.device)
        return StreamedSamples(reader, self._thread, self._mesh.world)

    def _fits(self, reader: GroupReader) -> bool:
        """Whether a group is held in memory, equal on all ranks; collective."""
        if self.data.in_memory != "auto":
            return bool(self.data.in_memory)
        windows = reader.windows
        needed = windows.trajectories * windows.states * reader.state_bytes
        fits = bool(self._mesh.world.allreduce(needed <= self._budget, op=MPI.LAND))
        if fits:
            self._budget -= needed
        elif self._mesh.is_root:
            note(
                f"{dataset_name(self.data)}: {reader.group} needs {needed / 2**30:.2f} GiB per "
                f"rank, more than {SHARE:.0%} of its free memory, so its samples are read when "
                "they are needed (data.in_memory)"
            )
        return fits

    def _memory(self) -> float:
        """The bytes that this rank may use for samples."""
        locations, device = self._mesh.locations, self._mesh.device
        node = locations[self._mesh.world.rank].node
        ranks = sum(location.node == node for location in locations)
        free = min(free_bytes() / ranks, free_address_space())
        if device.type == "cuda":
            gpus = locations[self._mesh.world.rank].gpus
            on_gpu = float(torch.cuda.mem_get_info(device)[0])
            free = min(free, on_gpu / -(-ranks // max(1, len(gpus))))
        return float(SHARE * free)

    def _check_sizes(self, window: int, needed: int, steps: int) -> None:
        name = dataset_name(self.data)
        if needed < window:
            raise InputError(
                f"data.window={needed}: the task needs {window} states per training sample: give "
                "at least that number, or leave it out"
            )
        most = max(steps, needed - 1)
        if self.data.steps < most:
            raise DataError(
                f"{name}: its trajectories have {self.data.steps} step(s), but the task needs "
                f"{most}: give another data file"
            )
        if not self.data.count("validation"):
            raise DataError(f"{name}: has no validation samples: give another data file")

    def _first_state(self, stepper: Stepper) -> Tensor:
        """The first state of the validation samples; checks its shape."""
        name, part = dataset_name(self.data), self._grid.local_slices
        array = np.asarray(self.data.read_states("validation", 0, slice(0, 1, 1), part))
        if array.shape[:1] != (1,) or array.shape[2:] != tuple(self._grid.local_shape):
            wanted = ("…", self.data.data.steps + 1, "…", *self._grid.local_shape)
            raise DataError(
                f"{name}: read('validation', …) must return (samples, steps + 1, channels, *part) "
                f"= {wanted}, and read_states without the samples; a state of it has the shape "
                f"{array.shape[1:]}"
            )
        count, names = array.shape[1], tuple(stepper.channels)
        if count != len(names) and not getattr(stepper, "channelwise", False):
            raise DataError(
                f"{name}: its trajectories have {count} channel(s), but {type(stepper).__name__} "
                f"on this grid has {len(names)}: {', '.join(names)}"
            )
        reader = GroupReader(
            self.data, "validation", Windows(1, 1, 1), tuple(part), count, self._dtype
        )
        return reader.samples([0])[:, 0].to(self._mesh.device)


def _note_unused(name: str, group: str, windows: Windows) -> None:
    if windows.unused:
        note(
            f"{name}: {windows.trajectories * windows.unused} of "
            f"{windows.trajectories * windows.states} states of {group} are not used: its "
            f"{len(windows)} samples are windows of {windows.length} states with data.stride="
            f"{windows.stride}"
        )
