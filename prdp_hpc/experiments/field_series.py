"""Collect one predicted sample on rank 0, for figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.experiments.members import Members
from prdp_hpc.experiments.prediction import Request, time_step
from prdp_hpc.experiments.rollouts import Predicted
from prdp_hpc.experiments.spectra import Spectrum
from prdp_hpc.grid.structured import Grid
from prdp_hpc.report.field_series import FieldSeries
from prdp_hpc.report.step_errors import by_step

POINTS = 256
"""Most points per axis that are kept for figures; of finer grids every n-th point."""

Array = NDArray[Any]


def collect(
    members: Members,
    about: Request,
    title: str,
    kept: Sequence[int] | None = None,
    spectra: bool = True,
) -> FieldSeries | None:
    """Predict the only sample of `about`; return its fields on rank 0 and None on others.
    Collective.

    Only the states `kept` are kept (default: all). Replicas compute the same. Whole fields are in
    memory for one state at a time.
    """
    view = _View(members.grid)
    spectrum = None
    if spectra and members.mesh.is_root:
        spectrum = Spectrum(members.grid.shape, members.grid.boundary, members.grid.length)
    rows = [
        _row(state, members, view, spectrum)
        for state in about.states(members, [0])
        if kept is None or state.step in kept
    ]
    if not members.mesh.is_root:
        return None
    return _series(rows, members, view, spectrum, title)


class _View:
    """The drawn points of a grid: all of one or two axes, the middle plane across the first of
    three.
    """

    def __init__(self, grid: Grid) -> None:
        drawn = range(grid.dim)[-2:]
        strides = [math.ceil(grid.shape[axis] / POINTS) for axis in drawn]
        self.index: Any = (..., *(slice(None, None, stride) for stride in strides))
        self.axes = tuple(
            grid.axis_points(axis)[::stride] for axis, stride in zip(drawn, strides, strict=True)
        )
        self.section = ""
        if grid.dim == 3:
            middle = grid.shape[0] // 2
            self.index = (..., middle, *self.index[1:])
            self.section = f"z = {grid.axis_points(0)[middle]:.3g}"

    def __call__(self, whole: Array) -> Array:
        return np.ascontiguousarray(whole[self.index], dtype=np.float32)


@dataclass
class _Row:
    """One state on rank 0: its errors, whole and by run, fields and energies by name."""

    step: int
    errors: dict[str, float]
    members: list[float]
    fields: dict[str, Array] = field(default_factory=dict)
    energies: dict[str, Array] = field(default_factory=dict)


def _row_of(state: Predicted) -> _Row:
    def errors(found: dict[str, Any]) -> dict[str, float]:
        one = {name: float(values[0]) for name, values in found.items()}
        return {name: column[state.step] for name, column in by_step(one).items()}

    members = [errors(one)["error"] for one in state.member_errors if state.step]
    return _Row(state.step, errors(state.errors), members)


def _row(state: Predicted, members: Members, view: _View, spectrum: Spectrum | None) -> _Row:
    row, wholes = _row_of(state), {}
    for name, local in (
        ("prediction", state.mean),
        ("truth", state.truth),
        ("spread", state.spread),
    ):
        if local is not None:
            wholes[name] = _gathered(members.grid, local)
    if members.mesh.is_root:
        row.fields = {name: view(whole) for name, whole in wholes.items()}
        if spectrum is not None:
            if "truth" in wholes:
                wholes["difference"] = wholes["prediction"] - wholes["truth"]
            row.energies = {
                name: np.stack([spectrum(channel) for channel in whole])
                for name, whole in wholes.items()
            }
    return row


def _gathered(grid: Grid, local: Tensor) -> Array:
    """The whole field `(C, *shape)` of the only sample."""
    whole: Array = grid.gather(local.detach().cpu().to(torch.float64))[0].numpy()
    return whole


def _series(
    rows: Sequence[_Row],
    members: Members,
    view: _View,
    spectrum: Spectrum | None,
    title: str,
) -> FieldSeries:
    dt, channels = time_step(members), members.channels
    shape = (len(channels), *(len(axis) for axis in view.axes))
    wavenumbers = np.zeros(0) if spectrum is None else spectrum.wavenumbers
    names = tuple(dict.fromkeys(name for row in rows for name in row.errors)) or ("error",)

    def values(name: str) -> Array:
        missing = np.full(shape, np.nan, np.float32)
        return np.stack([row.fields.get(name, missing) for row in rows])

    def energy(name: str) -> Array:
        missing = np.full((len(channels), len(wavenumbers)), np.nan)
        return np.stack([row.energies.get(name, missing) for row in rows])

    several = len(members.tasks) > 1
    return FieldSeries(
        title=title,
        channels=channels,
        steps=np.array([row.step for row in rows]),
        times=np.array([row.step * dt for row in rows]),
        axes=view.axes,
        section=view.section,
        truth=values("truth"),
        prediction=values("prediction"),
        spread=values("spread") if several else np.zeros(0, np.float32),
        wavenumbers=wavenumbers,
        truth_energy=energy("truth"),
        energy=energy("prediction"),
        difference_energy=energy("difference"),
        errors=np.array([[row.errors.get(name, np.nan) for row in rows] for name in names]),
        error_names=names,
        member_errors=_by_run([row.members for row in rows], len(members.tasks)),
    )


def _by_run(errors: Sequence[Sequence[float]], runs: int) -> Array:
    """The errors of each run of an ensemble, `(runs, S)`; NaN for states without errors."""
    if runs == 1:
        return np.zeros((0, len(errors)))
    return np.array([own if own else [np.nan] * runs for own in errors]).T
