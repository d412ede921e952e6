"""The physics residual of a data set: one step of a PDE from its states against the next states."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.distributed.collective import call_together
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.best_factors import BestFactor, Residuals, best_factor
from prdp_hpc.experiments.inspected_lengths import is_known, lengths_like, likely_lengths, scales
from prdp_hpc.experiments.inspected_places import MOST_CHECKED, Place
from prdp_hpc.experiments.physics_residual import (
    CLEARLY_SMALLER,
    FACTORS,
    FITS,
    MUCH_SMALLER,
    Change,
    PhysicsResidual,
)
from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.stepper import attributes, made_stepper, stepped

GOLDEN = (math.sqrt(5) - 1) / 2
SEARCH = math.log(3)
"""Largest logarithm of the ratio of a fitted factor and the one in `FACTORS` next to it."""
SEARCH_STEPS = 10
OTHER_SCHEME = math.log(1.25)
"""Logarithm of the factors that are only named if the data fit with them."""
FITTED_DIGITS = 2
"""Significant digits of a factor that was fitted."""
MOST_PAIRS = 4
"""Number of pairs of changes that are named at most, e.g. with lengths of the same ratio."""
NOISE = 1e-5
"""Smallest relative change over a step that rounding errors of float32 do not dominate."""


def physics_residual(
    config: Any, data: Any, comm: MPI.Comm, where: Sequence[Place]
) -> PhysicsResidual:
    """Compare one step of the config's PDE from each state with the next state; collective.

    A step is computed by the reference solver of the PDE. The residual of a channel is

        ‖step(uₖ) − uₖ₊₁‖ / ‖uₖ₊₁ − uₖ‖,

    0 for data that were computed by the same scheme, and 1 for a step that is as wrong as none. If
    it is large, other orders of axes and velocities, time steps and coefficients are tried.

    Parameters
    ----------
    config : SupervisedConfig
        Grid and PDE.
    data : TrajectoryDataset
        The trajectories, on the grid of the config.
    comm : mpi4py.MPI.Comm
        The ranks, which share the grid.
    where : sequence of Place
        The states.

    Returns
    -------
    PhysicsResidual
        The residuals.

    Raises
    ------
    InputError
        If the channels of the data do not match those of the PDE.
    """
    return _Comparison(config, data, comm).result(where)


@dataclass
class _Comparison:
    config: Any
    data: Any
    comm: MPI.Comm
    grid: Grid = field(init=False)

    def __post_init__(self) -> None:
        section = self.config.grid
        self.grid = Grid(section.shape, section.boundary, self.comm, section.length)

    def result(self, where: Sequence[Place]) -> PhysicsResidual:
        stepper = self.stepper(Change())
        found = [(place, self.residuals(stepper, place, Change())) for place in where]
        channels = tuple(stepper.channels)
        if len(found[0][1]) != len(channels):
            channels = tuple(f"{channels[0]}_{i}" for i in range(len(found[0][1])))
        first, others = _by_group(found)
        means = {group: _mean(residuals) for group, residuals in others.items()}
        mean = _mean(one for _, one in first)
        whole = PhysicsResidual(channels, tuple(found), mean, others=means)
        if math.isnan(whole.residual) or whole.residual < FITS:
            return whole
        changing = [(place, one) for place, one in first if not all(map(math.isnan, one))]
        checked = changing[:: max(1, len(changing) // MOST_CHECKED)][:MOST_CHECKED]
        before, where_tried = [one for _, one in checked], [place for place, _ in checked]
        each = self.each(list(self.changes(stepper)), where_tried)
        diagnosed = self.diagnosed(stepper, where_tried[0])
        return replace(
            whole,
            changes=self.tried(each, where_tried),
            compared=_mean(before),
            best_factors=_best_factors(each, before, diagnosed),
            clearer=_clearer(each, before, diagnosed),
        )

    def tried(
        self, each: Mapping[Change, Residuals], where: Sequence[Place]
    ) -> tuple[tuple[Change, float], ...]:
        """Each change alone. If none of them explains the data, in 1-D and 2-D also an order of
        axes or velocities, or other ratios of the lengths, together with a number, of which the
        best are kept.
        """
        single, results = list(each), _means(each)
        # A fitted number can also make up for another scheme, so that a likely one comes first.
        listed = [one for one in results if not one[0].lengths]
        fitted = _much_smaller(self.fitted(results, where), listed)
        results = sorted(results + fitted, key=lambda one: one[1])
        if results and results[0][1] > FITS and self.grid.dim < 3:
            orders = [one for one in single if not one.key and not scales(one, self.grid)]
            numbers = [change for change in single if change.key]
            both = [order.with_number(number) for order in orders for number in numbers]
            ranked = self._sorted(both, where[:1])[:MOST_PAIRS]
            best = [one for one, residual in ranked if residual <= 2 * ranked[0][1] + 1e-6]
            results += _much_smaller(self._sorted(best, where), results)
        if results and not is_known(self.data):
            best_number = min(results, key=lambda one: one[1])[0]
            tried = [one for one in lengths_like(best_number, self.grid) if one not in each]
            results += self._sorted(tried, where)
        return tuple(sorted(results, key=lambda one: one[1]))

    def fitted(
        self, found: Sequence[tuple[Change, float]], where: Sequence[Place]
    ) -> list[tuple[Change, float]]:
        """For the best change of each number, if it does not fit: the factor with the smallest
        residual on the first state, by a golden-section search around it.
        """
        best: dict[str, tuple[Change, float]] = {}
        for change, residual in found:
            if change.key and not change.axes and not change.channels:
                best.setdefault(change.key, (change, residual))
        changes = []
        for change, residual in best.values():
            if residual > FITS:
                factor = self._minimum(change, where[:1])
                word = f"{factor:.{FITTED_DIGITS}g}"
                changes.append(replace(change, factor=float(word), word=word))
        # A small change that does not fit makes up for another scheme or shorter time steps.
        return [
            (change, residual)
            for change, residual in self._sorted(changes, where)
            if residual < FITS or abs(math.log(change.factor)) > OTHER_SCHEME
        ]

    def _minimum(self, change: Change, where: Sequence[Place]) -> float:
        def residual(logarithm: float) -> float:
            tried = self._sorted([replace(change, factor=math.exp(logarithm))], where)
            return tried[0][1] if tried else math.inf

        middle = math.log(change.factor)
        low, high = middle - SEARCH, middle + SEARCH
        for _ in range(SEARCH_STEPS):
            left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            low, high = (low, right) if residual(left) < residual(right) else (left, high)
        return math.exp((low + high) / 2)

    def _sorted(
        self, changes: Sequence[Change], where: Sequence[Place]
    ) -> list[tuple[Change, float]]:
        return _means(self.each(changes, where))

    def each(self, changes: Sequence[Change], where: Sequence[Place]) -> dict[Change, Residuals]:
        """The residuals of each state with each change that the PDE allows."""
        found: dict[Change, Residuals] = {}
        for change in changes:
            try:
                stepper = self.stepper(change)
            except InputError:  # numbers that the PDE does not allow, on all ranks
                continue
            found[change] = [self.residuals(stepper, place, change) for place in where]
        return found

    def stepper(self, change: Change) -> Any:
        """The PDE with a changed number or length."""
        section: Any = self.config.physics
        if change.key:
            value = getattr(section, change.key) * change.factor
            section = section.model_copy(update={change.key: value})
        grid = self.grid
        if change.lengths:
            grid = Grid(grid.shape, grid.boundary, self.comm, change.lengths)
        return made_stepper(section, grid)

    def changes(self, stepper: Any) -> Iterator[Change]:
        """The likely mistakes."""
        dim, shape = self.grid.dim, self.grid.shape
        for axes in itertools.permutations(range(dim)):
            if axes != tuple(range(dim)) and tuple(shape[axis] for axis in axes) == shape:
                yield Change(axes=axes)
        names = list(stepper.channels)
        vector = [i for i, name in enumerate(names) if name.startswith("velocity")]
        for order in itertools.permutations(vector):
            if list(order) != vector:
                swapped = list(range(len(names)))
                for place, source in zip(vector, order, strict=True):
                    swapped[place] = source
                yield Change(channels=tuple(swapped))
        if not is_known(self.data):
            yield from likely_lengths(self.grid)
        fields = getattr(type(self.config.physics), "model_fields", {})
        for key in attributes(stepper):
            if key in fields and isinstance(getattr(self.config.physics, key), float):
                for word, factor in FACTORS.items():
                    yield Change(key=key, factor=factor, word=word)

    def residuals(self, stepper: Any, place: Place, change: Change) -> tuple[float, ...]:
        """The residual of each channel for one state."""
        pair = call_together(self.comm, lambda: self.pair(place, change))
        channels = len(stepper.channels)
        if pair.shape[1] != channels and not getattr(stepper, "channelwise", False):
            names = getattr(self.data, "channels", None) or f"{pair.shape[1]} channels"
            raise InputError(
                f"the data have the channels {names}, but the PDE has {stepper.channels}: choose "
                "those of the PDE by data.format.channels, or give another physics.pde"
            )
        states = torch.tensor(pair, dtype=torch.float64)
        before, after = states[:1], states[1:]
        with torch.no_grad():
            step = stepped(stepper, before)
        sums = torch.stack([(step - after) ** 2, (after - before) ** 2, after**2])
        flat = sums.reshape(3, pair.shape[1], -1).sum(dim=2).numpy()
        total = np.empty_like(flat)
        self.comm.Allreduce(np.ascontiguousarray(flat), total)
        error, moved, size = np.sqrt(total)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.where(moved > NOISE * size, error / moved, np.nan)
        return tuple(float(one) for one in found)

    def diagnosed(self, stepper: Any, place: Place) -> set[int]:
        """The channels that a step computes from the others, e.g. the pressure.

        Where the others are not quite those of the grid, e.g. not divergence-free, they have errors
        that hide those of the numbers.
        """
        before = torch.tensor(
            call_together(self.comm, lambda: self.pair(place, Change()))[:1], dtype=torch.float64
        )
        found = set()
        with torch.no_grad():
            step = stepper(before)
            for channel in range(before.shape[1]):
                without = before.clone()
                without[:, channel] = 0.0
                same = bool((stepper(without) == step).all())
                if self.comm.allreduce(same, op=MPI.LAND):
                    found.add(channel)
        return found

    def pair(self, place: Place, change: Change) -> NDArray[Any]:
        """This rank's part of a state and the next one, with the axes and channels exchanged."""
        axes = change.axes or tuple(range(self.grid.dim))
        part = [slice(0, 0)] * self.grid.dim
        for axis, source in enumerate(axes):
            part[source] = self.grid.local_slices[axis]
        read = states_reader(self.data)
        stored = read(place.group, place.sample, slice(place.state, place.state + 2, 1), part)
        found = stored.transpose(0, 1, *(2 + axis for axis in axes))
        chosen = list(change.channels) or slice(None)
        return np.ascontiguousarray(found[:, chosen])


def states_reader(data: Any) -> Callable[..., NDArray[Any]]:
    """The method `read_states` of a data set, or one that selects from whole trajectories."""
    own = getattr(data, "read_states", None)
    if own is not None:
        return own  # type: ignore[no-any-return]
    return lambda group, sample, states, part: data.read(group, [sample], part)[0][states]


def _by_group(
    found: Sequence[tuple[Place, tuple[float, ...]]],
) -> tuple[list[tuple[Place, tuple[float, ...]]], dict[str, list[tuple[float, ...]]]]:
    """The places and residuals of the first group, and the residuals of the others."""
    first = [one for one in found if one[0].group == found[0][0].group]
    others: dict[str, list[tuple[float, ...]]] = {}
    for place, residuals in found[len(first) :]:
        others.setdefault(place.group, []).append(residuals)
    return first, others


def _much_smaller(
    changes: Sequence[tuple[Change, float]], others: Sequence[tuple[Change, float]]
) -> list[tuple[Change, float]]:
    """The changes with a much smaller residual than the others."""
    limit = MUCH_SMALLER * min((residual for _, residual in others), default=math.inf)
    return [one for one in changes if one[1] < limit]


def _means(each: Mapping[Change, Residuals]) -> list[tuple[Change, float]]:
    """The changes with their mean residuals, the smallest first."""
    means = [(change, _mean(residuals)) for change, residuals in each.items()]
    return sorted((one for one in means if not math.isnan(one[1])), key=lambda one: one[1])


def _best_factors(
    each: Mapping[Change, Residuals], before: Residuals, without: set[int]
) -> tuple[BestFactor, ...]:
    """The best factors of each number that was changed alone, from the residuals of all channels
    but some.
    """
    numbers: dict[str, dict[float, Residuals]] = {}
    for change, residuals in each.items():
        if change.key:
            numbers.setdefault(change.key, {})[change.factor] = _chosen(residuals, without)
    found = [
        best_factor(key, _chosen(before, without), changed) for key, changed in numbers.items()
    ]
    return tuple(one for one in found if one is not None)


def _clearer(
    each: Mapping[Change, Residuals], before: Residuals, without: set[int]
) -> tuple[tuple[Change, float], ...]:
    """The orders and lengths with which each state is clearly reproduced better, by the residuals
    of all channels but some, and their mean residuals.
    """
    found = {}
    unchanged = [_mean([one]) for one in _chosen(before, without)]
    for change, residuals in each.items():
        changed = [_mean([one]) for one in _chosen(residuals, without)]
        pairs = zip(changed, unchanged, strict=True)
        if not change.key and all(new < CLEARLY_SMALLER * old for new, old in pairs):
            found[change] = residuals
    return tuple(_means(found))


def _chosen(residuals: Residuals, without: set[int]) -> Residuals:
    """The residuals of all channels but some."""
    return [[r for i, r in enumerate(one) if i not in without] for one in residuals]


def _mean(residuals: Any) -> float:
    """The root mean square of all numbers; NaN if there are none."""
    squares = [one**2 for each in residuals for one in each if not math.isnan(one)]
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan
