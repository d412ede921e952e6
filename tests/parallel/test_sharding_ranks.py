"""Property: a network that is divided among the ranks is trained like one that every rank holds,
and continues from the same checkpoints; each rank keeps its part only.
"""

from copy import deepcopy
from pathlib import Path

import pytest
import tiny
import torch
from mpi4py import MPI
from torch import nn

from prdp_hpc import cli, evaluate, load_network
from prdp_hpc.config import validate
from prdp_hpc.distributed.broadcast import broadcast
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.distributed.shards import is_shard, local, whole
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import ConfigParts, build_recipe, build_task, process_mesh
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.tasks.emulator import Emulator
from prdp_hpc.tasks.random_states import random_state, restore_random_state

WORLD = MPI.COMM_WORLD
RESNET = {"kind": "resnet", "channels": 8, "blocks": 2}
# The last of 3 batches has one sample, and so has validation: some replicas have none.
MANY = {
    "network": RESNET,
    "data": {"train": 9, "validation": 1},
    "training": {
        "optimizer": {"kind": "AdamW", "weight_decay": 0.1},
        "weight_decay_on": "weights",
        "schedule": {"kind": "plateau", "patience": 0, "threshold": 0.5},
        "clip_norm": 0.05,
        "accumulate": 3,
        "ema": 0.5,
    },
}
ROLLOUT = {"network": RESNET, "emulator": {"chain": "rollout", "unroll": 3}, "data": {"steps": 4}}
CASES = {
    "mlp": {},
    "unet": {"network": {"kind": "unet", "channels": 4, "depth": 1}, "grid": {"shape": [8, 8]}},
    "rollout": ROLLOUT,
    "recomputed": ROLLOUT | {"training": {"checkpoint_activations": True}},
    "recomputed steps": {"make": tiny.corrector, "network": RESNET}
    | {"training": {"checkpoint_activations": "steps"}},
    "compiled": {"network": RESNET, "training": {"compile": "eager"}},
    "normalised": {"network": RESNET, "data": {"normalise": "standard"}},
    "one sample": {"training": {"batch_size": 1}, "data": {"train": 2, "validation": 1}},
    "float32": {"training": {"precision": "float32"}},
    "corrector": {"make": tiny.corrector, "network": RESNET},
    "amortised": {"make": tiny.amortised_inversion},
}


@pytest.fixture
def folder(tmp_path):
    return WORLD.bcast(str(tmp_path))


def config_of(folder, make=tiny.emulator, **changes):
    return validate(make(folder, **changes), "here")


def parameters(task):
    return torch.cat([whole(p).detach().flatten() for p in task.network.parameters()])


def trained(task, epochs):
    """Losses, errors and norms of some epochs."""
    rows = []
    task.solver.refine(3)
    for epoch in epochs:
        rows += [task.train_epoch(epoch), task.validate()["error"]]
        rows.append(task.step_numbers()["gradient_norm"])
        task.after_validation(rows[1])
    return rows


def check_equal(config, grid_ranks, make=build_task, exact=1e-12, epochs=(1,)):
    """Train a task and its sharded twin; both are returned with their mesh."""
    found = []
    for sharded in (False, True):
        mesh = ProcessMesh.from_world(grid_ranks, shard_network=sharded)
        task = make(config, mesh)
        found.append((mesh, task, trained(task, epochs), task.gradient()))
    (_, plain, rows, gradient), (_, task, sharded_rows, sharded_gradient) = found
    assert sharded_rows == pytest.approx(rows, rel=exact)
    assert all(map(is_shard, task.network.parameters()))
    # Adam amplifies the rounding of gradients that would be zero, e.g. before a normalisation.
    torch.testing.assert_close(parameters(task), parameters(plain), rtol=exact, atol=1e5 * exact)
    scale = gradient.abs().max()
    torch.testing.assert_close(
        sharded_gradient, gradient, rtol=1e3 * exact, atol=exact * float(scale)
    )
    assert set(WORLD.allgather(tuple(sharded_rows))) == {tuple(sharded_rows)}
    return found[0][0], plain, found[1][0], task


@pytest.mark.parallel(nprocs=2)
def test_a_sharded_network_is_trained_like_a_whole_one(folder):
    check_training(folder)


@pytest.mark.long
@pytest.mark.parallel(nprocs=4)
def test_a_sharded_network_is_trained_like_a_whole_one_on_four_ranks(folder):
    check_training(folder)


def check_training(folder):
    config = config_of(folder, **MANY)
    mesh, plain, sharded_mesh, task = check_equal(config, WORLD.size // 2)
    torch.testing.assert_close(parameters(task), parameters(plain), rtol=0, atol=1e-12)
    check_memory(task)
    # A rank other than 0 keeps nothing of the whole state.
    state, generators = task.state_dict(), random_state()
    names = ("network", "trained_network")
    if WORLD.rank:
        assert all(not isinstance(v, torch.Tensor) for n in names for v in state[n].values())
    state = deepcopy(broadcast(WORLD, state))
    expected = [each.sampled_gradient(5) for each in (plain, task)]
    torch.testing.assert_close(*(gradient for gradient, _ in expected), rtol=1e-9, atol=1e-12)
    assert expected[0][1] == pytest.approx(expected[1][1], rel=1e-9)
    later = trained(task, [2])
    again = build_task(config, sharded_mesh)
    again.load_state_dict(deepcopy(state))
    restore_random_state(generators)
    assert trained(again, [2]) == later
    assert torch.equal(parameters(again), parameters(task))
    # The same state continues with whole parameters, and that of whole parameters in parts.
    plain.load_state_dict(state)
    assert trained(plain, [2]) == pytest.approx(later, rel=1e-12)
    task.load_state_dict(deepcopy(plain.state_dict()))
    assert torch.equal(parameters(task), parameters(plain))
    assert task.validate()["error"] == pytest.approx(plain.validate()["error"], rel=1e-12)
    for each in (mesh, sharded_mesh):
        each.close()


def check_memory(task):
    """Each rank has about 1/R of the parameters, gradients, moments and averages."""
    own = list(task.network.parameters())
    states = [task._optimiser.state[p] for p in own]
    tensors = [
        *own,
        *(s[key] for s in states for key in ("exp_avg", "exp_avg_sq")),
        *task._average._average,
    ]
    mine = sum(local(tensor).untyped_storage().nbytes() for tensor in tensors)
    complete = 4 * sum(p.numel() * p.element_size() for p in own)
    # A part has the rows ⌈n / R⌉, and torch pads the parts of parameters to that number.
    rows = [4 * p.element_size() * -(-len(p) // WORLD.size) * (p.numel() // len(p)) for p in own]
    assert mine <= sum(rows) < complete
    assert complete <= WORLD.allreduce(mine)
    gathered = []

    def count(module, inputs):
        gathered.append(sum(local(p).numel() for p in own_now()) / sum(p.numel() for p in own))

    def own_now():
        return [
            p
            for module in task.network.modules()
            for p in module._parameters.values()
            if p is not None
        ]

    hooks = [m.register_forward_pre_hook(count) for m in task.network.blocks]
    task.validate()
    for hook in hooks:
        hook.remove()
    # One block at a time, of two that have nearly all parameters.
    assert gathered
    assert max(gathered) < 0.55 + 0.6 / WORLD.size


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parallel(nprocs=[2, 4])
def test_every_setting_trains_the_same_sharded_network(case, folder):
    config = config_of(folder, **CASES[case])
    for grid_ranks in {1, 2, WORLD.size}:
        exact = {"float32": 1e-5, "unet": 1e-10, "amortised": 1e-9}.get(case, 1e-12)
        mesh, _, sharded_mesh, _ = check_equal(config, grid_ranks, exact=exact, epochs=(1, 2))
        mesh.close()
        sharded_mesh.close()


class Mixed(nn.Module):
    """A network on whole fields with running statistics, dropout, frozen and shared parameters, and
    blocks that return views.
    """

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8), nn.Flatten(1)])
        self.blocks[1].weight = self.blocks[0].weight
        self.last = nn.Linear(8, 8)
        self.last.bias.requires_grad_(False)
        self.norm = nn.BatchNorm1d(1)
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.5, 0.5)

    def forward(self, fields):
        state = self.norm(fields)
        for block in self.blocks:
            state = block(state)
            state += 0.1
        dropped = nn.functional.dropout(torch.ones_like(fields[:1]), 0.5, self.training)
        return self.last(state).unsqueeze(1) * dropped


@pytest.mark.parallel(nprocs=2)
def test_networks_of_users_are_sharded_without_code(folder):
    config = config_of(folder, training={"batch_size": 10})

    def make(config, mesh):
        parts = ConfigParts(config, mesh)
        return Emulator(parts.stepper(), Mixed(), parts.data, mesh, build_recipe(config))

    mesh, plain, sharded_mesh, task = check_equal(config, 1, make)
    pairs = zip(plain.network.buffers(), task.network.buffers(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
        assert all(torch.equal(other, each) for each in WORLD.allgather(other))
    for each in (mesh, sharded_mesh):
        each.close()


class Tied(nn.Module):
    """A network that uses a parameter of a block without calling the block."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, fields):
        return self.blocks[1](nn.functional.linear(fields, self.blocks[0].weight))


class TiedWhole(Tied):
    sharded_modules = ("blocks.1",)


@pytest.mark.parallel(nprocs=2)
def test_what_cannot_be_sharded_is_an_input_error(folder):
    mesh, states = ProcessMesh.from_world(shard_network=True), torch.ones(2, 1, 8)
    with pytest.raises(InputError, match="Tied uses a parameter of one of its blocks without"):
        mesh.data_parallel(Tied())(states)
    assert mesh.data_parallel(TiedWhole())(states).shape == states.shape
    wrong = TiedWhole()
    wrong.sharded_modules = ("blocks.2",)
    with pytest.raises(InputError, match=r"sharded_modules: 'blocks.2' is no module"):
        mesh.data_parallel(wrong)
    for parameter, message in (
        (nn.Parameter(torch.zeros(2, dtype=torch.complex64)), "weight is complex"),
        (nn.Parameter(torch.zeros(())), r"weight has no axis .* shape \(1,\)"),
        (nn.UninitializedParameter(), "weight of Linear has no size yet"),
    ):
        network = nn.Linear(8, 8)
        network.weight = parameter
        with pytest.raises(InputError, match=message):
            mesh.data_parallel(network)
    mixed = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8).double())
    with pytest.raises(InputError, match=r"has the type torch\.float32, and others"):
        mesh.data_parallel(mixed)
    twice = nn.Linear(8, 8)
    mesh.data_parallel(twice)
    with pytest.raises(InputError, match="divided already"):
        mesh.data_parallel(twice)
    for optimizer, message in (("LBFGS", "needs all parameters"), ("Adafactor", "cannot compute")):
        training = {"optimizer": optimizer, "batch_size": 10}
        with pytest.raises(InputError, match=rf"training\.optimizer: {optimizer} .*{message}"):
            trained(build_task(config_of(folder, training=training), mesh), [1])
    mesh.close()
    by_mpi = ProcessMesh.from_world(gradients="mpi")
    with pytest.raises(InputError, match="give auto or torch instead of mpi"):
        by_mpi.data_parallel(nn.Linear(8, 8), shard=True)
    by_mpi.close()


@pytest.mark.parallel(nprocs=2)
def test_checkpoints_of_sharded_and_whole_networks_are_the_same_files(folder):
    def train(name, epochs, resume=False, **changes):
        training = {"epochs": epochs, **MANY["training"], **changes.pop("training", {})}
        content = tiny.emulator(folder, name=name, network=RESNET, training=training, **changes)
        config = validate(content, "here")
        mesh = process_mesh(config)
        summary = run_experiment(config, mesh, Path(folder) / name, resume)
        mesh.close()
        return summary

    sharded = {"parallel": {"shard_network": True}}
    whole_run = train("whole", 2)
    expected = train("sharded", 2, **sharded)
    assert expected["error"] == pytest.approx(whole_run["error"], rel=1e-12)
    other = {"parallel": {"shard_network": True, "grid_ranks": 2}}
    for name, first, second in (
        ("same", sharded, sharded),
        ("to_whole", other, {}),
    ):
        train(name, 1, **first)
        found = train(name, 2, resume=True, **second)
        exact = 0 if first is second else 1e-12
        assert found["error"] == pytest.approx(expected["error"], rel=exact, abs=0)
    train("tuned", 1, training={"init_from": f"{folder}/sharded"}, **sharded)
    if WORLD.rank == 0:
        first = tiny.rows(Path(folder) / "tuned")[0]
        assert first["error"] == pytest.approx(expected["error"], rel=1e-12)
    errors = evaluate(f"{folder}/sharded", checkpoint="best")
    assert errors["error"] == pytest.approx(expected["best"]["error"], rel=1e-12)
    if WORLD.rank == 0:
        state = load_network(f"{folder}/sharded").state_dict()
        other = load_network(f"{folder}/whole").state_dict()
        assert all(torch.allclose(state[name], other[name], rtol=1e-12) for name in state)
    cli.main(["predict", f"{folder}/sharded", "--steps", "2"])
