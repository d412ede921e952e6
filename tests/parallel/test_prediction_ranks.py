"""Property: predictions, and networks loaded for a part of a grid, are those of one rank."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Solver, load_network, predict, train
from prdp_hpc.config import validate
from prdp_hpc.errors import InputError

WORLD = MPI.COMM_WORLD
SHAPE = (7, 6)
CHANGES = {
    "grid": {"shape": list(SHAPE), "boundary": ["neumann", "dirichlet"]},
    "training": {"epochs": 1},
    "refinement": {"ladder": {"kind": "iterations", "stop": 40}},
}


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


def trained(folder, content, name, **changes):
    config = content(folder, name=name, **{**CHANGES, **changes})
    train(validate(config, "here"))
    return folder / name


def check_states(run, advance, grid_ranks):
    config = run / "config.yaml"
    WORLD.barrier()  # another rank may still read it
    if WORLD.rank == 0:
        config.write_text(
            config.read_text().replace("grid_ranks: null", f"grid_ranks: {grid_ranks}")
        )
    WORLD.barrier()
    found = predict(run, 4, out=run / f"p{grid_ranks}.h5")
    with h5py.File(found["file"]) as file:
        states = file["prediction/trajectories"][()]
        first = file["truth/trajectories"][:, 0]
        view = file["fields/sample_2/step_00003/prediction_u"][0]
    state = torch.from_numpy(first)
    for step in range(1, 5):
        state = advance(state)
        np.testing.assert_allclose(states[:, step], state.detach(), rtol=1e-6, atol=1e-9)
    assert np.array_equal(view, states[2, 3, 0])
    return found["errors"]


def check_loaded(run, whole):
    grid = Grid(SHAPE, CHANGES["grid"]["boundary"])
    field = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    theirs = field.clone().requires_grad_()
    ours = grid.scatter(field).clone().requires_grad_()
    local = load_network(run, partition=grid.partition)
    one, part = whole(theirs), local(ours)
    torch.testing.assert_close(part, grid.scatter(one), rtol=1e-10, atol=1e-12)
    (one**2).sum().backward()
    (part**2).sum().backward()
    torch.testing.assert_close(ours.grad, grid.scatter(theirs.grad), rtol=1e-10, atol=1e-12)
    other = Grid((8, 6), CHANGES["grid"]["boundary"])
    with pytest.raises(InputError, match="partition"):
        load_network(run, partition=other.partition)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_predictions_are_those_of_one_rank(folder):
    for network in ({"kind": "resnet", "channels": 4, "blocks": 1}, {"kind": "mlp", "hidden": [8]}):
        run = trained(folder, tiny.emulator, f"em_{network['kind']}", network=network)
        whole = load_network(run)
        errors = [check_states(run, whole, ranks) for ranks in {1, WORLD.size}]
        assert all(e == pytest.approx(errors[0], rel=1e-9) for e in errors)
        check_loaded(run, whole)
    run = trained(folder, tiny.corrector, "co", data={"reference_factor": 1})
    heat = Heat(Grid(SHAPE, CHANGES["grid"]["boundary"], MPI.COMM_SELF), 1e-2, 1.0, full())
    network = load_network(run)

    def advance(state):
        with torch.no_grad():
            coarse = heat(state)
            return coarse + network(coarse)

    for ranks in {1, WORLD.size}:
        check_states(run, advance, ranks)


def full():
    return Solver("cg", "jacobi", 40)
