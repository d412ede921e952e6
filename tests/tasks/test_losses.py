"""Accuracy: each loss has the values of its definition, and gradients of finite differences."""

import numpy as np
import pytest
import tiny
import torch
from differences import check_gradient
from mpi4py import MPI

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.tasks.losses import H1, Absolute, Huber, RelativeL2, Spectral, Squared, summed

NAMES = ["absolute", "huber", "relative_l2", "h1", "spectral"]


def fields(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((3, 2, *shape), generator=generator, dtype=torch.float64)


def value(loss, grid, prediction, target):
    """The mean over samples, as it is minimised."""
    return float(summed(loss, grid)(prediction, target)) / prediction.numel()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_finite_difference(name, make_task):
    changes = {
        "grid": {"shape": [4, 6], "boundary": "periodic"},
        "training": {"batch_size": 10, "loss": name},
    }
    check_gradient(lambda: make_task(tiny.emulator, 2, **changes)[0])


def test_losses_of_entries():
    grid, p, t = Grid((5,), comm=MPI.COMM_SELF), fields((5,), 1), fields((5,), 2)
    error = (p - t).numpy()
    small = np.abs(error) <= 0.5
    huber = np.where(small, error**2 / 2, 0.5 * (np.abs(error) - 0.25))
    assert value(Squared(), grid, p, t) == pytest.approx(np.mean(error**2), rel=1e-14)
    assert value(Absolute(), grid, p, t) == pytest.approx(np.mean(np.abs(error)), rel=1e-14)
    assert value(Huber(0.5), grid, p, t) == pytest.approx(np.mean(huber), rel=1e-14)


def test_relative_l2_is_the_mean_ratio_of_norms():
    grid, p, t = Grid((4, 5), comm=MPI.COMM_SELF), fields((4, 5), 1), fields((4, 5), 2)
    norms = [np.sqrt((x.numpy() ** 2).sum(axis=(1, 2, 3))) for x in (p - t, t)]
    assert value(RelativeL2(), grid, p, t) == pytest.approx(np.mean(norms[0] / norms[1]), rel=1e-14)
    exact = p.clone().requires_grad_()
    summed(RelativeL2(), grid)(exact, p).backward()
    assert torch.equal(exact.grad, torch.zeros_like(p))
    with pytest.raises(InputError, match="zero everywhere"):
        value(RelativeL2(), grid, p, torch.zeros_like(t))


@pytest.mark.parametrize("boundary", ["periodic", "dirichlet", "neumann"])
def test_h1_is_the_error_and_its_differences(boundary):
    grid = Grid((4, 6), boundary, MPI.COMM_SELF, length=(1.0, 2.0))
    p, t = fields((4, 6), 1), fields((4, 6), 2)
    error = (p - t).numpy()
    mode = {"periodic": "wrap", "dirichlet": "constant", "neumann": "edge"}[boundary]
    expected = np.mean(error**2)
    for axis, h in ((2, grid.spacing[0]), (3, grid.spacing[1])):
        width = [(0, 0)] * 4
        width[axis] = (0, 1) if boundary == "periodic" else (1, 1)
        slopes = np.diff(np.pad(error, width, mode=mode), axis=axis) / h
        expected += 0.3 * (slopes**2).sum() / error.size
    assert value(H1(0.3), grid, p, t) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 4, 4)])
def test_the_spectral_loss_weights_fourier_coefficients(shape):
    grid = Grid(shape, "periodic", MPI.COMM_SELF)
    p, t = fields(shape, 1), fields(shape, 2)
    axes = tuple(range(2, 2 + len(shape)))
    coefficients = np.abs(np.fft.fftn((p - t).numpy(), axes=axes)) / np.prod(shape)
    waves = np.meshgrid(*(np.fft.fftfreq(n, 1.0 / n) for n in shape), indexing="ij")
    weights = (1.0 + sum(k**2 for k in waves)) ** -0.5
    expected = (weights * coefficients**2).sum() / 6
    assert value(Spectral(-0.5), grid, p, t) == pytest.approx(expected, rel=1e-12)
    assert value(Spectral(0), grid, p, t) == pytest.approx(np.mean((p - t).numpy() ** 2), rel=1e-12)
