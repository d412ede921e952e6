"""Data sets made of the files of a format: `FormatTrajectories`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.formats.axes import AxisOrder
from prdp_hpc.data.formats.files import DataFiles, files_of_groups, listed, named
from prdp_hpc.data.formats.groups import Division, bad_trajectory
from prdp_hpc.data.formats.segments import divided
from prdp_hpc.data.formats.selection import Selection
from prdp_hpc.data.formats.source import About, Slices, Source, check_alike
from prdp_hpc.data.layout import GROUPS, TEST, BadTrajectoryError, DataError
from prdp_hpc.data.number_types import as_floating


class FormatTrajectories:
    """Base of the data sets in other formats than ours.

    A format defines `suffixes` and the method `sources`, which opens a file. Nothing but sizes and
    coordinates is read before `read_states` or `read`, which read only the states and the part of
    the grid that they return.

    Attributes
    ----------
    path : Path
        The name of the data in messages.
    files : tuple of Path
        The files that are read.
    shape : tuple of int
        Points of the grid per axis; the last axis is x.
    steps : int
        Number of time steps after the initial state, the smallest of all groups.
    channels : tuple of str
        Names of the channels.
    groups : tuple of str
        Names of the groups.
    attributes : dict
        `dt`, the coefficients and further attributes of the files.
    spacing : tuple of float, or None
        Distance of two points per axis of the grid, if the files have coordinates.
    boundary : tuple of str, or None
        Words of the files for the boundary per axis of the grid.

    See Also
    --------
    TrajectoryDataset : The interface.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    are_folders: ClassVar[bool] = False
    several: ClassVar[bool] = True

    def __init__(
        self,
        path: DataFiles,
        sources: Mapping[str, Sequence[Source]],
        shape: Sequence[int] | None,
        groups: Sequence[str],
        division: Division,
        selection: Selection,
    ) -> None:
        self.path = named(path)
        self._sources, self._selection = sources, selection
        counts = {
            group: [source.about.trajectories for source in ones] for group, ones in sources.items()
        }
        self._places = division.places(counts, str(self.path))
        self.groups = self._needed(groups)
        every = [source for ones in sources.values() for source in ones]
        self.files = tuple(dict.fromkeys(source.path for source in every))
        first = every[0].about
        self._order = AxisOrder(selection.axes, len(first.points), str(every[0].path))
        for source in every:
            check_alike(source, every[0])
        self.channels = self._chosen_channels(every[0])
        self.shape = self._order.ours([self._points(n, every[0].path) for n in first.points])
        self._check_shape(shape, every[0])
        self.steps = self._count_states(every) - 1
        self._describe([source.about for source in every])

    @classmethod
    def open(
        cls,
        path: DataFiles,
        shape: Sequence[int] | None = None,
        groups: Sequence[str] = GROUPS,
        *,
        validation: int | float | None = None,
        test: int | float | None = None,
        exclude: Sequence[int] = (),
        exclude_validation: Sequence[int] = (),
        exclude_test: Sequence[int] = (),
        channels: Sequence[str] | None = None,
        axes: Sequence[str] | None = None,
        subsample: int = 1,
        subsample_time: int = 1,
        segments: int = 1,
        **keys: Any,
    ) -> Self:
        """Open the data of a config's section `data`.

        Parameters
        ----------
        path : str, Path or sequence of them
            A file, a folder, a pattern such as `a_*.h5`, a path with `{group}`, or
            several of these.
        shape : sequence of int, optional
            Points of the grid per axis. Default: those of the files.
        groups : sequence of str, default ("train", "validation")
            Groups that are needed.
        validation, test, exclude, exclude_validation, exclude_test
            See `Division`.
        channels, axes, subsample, subsample_time
            See `Selection`.
        segments : int, default 1
            Number of parts of equal length, in time, into which each trajectory is divided. Each
            is a trajectory; the states that are left over at the end are not used.
        **keys
            Further keys of the format.

        Returns
        -------
        FormatTrajectories
            The data set.

        Raises
        ------
        DataError
            If a file cannot be read or has another layout, another grid or no finite coordinates.
        """
        opened: dict[str, list[Source]] = {}
        for one in listed(path):
            for group, sources in cls.sources_of_groups(one, shape, dict(keys)).items():
                opened.setdefault(group, []).extend(sources)
        found = divided(opened, segments)
        needs_train = any(group not in found for group in groups)
        used = {
            group: ones
            for group, ones in found.items()
            if group in groups
            or (group == "train" and needs_train)
            or (group == TEST and "train" in groups)
        }
        excluded = {"train": exclude, "validation": exclude_validation, TEST: exclude_test}
        division = Division(validation, test, excluded)
        selection = Selection(channels, axes, subsample, subsample_time)
        return cls(path, used, shape, groups, division, selection)

    @classmethod
    def sources_of_groups(
        cls, path: str | Path, shape: Sequence[int] | None, keys: dict[str, Any]
    ) -> dict[str, Sequence[Source]]:
        """Open the files by group; those without a group are in "train", which is divided."""
        return {
            group: [cls.source(file, **keys) for file in files]
            for group, files in files_of_groups(path, cls.suffixes, cls.are_folders).items()
        }

    @classmethod
    @abstractmethod
    def source(cls, file: Path, **keys: Any) -> Source:
        """Open a file; `keys` are those of the format."""

    def count(self, group: str) -> int:
        """Return the number of samples in a group.

        Parameters
        ----------
        group : str
            Name of the group.

        Returns
        -------
        int
            Number of samples; 0 for a group that is not needed.
        """
        return len(self._places[group]) if group in self.groups else 0

    def read_states(
        self, group: str, sample: int, states: slice, part: Sequence[slice] | None = None
    ) -> NDArray[Any]:
        """Read a part of some states of one trajectory.

        Parameters
        ----------
        group : str
            Name of the group.
        sample : int
            Index of the trajectory.
        states : slice
            The states, of 0 to `steps`.
        part : sequence of slice, optional
            The points to read: one slice per axis of the grid. Default: the whole grid.

        Returns
        -------
        numpy array
            States of shape `(len(states), C, *part)`, float32 or float64.

        Raises
        ------
        DataError
            If the file is damaged or a number is not finite.
        """
        file, trajectory = self._places[group][sample]
        source = self._sources[group if group in self._sources else "train"][file]
        wanted = range(self.steps + 1)[states]
        each = self._selection.subsample_time
        stored = slice(wanted.start * each, wanted[-1] * each + 1, wanted.step * each)
        try:
            raw = source.read(trajectory, stored, self.channels, self._stored_part(part))
        except BadTrajectoryError as error:
            raise self._bad(str(error), group, sample) from None
        gaps: Any = (..., *[slice(None, None, self._selection.subsample)] * len(self.shape))
        name = f"{source.path}: {source.name(trajectory)}"
        found = np.ascontiguousarray(as_floating(self._order.array(raw[gaps]), name))
        if not found.flags.writeable:  # a view of a file that is mapped into memory
            found = np.array(found)
        self._check_finite(found, name, stored, group, sample)
        return found

    def read(
        self,
        group: str,
        samples: Sequence[int] | None = None,
        part: Sequence[slice] | None = None,
    ) -> NDArray[Any]:
        """Read a part of some trajectories.

        Parameters
        ----------
        group : str
            Name of the group.
        samples : sequence of int, optional
            Indices of the samples. Default: all.
        part : sequence of slice, optional
            The points to read: one slice per axis of the grid. Default: the whole grid.

        Returns
        -------
        numpy array
            States of shape `(len(samples), steps + 1, C, *part)`, float32 or float64.

        Raises
        ------
        DataError
            If the file is damaged or a number is not finite.
        """
        chosen = [int(one) for one in (range(self.count(group)) if samples is None else samples)]
        every = slice(0, self.steps + 1, 1)
        first = self.read_states(group, chosen[0], every, part)
        found = np.empty((len(chosen), *first.shape), first.dtype)
        found[0] = first
        for row, one in enumerate(chosen[1:], start=1):
            found[row] = self.read_states(group, one, every, part)
        return found

    def close(self) -> None:
        """Close the files, so that they can be written; reading opens them again."""
        for sources in self._sources.values():
            for source in sources:
                source.close()

    @property
    def all_channels(self) -> tuple[str, ...]:
        """Names of the channels that can be selected."""
        first = next(iter(self._sources.values()))[0].about
        return first.channels + first.others

    @property
    def assumed(self) -> str:
        """What the files do not contain and was assumed, with the key to change it."""
        return next(iter(self._sources.values()))[0].assumed

    @property
    def stored_axes(self) -> tuple[str, ...]:
        """Names of the axes of space in the order of the files."""
        return self._order.stored

    def place(self, group: str, sample: int) -> tuple[Path, str]:
        """The file of a trajectory, and its name in the file."""
        file, trajectory = self._places[group][sample]
        source = self._sources[group if group in self._sources else "train"][file]
        return source.path, source.name(trajectory)

    def _needed(self, groups: Sequence[str]) -> tuple[str, ...]:
        test = [TEST] if "train" in groups and self._places.get(TEST) else []
        for group in groups:
            if not self._places.get(group):
                raise DataError(
                    f"{self.path}: has no trajectories for the group {group}; there are "
                    f"{', '.join(f'{len(v)} for {k}' for k, v in self._places.items())}"
                )
        return tuple(dict.fromkeys([*groups, *test]))

    def _stored_part(self, part: Sequence[slice] | None) -> Slices:
        each = self._selection.subsample
        whole = [slice(0, n) for n in self.shape]
        ours = [
            range(n)[one]
            for n, one in zip(self.shape, whole if part is None else part, strict=True)
        ]
        return self._order.theirs(
            [slice(r.start * each, r[-1] * each + 1 if len(r) else r.start * each) for r in ours]
        )

    def _points(self, stored: int, path: Path) -> int:
        each = self._selection.subsample
        if stored % each:
            raise DataError(
                f"{path}: data.format.subsample={each} must divide the number of points of each "
                f"axis, and {stored} is not a multiple"
            )
        return stored // each

    def _count_states(self, every: Sequence[Source]) -> int:
        each = self._selection.subsample_time
        fewest = min(every, key=lambda source: source.about.states)
        states = (fewest.about.states - 1) // each + 1
        if states < 2:
            raise DataError(
                f"{fewest.path}: trajectories need at least 2 states, these have "
                f"{fewest.about.states}"
                + (f", of which data.format.subsample_time={each} keeps {states}" * (each > 1))
                + (f" ({fewest.assumed})" * bool(fewest.assumed))
            )
        return states

    def _chosen_channels(self, source: Source) -> tuple[str, ...]:
        given = self._selection.channels
        there = source.about.channels + source.about.others
        if given is None:
            return source.about.channels
        for name in given:
            if name not in there:
                raise DataError(
                    f"{source.path}: has no channel {name}: data.format.channels can contain "
                    f"{', '.join(there)}"
                )
        return tuple(given)

    def _check_shape(self, shape: Sequence[int] | None, source: Source) -> None:
        if shape is None or tuple(shape) == self.shape:
            return
        each = self._selection.subsample
        kept = "" if each == 1 else f", of which data.format.subsample={each} keeps every {each}."
        names = reversed("xyz"[: len(self.shape)])
        raise DataError(
            f"{source.path}: has {' × '.join(map(str, source.about.points))} points along "
            f"{', '.join(self._order.stored)}{kept}: grid.shape must be {list(self.shape)} "
            f"({', '.join(names)}), not {list(shape)}"
        )

    def _describe(self, every: Sequence[About]) -> None:
        first = every[0]
        numbers = {name: value for about in every for name, value in about.numbers.items()}
        details = {
            name: value
            for name, value in first.details.items()
            if all(about.details.get(name) == value for about in every)
        }
        if "dt" in numbers:
            numbers["dt"] *= self._selection.subsample_time
        self.attributes: dict[str, Any] = {**details, **numbers}
        self.spacing: tuple[float, ...] | None = None
        if first.spacing is not None:
            wide = [h * self._selection.subsample for h in first.spacing]
            self.spacing = self._order.ours(wide)
        self.boundary = None if first.boundary is None else self._order.ours(first.boundary)

    def _check_finite(
        self, found: NDArray[Any], name: str, states: slice, group: str, sample: int
    ) -> None:
        finite = np.isfinite(found)
        if finite.all():
            return
        state = states.start + int(np.argwhere(~finite)[0][0]) * states.step
        raise self._bad(f"{name} contains NaN or infinity, first in state {state}", group, sample)

    def _bad(self, what: str, group: str, sample: int) -> BadTrajectoryError:
        """The error about a trajectory, with the key that leaves it out."""
        owner = group if group in self._sources else "train"
        file, trajectory = self._places[group][sample]
        before = sum(one.about.trajectories for one in self._sources[owner][:file])
        return bad_trajectory(what, owner, before + trajectory)
