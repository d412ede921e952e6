"""Energy spectra of fields on structured grids, by wavenumber."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Spectrum:
    """The energy of a field by wavenumber, summed over shells of `|k|`.

    A field is a sum of modes that satisfy the boundary conditions: `exp(2πi m x / L)` on a periodic
    axis, `sin(π m x / L)` with m ≥ 1 on a Dirichlet axis, `cos(π m x / L)` with m ≥ 0 on a Neumann
    axis. The energy of a mode is its share of the mean square of the field, so that the sum over
    all shells is `mean(u²)` (Parseval). Shell j contains the modes with `|k|` nearest to `j Δk`,
    where Δk is the largest spacing of the wavenumbers of an axis.

    Parameters
    ----------
    shape : points of the grid per axis.
    boundary : "dirichlet", "neumann" or "periodic" per axis.
    length : length of the domain per axis.

    Attributes
    ----------
    wavenumbers : `j Δk` of each shell, in radians per unit of length; shape `(shells,)`.
    """

    def __init__(
        self, shape: Sequence[int], boundary: Sequence[str], length: Sequence[float]
    ) -> None:
        self._boundary = tuple(boundary)
        axes = [
            _wavenumbers(n, kind, a) for n, kind, a in zip(shape, boundary, length, strict=True)
        ]
        spacing = max(_spacing(kind, a) for kind, a in zip(boundary, length, strict=True))
        squares = reduce(np.add.outer, [k**2 for k in axes])
        self._shells = np.rint(np.sqrt(squares) / spacing).astype(int)
        self.wavenumbers: Array = np.arange(self._shells.max() + 1) * spacing

    def __call__(self, field: NDArray[np.floating]) -> Array:
        """The energy of each shell, `(shells,)`, of a field `(*shape)`."""
        modes: NDArray[Any] = field.astype(np.float64)
        for axis, kind in enumerate(self._boundary):
            modes = _transformed(modes, axis, kind)
        energy = np.abs(modes) ** 2 / math.prod(field.shape)
        count = len(self.wavenumbers)
        shells: Array = np.bincount(self._shells.ravel(), energy.ravel(), count).astype(np.float64)
        return shells


def _spacing(kind: str, length: float) -> float:
    return (2 if kind == "periodic" else 1) * math.pi / length


def _wavenumbers(n: int, kind: str, length: float) -> Array:
    if kind == "periodic":
        whole: Array = np.abs(np.fft.fftfreq(n, 1 / n)) * (2 * math.pi / length)
        return whole
    first = 1 if kind == "dirichlet" else 0
    half: Array = np.arange(first, n + first, dtype=np.float64) * (math.pi / length)
    return half


def _transformed(field: NDArray[Any], axis: int, kind: str) -> NDArray[Any]:
    """The orthonormal transform of an axis: Fourier, sine (DST-I) or cosine (DCT-II)."""
    n = field.shape[axis]
    moved = np.moveaxis(field, axis, -1)
    if kind == "periodic":
        found = np.fft.fft(moved, norm="ortho")
    elif kind == "dirichlet":
        edge = np.zeros_like(moved[..., :1])
        odd = np.concatenate([edge, moved, edge, -moved[..., ::-1]], axis=-1)
        found = np.fft.fft(odd)[..., 1 : n + 1] * (1j / math.sqrt(2 * (n + 1)))
    else:
        even = np.concatenate([moved, moved[..., ::-1]], axis=-1)
        phase = np.exp(-1j * math.pi * np.arange(n) / (2 * n)) / math.sqrt(2 * n)
        found = np.fft.fft(even)[..., :n] * phase
        found[..., 0] /= math.sqrt(2)
    return np.moveaxis(found, -1, axis)
