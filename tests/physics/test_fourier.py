"""Property: transforms and redistributions of fields. Several ranks:
tests/parallel/test_navier_stokes_ranks.py.
"""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from prdp_hpc import Grid
from prdp_hpc.physics.fourier import FourierTransform, Redistribution

SHAPES = [(5,), (2,), (5, 6), (6, 5), (2, 2), (3, 4, 5), (4, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_backward_undoes_forward(shape):
    transform = FourierTransform(Grid(shape, "periodic", MPI.COMM_SELF))
    fields = torch.randn(3, *shape, dtype=torch.float64)
    np.testing.assert_allclose(
        transform.backward(transform.forward(fields)), fields, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wave_has_one_coefficient_where_its_frequencies_are(shape):
    transform = FourierTransform(Grid(shape, "periodic", MPI.COMM_SELF))
    points = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    for wanted in np.ndindex(*(n // 2 + 1 for n in shape)):
        if any(2 * k == n for k, n in zip(wanted, shape, strict=True)):
            continue  # NumPy counts a Nyquist frequency as negative along some axes
        phase = 2 * np.pi * sum(k * x for k, x in zip(wanted, points, strict=True))
        coefficients = transform.forward(
            torch.from_numpy(np.stack([np.cos(phase), np.sin(phase)]))
        ).numpy()
        where = np.ones(coefficients.shape[1:], dtype=bool)
        for k, frequencies in zip(wanted, transform.frequencies, strict=True):
            where &= frequencies == k
        assert where.sum() == 1
        one = points[0].size if not any(wanted) else points[0].size / 2
        assert coefficients[0][where] == pytest.approx(one)
        assert coefficients[1][where] == pytest.approx(-1j * one if any(wanted) else 0.0)


class Threads:
    """What a redistribution needs of several ranks' communicators, for threads of one process."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=20)
        self.boxes = {}

    def comm(self, rank):
        world = self

        class Comm:
            def __init__(self):
                self.rank = rank

            def Alltoallv(self, sent, received):  # noqa: N802 - MPI's name
                (data, counts), (target, expected) = sent, received
                for other, part in enumerate(np.split(data, np.cumsum(counts)[:-1])):
                    world.boxes[rank, other] = part
                world.barrier.wait()
                parts = [world.boxes[other, rank] for other in range(len(expected))]
                assert [part.size for part in parts] == list(expected)
                target[:] = np.concatenate(parts)
                world.barrier.wait()

        return Comm()

    def run(self, function):
        """`function(rank)` on all ranks at a time; the results."""
        results = [None] * self.barrier.parties

        def call(rank):
            results[rank] = function(rank)

        threads = [threading.Thread(target=call, args=(rank,)) for rank in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@st.composite
def divisions(draw, shape, ranks):
    """Blocks that divide a grid: cuts along its axes, empty parts too, dealt out in any order."""
    along = draw(
        st.sampled_from([factors for factors in FACTORS[ranks] if len(factors) == len(shape)])
    )
    cuts = []
    for n, parts in zip(shape, along, strict=True):
        inner = sorted(draw(st.lists(st.integers(0, n), min_size=parts - 1, max_size=parts - 1)))
        cuts.append([slice(a, b) for a, b in zip([0, *inner], [*inner, n], strict=True)])
    blocks = [tuple(cuts[d][i] for d, i in enumerate(index)) for index in np.ndindex(*along)]
    return draw(st.permutations(blocks))


FACTORS = {
    1: [(1,), (1, 1), (1, 1, 1)],
    2: [(2,), (1, 2), (2, 1), (1, 2, 1)],
    4: [(4,), (2, 2), (4, 1), (1, 4), (2, 1, 2), (1, 1, 4)],
    6: [(6,), (2, 3), (3, 2), (1, 6), (1, 3, 2), (3, 2, 1)],
}


@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    ranks=st.sampled_from([1, 2, 4, 6]),
)
def test_a_redistribution_moves_every_point_and_back(data, shape, ranks):
    source, target = data.draw(divisions(shape, ranks)), data.draw(divisions(shape, ranks))
    whole = torch.randn(2, *shape, dtype=torch.float64)
    parts = [whole[(slice(None), *block)] for block in source]
    threads = Threads(ranks)

    def there_and_back(rank):
        comm = threads.comm(rank)
        moved = Redistribution(comm, source, target)(parts[rank])
        return moved, Redistribution(comm, target, source)(moved)

    for rank, (moved, back) in enumerate(threads.run(there_and_back)):
        np.testing.assert_array_equal(moved, whole[(slice(None), *target[rank])])
        np.testing.assert_array_equal(back, parts[rank])
