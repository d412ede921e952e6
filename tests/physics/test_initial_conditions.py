"""Accuracy: the initial states are of the family that the authors' are of."""

import math

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_data import reference

from prdp_hpc.physics.initial_conditions import normalised_fourier, truncated_fourier

X = (np.arange(30) + 1) / 31


def basis(modes, x=X):
    """Columns sin(2πmx), cos(2πmx) for m = 1 … modes."""
    return np.stack(
        [wave(2 * math.pi * m * x) for m in range(1, modes + 1) for wave in (np.sin, np.cos)],
        axis=1,
    )


def fit(states, modes):
    """Amplitudes and the largest residual of a least-squares fit."""
    amplitudes, *_ = np.linalg.lstsq(basis(modes), states.T, rcond=None)
    return amplitudes, np.abs(basis(modes) @ amplitudes - states.T).max()


def test_the_authors_family_in_one_dimension():
    with h5py.File(reference("heat_1d.h5")) as file:
        theirs = file["train/trajectories"][:, 0].astype(np.float64)
    ours = truncated_fourier(np.random.default_rng(0), 200, [X], modes=5)
    for states in (theirs, ours):
        amplitudes, residual = fit(states, 5)
        assert residual < 1e-5
        assert 0.95 < np.abs(amplitudes).max() <= 1 + 1e-5
        assert fit(states, 4)[1] > 0.1  # no smaller family does
        # uniform in (-1, 1): variance 1/3
        assert amplitudes.var() == pytest.approx(1 / 3, rel=0.1)


@given(
    st.lists(st.integers(2, 5), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 10**6),
)
def test_products_of_one_wave_per_axis(shape, samples, modes, seed):
    axes = [(np.arange(n) + 1) / (n + 1) for n in shape]
    states = truncated_fourier(np.random.default_rng(seed), samples, axes, modes)
    assert states.shape == (samples, *shape)
    generator, expected = np.random.default_rng(seed), np.zeros((samples, *shape))
    points = np.meshgrid(*axes, indexing="ij")
    for m in range(1, modes + 1):
        for which in np.ndindex((2,) * len(shape)):
            waves = [
                (np.sin, np.cos)[w](2 * math.pi * m * x) for w, x in zip(which, points, strict=True)
            ]
            amplitude = generator.uniform(-1, 1, samples)
            expected += amplitude.reshape(-1, *[1] * len(shape)) * np.prod(waves, axis=0)
    np.testing.assert_allclose(states, expected, atol=1e-12)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 10**6))
def test_normalised_series_reach_1_and_keep_the_proportions_of_their_channels(
    channels, samples, seed
):
    axes = [X, X[:7]]
    states = normalised_fourier(np.random.default_rng(seed), samples, channels, axes, 3)
    assert states.shape == (samples, channels, 30, 7)
    np.testing.assert_allclose(np.abs(states).reshape(samples, -1).max(axis=1), 1.0)
    generator = np.random.default_rng(seed)
    series = [truncated_fourier(generator, samples, axes, 3) for _ in range(channels)]
    for sample in range(samples):
        scale = np.abs([s[sample] for s in series]).max()
        np.testing.assert_allclose(states[sample] * scale, [s[sample] for s in series], atol=1e-12)
