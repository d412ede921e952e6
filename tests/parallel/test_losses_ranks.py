"""Property: losses of whole fields and their gradients do not depend on the division of a grid."""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc.grid.structured import Grid
from prdp_hpc.tasks.losses import H1, RelativeL2, Spectral, summed

WORLD = MPI.COMM_WORLD
SHAPES = [(9,), (7, 6), (5, 4, 6)]


@pytest.mark.parametrize("samples", [3, 0])
@pytest.mark.parametrize("boundary", ["periodic", "dirichlet", "neumann"])
@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_parts_of_a_loss_sum_to_the_whole(boundary, samples):
    for shape in SHAPES:
        compare(shape, boundary, samples)


def compare(shape, boundary, samples):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn((2, samples, 2, *shape), generator=generator, dtype=torch.float64)
    lengths = (1.0, 2.0, 0.5)[: len(shape)]
    grids = [Grid(shape, boundary, comm, length=lengths) for comm in (MPI.COMM_SELF, WORLD)]
    losses = [RelativeL2(), H1(0.5)] + ([Spectral()] if boundary == "periodic" else [])
    for loss in losses:
        values, gradients = [], []
        for grid in grids:
            prediction, target = (field[(..., *grid.local_slices)].clone() for field in whole)
            prediction.requires_grad_()
            part = summed(loss, grid)(prediction, target)
            part.backward()
            values.append(grid.comm.allreduce(part.item()))
            gradients.append(grid.gather(prediction.grad))
        assert values[1] == pytest.approx(values[0], rel=1e-12)
        assert torch.allclose(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)
