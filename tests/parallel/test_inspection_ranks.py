"""Property: the inspection of a data file is the same on any number of ranks, and a bad number that
one rank reads is reported on all.
"""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Burgers, Grid
from prdp_hpc.experiments.inspected import inspect_data
from prdp_hpc.linalg import Solver
from prdp_hpc.physics.stepper import initial_states

WORLD = MPI.COMM_WORLD
SHAPE = (8, 10)


def write(path):
    """Burgers' equation as in a file of PDEBench, x first, with a NaN in the last trajectory."""
    grid = Grid(SHAPE, "periodic", MPI.COMM_SELF)
    burgers = Burgers(grid, 0.01, 0.1, Solver("gmres", "jacobi", 1e-12))
    states = [initial_states(burgers, np.random.default_rng(1), 4, 2)]
    with torch.no_grad():
        states += [burgers(states[-1])]
    stored = torch.stack(states, 1).numpy().transpose(0, 1, 4, 3, 2)
    stored[3, 0, 9, 7, 0] = np.nan
    with h5py.File(path, "w") as file:
        for sample, trajectory in enumerate(stored):
            file[f"{sample:04d}/data"] = trajectory


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 3])
def test_the_inspection_does_not_depend_on_the_ranks(tmp_path):
    path = Path(WORLD.bcast(str(tmp_path))) / "states.h5"
    if WORLD.rank == 0:
        write(path)
    WORLD.barrier()
    content = path.with_suffix(".yaml")
    if WORLD.rank == 0:
        content.write_text(
            "task: emulator\nname: a\ngrid: {shape: [8, 10], boundary: periodic}\n"
            "physics: {pde: burgers, viscosity: 0.02, dt: 0.1}\n"
        )
    WORLD.barrier()
    config = ["data.format.validation=0"]
    together = inspect_data(path, WORLD, content, config, samples=0)
    alone = inspect_data(path, MPI.COMM_SELF, content, config, samples=0)
    assert len(together.bad) == 1
    assert "exclude=[3]" in together.bad[0]
    assert len(together.residual.states) == len(alone.residual.states) == 3
    for (place, one), (same, other) in zip(
        together.residual.states, alone.residual.states, strict=True
    ):
        assert place == same
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for name in ("smallest", "largest"):
        assert [getattr(n, name) for n in together.numbers] == [
            getattr(n, name) for n in alone.numbers
        ]
    (change, _), (same, _) = together.residual.better, alone.residual.better
    assert change == same
    assert (change.key, change.word) == ("viscosity", "1/2")
