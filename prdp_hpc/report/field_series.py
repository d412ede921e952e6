"""One sample over time: true and predicted fields, spectra and errors, for figures and films."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.files import atomic_path, file_errors
from prdp_hpc.metric_names import SAMPLE_FIELDS
from prdp_hpc.report.runs import ReportError

AGAIN = "run again to rewrite it"
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FieldSeries:
    """What `prdp-hpc show` draws. Arrays over states have NaN for what is not known.

    Attributes
    ----------
    title : name of the run or ensemble, and the sample.
    channels : names of the channels.
    steps, times : number and time of each state, `(S,)`.
    axes : coordinates of the drawn points along each drawn axis; the last one is x.
    section : where three-dimensional fields are cut, e.g. "z = 0.5", else "".
    truth, prediction : the fields, `(S, C, *points)`.
    spread : standard deviation of an ensemble, of the same shape; empty for a single run.
    wavenumbers : wavenumbers of the spectra, `(K,)`; empty without spectra.
    truth_energy, energy, difference_energy : the energy by wavenumber of the true and the predicted
        field and of their difference, `(S, C, K)`.
    errors : the errors of the prediction by step, `(columns, S)`.
    error_names : names of the columns: "error", and channels if the task has such errors.
    member_errors : the column "error" of each run of an ensemble, `(runs, S)`.
    """

    title: str
    channels: tuple[str, ...]
    steps: Array
    times: Array
    axes: tuple[Array, ...]
    section: str
    truth: Array
    prediction: Array
    spread: Array
    wavenumbers: Array
    truth_energy: Array
    energy: Array
    difference_energy: Array
    errors: Array
    error_names: tuple[str, ...]
    member_errors: Array

    @property
    def known(self) -> Array:
        """Indices of the states whose truth is known."""
        finite = np.isfinite(self.truth.reshape(len(self.steps), -1)).any(axis=1)
        return np.flatnonzero(finite)

    @property
    def difference(self) -> Array:
        """Prediction minus truth, of the shape of both."""
        found: Array = self.prediction - self.truth
        return found

    def shown(self, count: int) -> list[int]:
        """Up to `count` evenly spaced states, without the initial one, which is given: those with
        a known truth, and the last one.
        """
        if len(self.steps) == 1:
            return [0]
        known = [int(state) for state in self.known if state > 0]
        last = len(self.steps) - 1
        if known and known[-1] < last and count > 1:
            return [*_evenly(known, count - 1), last]
        return _evenly(known or list(range(1, last + 1)), count)


def _evenly(states: list[int], count: int) -> list[int]:
    places = np.linspace(0, len(states) - 1, min(count, len(states))).round().astype(int)
    return [states[place] for place in np.unique(places)]


def save_series(path: Path, series: FieldSeries) -> None:
    """Write a series as NumPy's `.npz`."""
    content: dict[str, Any] = {}
    for field in fields(series):
        value = getattr(series, field.name)
        if field.name == "axes":
            content |= {f"axis_{number}": axis for number, axis in enumerate(value)}
        else:
            content[field.name] = np.array(value)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **content)


def has_sample(folder: str | Path) -> bool:
    """Whether a run folder has the fields of a validation sample."""
    return (Path(folder) / SAMPLE_FIELDS).is_file()


def load_sample(folder: str | Path) -> FieldSeries:
    """The fields of a validation sample in a run folder; raises `ReportError`."""
    return load_series(Path(folder) / SAMPLE_FIELDS)


def load_series(path: Path) -> FieldSeries:
    """Read a series; raises `ReportError` for another file."""
    try:
        with file_errors(path, "cannot be read", AGAIN), np.load(path) as own:
            return _series({name: own[name] for name in own.files})
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ReportError(f"{path}: contains no fields ({error}); {AGAIN}") from None


def _series(content: Mapping[str, Array]) -> FieldSeries:
    given: dict[str, Any] = {}
    for field in fields(FieldSeries):
        if field.name == "axes":
            names = sorted(name for name in content if name.startswith("axis_"))
            given["axes"] = tuple(content[name] for name in names)
        elif field.name in ("title", "section"):
            given[field.name] = str(content[field.name])
        elif field.name in ("channels", "error_names"):
            given[field.name] = tuple(str(name) for name in content[field.name])
        else:
            given[field.name] = content[field.name]
    return FieldSeries(**given)
