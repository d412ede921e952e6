"""Spectra: Parseval's identity, and single modes at their wavenumbers."""

import itertools

import numpy as np
import pytest

from prdp_hpc import Grid
from prdp_hpc.experiments.spectra import Spectrum

KINDS = ("dirichlet", "neumann", "periodic")


@pytest.mark.parametrize("boundary", itertools.product(KINDS, repeat=3))
def test_the_energies_add_up_to_the_mean_square(boundary):
    field = np.random.default_rng(0).standard_normal((5, 6, 7))
    spectrum = Spectrum(field.shape, boundary, (1.0, 2.0, 0.5))
    assert spectrum(field).sum() == pytest.approx(np.square(field).mean(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mode_has_its_energy_at_its_wavenumber(kind):
    length, mode = 2.0, 3
    grid = Grid((16,), kind, length=length)
    x = grid.axis_points(0)
    wavenumber = mode * np.pi / length * (2 if kind == "periodic" else 1)
    wave = np.sin if kind == "dirichlet" else np.cos
    spectrum = Spectrum(grid.shape, grid.boundary, grid.length)
    energy = spectrum(wave(wavenumber * x))
    largest = int(np.argmax(energy))
    assert spectrum.wavenumbers[largest] == pytest.approx(wavenumber)
    assert energy[largest] == pytest.approx(energy.sum(), rel=1e-12)


def test_shells_are_radial():
    grid = Grid((16, 16), "periodic")
    y, x = (axis.numpy() for axis in grid.coordinates())
    spectrum = Spectrum(grid.shape, grid.boundary, grid.length)
    energy = spectrum(np.cos(2 * np.pi * 3 * x) * np.cos(2 * np.pi * 4 * y))
    assert spectrum.wavenumbers[int(np.argmax(energy))] == pytest.approx(2 * np.pi * 5)
