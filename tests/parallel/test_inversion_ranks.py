"""Property: what is found does not depend on how ranks are divided."""

from copy import deepcopy

import numpy as np
import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc.config import validate
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import build_task
from prdp_hpc.tasks.inversion.lbfgs import LBFGS

WORLD = MPI.COMM_WORLD
# On four ranks, two replicas of two grid ranks are tested with the first case.
FOUR_LONG = pytest.mark.long_on(4)
CASES = [
    {"training": {"optimizer": "adam"}},
    {
        "training": {"optimizer": "lbfgs"},
        "grid": {"boundary": "neumann"},
        "regularisation": {"kind": "tv"},
    },
    {"unknown": {"kind": "network", "features": 4}, "experiments": {"points": None}},
]
AMORTISED = [{}, {"experiments": {"points": 4}, "training": {"batch_size": 3}}]


def run(changes, mesh):
    """Losses and errors of two epochs, the second repeated from the state between, and fields."""
    config = validate(tiny.field_inversion("", **changes), "here")
    task, rows, state = build_task(config, mesh), [], None
    task.solver.refine(1e-13)
    for epoch in (1, 2):
        rows += [task.train_epoch(epoch), *map(float, task.validate().values())]
        state = state or deepcopy(task.state_dict())
    again = build_task(config, mesh)
    again.solver.refine(1e-13)
    again.load_state_dict(state)
    loss = again.train_epoch(2)
    fields = task.fields()
    return rows, loss, fields["log_permeability"], task.gradient()


@pytest.mark.parametrize("case", [0, *(pytest.param(i, marks=FOUR_LONG) for i in (1, 2))])
@pytest.mark.parallel(nprocs=[2, 4])
def test_every_division_finds_the_same(case):
    alone = ProcessMesh.from_world(1, MPI.COMM_SELF)
    expected = run(CASES[case], alone)
    for grid_ranks in {1, 2, WORLD.size}:
        mesh = ProcessMesh.from_world(grid_ranks)
        rows, loss, field, gradient = run(CASES[case], mesh)
        # Set-ups, the last of a row, are counted on each replica.
        width = len(rows) // 2
        for start in (0, width):
            mine, theirs = (some[start : start + width - 1] for some in (rows, expected[0]))
            assert mine == pytest.approx(theirs, rel=1e-9)
        assert loss == pytest.approx(rows[width], rel=1e-9)
        np.testing.assert_allclose(field, expected[2], rtol=1e-9, atol=1e-9)
        scale = expected[3].abs().max().item()
        assert (gradient - expected[3]).abs().max().item() < 1e-8 * scale
        mesh.close()
    alone.close()


def train(changes, mesh):
    """Losses and errors of two epochs of an amortised inversion."""
    task = build_task(validate(tiny.amortised_inversion("", **changes), "here"), mesh)
    task.solver.refine(1e-13)
    return [number for e in (1, 2) for number in (task.train_epoch(e), *task.validate().values())]


@FOUR_LONG
@pytest.mark.parallel(nprocs=[2, 4])
def test_every_division_trains_the_same_network():
    alone = ProcessMesh.from_world(1, MPI.COMM_SELF)
    expected = [train(changes, alone) for changes in AMORTISED]
    for grid_ranks in {1, 2, WORLD.size}:
        mesh = ProcessMesh.from_world(grid_ranks)
        for changes, rows in zip(AMORTISED, expected, strict=True):
            assert train(changes, mesh) == pytest.approx(rows, rel=1e-9)
        mesh.close()
    alone.close()


@FOUR_LONG
@pytest.mark.parallel(nprocs=[2, 4])
def test_lbfgs_takes_inner_products_over_all_ranks():
    """Rosenbrock's function of pairs, which the ranks divide unevenly; far from round numbers."""
    pairs = 5
    bounds = np.linspace(0, pairs, WORLD.size + 1).astype(int)
    whole = torch.linspace(-1.2, 0.9, 2 * pairs).double()

    def find(comm, start):
        x = torch.nn.Parameter(start.clone())

        def dot(one, other):
            return comm.allreduce(torch.dot(one, other).item())

        def closure():
            a, b = x[::2], x[1::2]
            loss = (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum()
            loss.backward()
            return comm.allreduce(loss.item())

        optimizer = LBFGS([x], dot)
        return [optimizer.step(closure) for _ in range(25)], x.detach()

    mine = whole[2 * bounds[WORLD.rank] : 2 * bounds[WORLD.rank + 1]]
    losses, found = find(WORLD, mine)
    expected, _ = find(MPI.COMM_SELF, whole)
    assert losses[:12] == pytest.approx(expected[:12], rel=1e-6)
    assert losses[-1] < 0.1 * losses[0]
    assert len(found) == len(mine)
