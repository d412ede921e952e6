"""Property: each setting of the optimisation gives the same training for every division of ranks,
and continues bit for bit from a stored state.
"""

from copy import deepcopy
from pathlib import Path

import pytest
import tiny
import torch
from mpi4py import MPI
from torch import nn

from prdp_hpc.config import validate
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import ConfigParts, build_recipe, build_task
from prdp_hpc.tasks.emulator import Emulator
from prdp_hpc.tasks.random_states import random_state, restore_random_state

WORLD = MPI.COMM_WORLD
MANY = {
    "optimizer": {"kind": "AdamW", "weight_decay": 0.1},
    "weight_decay_on": "weights",
    "schedule": {"kind": "plateau", "patience": 0, "threshold": 0.5},
    "warmup_steps": 2,
    "clip_norm": 0.05,
    "accumulate": 3,
    "ema": 0.5,
}
CLOSURE = {
    "optimizer": {"kind": "LBFGS", "max_iter": 3, "line_search_fn": "strong_wolfe"},
    "learning_rate": 1.0,
    "accumulate": 2,
}
RESNET = {"kind": "resnet", "channels": 4, "blocks": 1}
SPECTRAL = {"kind": f"{Path(__file__).parents[1] / 'spectral_network.py'}:Spectral"}
CASES = [
    {"training": MANY, "network": RESNET},
    {"training": CLOSURE},
    {"training": {"checkpoint_activations": "steps"}, "network": RESNET},
    # Complex parameters, and empty shares of a batch, which FFTs refuse.
    {"training": {"accumulate": 3, "clip_norm": 0.05, "ema": 0.5}, "network": SPECTRAL},
]
COMPILED = {
    "training": {"compile": "eager", "checkpoint_activations": True, "batch_size": 2},
    "network": RESNET,
}


def config_of(folder, changes):
    return validate(tiny.emulator(folder, **changes), "here")


def trained(task, epochs):
    """Losses and errors of some epochs."""
    rows = []
    for epoch in epochs:
        loss, errors = task.train_epoch(epoch), task.validate()
        task.after_validation(errors["error"])
        rows += [loss, *errors.values()]
    return rows


def run(make):
    """The rows of three epochs; the last two are computed again from the state between."""
    task = make()
    task.solver.refine(3)
    rows = trained(task, [1])
    state, generators = deepcopy(task.state_dict()), random_state()
    later = trained(task, [2, 3])
    again = make()
    again.solver.refine(3)
    again.load_state_dict(state)
    restore_random_state(generators)
    assert trained(again, [2, 3]) == later
    assert task.step_numbers() == again.step_numbers() or "evaluations" in task.step_numbers()
    return rows + later, task.step_numbers()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(0, marks=pytest.mark.long_on(2)),
        *(pytest.param(i, marks=pytest.mark.long_on(4)) for i in (1, 2, 3)),
    ],
)
@pytest.mark.parallel(nprocs=[2, 4])
def test_every_division_trains_the_same_network(case, tmp_path):
    check_divisions(CASES[case], tmp_path)


@pytest.mark.long
@pytest.mark.parallel(nprocs=2)
def test_every_division_trains_the_same_compiled_network(tmp_path):
    check_divisions(COMPILED, tmp_path)
    config = config_of(WORLD.bcast(str(tmp_path)), {"training": {"compile": "inductr"}})
    mesh = ProcessMesh.from_world(1)
    with pytest.raises(InputError, match=r"training\.compile: 'inductr' is no backend"):
        build_task(config, mesh)
    mesh.close()


def check_divisions(changes, tmp_path):
    folder = WORLD.bcast(str(tmp_path))
    config = config_of(folder, changes)
    whole = ProcessMesh.from_world(1)
    build_task(config, whole)  # generates the data
    whole.close()
    alone = ProcessMesh.from_world(1, MPI.COMM_SELF)
    expected, numbers = run(lambda: build_task(config, alone))
    for grid_ranks in {1, 2, WORLD.size}:
        mesh = ProcessMesh.from_world(grid_ranks)
        rows, found = run(lambda mesh=mesh: build_task(config, mesh))
        assert rows == pytest.approx(expected, rel=1e-7)
        assert found["learning_rate"] == pytest.approx(numbers["learning_rate"], rel=1e-12)
        assert found["gradient_norm"] == pytest.approx(numbers["gradient_norm"], rel=1e-5)
        assert set(WORLD.allgather(tuple(found.items()))) == {tuple(found.items())}
        mesh.close()
    alone.close()


class Dropped(nn.Module):
    """A network on whole fields with dropout, which stores its last mask."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(8))

    def forward(self, fields):
        kept = nn.functional.dropout(torch.ones_like(fields[:1]), 0.5, self.training)
        self.kept = kept
        return self.layer(fields) * kept


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 4])
def test_dropout_is_equal_on_the_grid_ranks_of_a_replica_and_differs_between_replicas(tmp_path):
    config = config_of(WORLD.bcast(str(tmp_path)), {"training": {"batch_size": 10}})
    for grid_ranks in {1, 2}:
        mesh = ProcessMesh.from_world(grid_ranks)

        def make(mesh=mesh):
            parts = ConfigParts(config, mesh)
            return Emulator(parts.stepper(), Dropped(), parts.data, mesh, build_recipe(config))

        run(make)
        task = make()
        task.solver.refine(1)
        task.train_epoch(1)
        masks = WORLD.allgather((mesh.replica, tuple(task.network.kept.flatten().tolist())))
        assert len(set(masks)) == mesh.replicas
        assert len({mask for _, mask in masks}) == mesh.replicas
        mesh.close()
