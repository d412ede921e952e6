"""Property: the blocks of a sharded network have disjoint parameters, and one rank divides
nothing.
"""

import pytest
import tiny
import torch
from torch import nn

from prdp_hpc import MLP, ProcessMesh, UNet
from prdp_hpc.config import ConfigError, validate
from prdp_hpc.distributed.sharding import LEAST, blocks
from prdp_hpc.experiments.build import build_task
from prdp_hpc.grid.partition import Partition


def names(network):
    known = {id(module): name for name, module in network.named_modules()}
    return [known[id(module)] for module in blocks(network)]


def tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4)]))
    network[1].weight = network[0].weight
    return network


def repeated():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def attention():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MLP(8, 8, (100, 100)), ["layers.4", "layers.2", "layers.0"]),
        (tied(), ["2.0"]),
        (repeated(), ["0"]),
        (nn.Linear(4, 4), []),
        (attention(), ["layers.1", "layers.0"]),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4)), ["1", "0.0"]),
    ],
)
def test_elements_of_containers_are_gathered_together(network, expected):
    assert names(network) == expected


def test_large_layers_within_a_block_are_blocks_themselves():
    network = UNet(Partition.whole((16,), "periodic"), 1, 1, channels=8, depth=2)
    found, seen = blocks(network), set()
    total = sum(p.numel() for p in network.parameters())
    for block in found:
        own = {id(p): p.numel() for p in block.parameters()}
        assert LEAST * total <= sum(n for key, n in own.items() if key not in seen) < total / 2
        seen |= set(own)
    assert len(found) == len({id(block) for block in found}) > 5
    assert {id(p) for p in network.parameters()} - seen  # gathered with the whole network


def test_one_rank_divides_nothing(tmp_path):
    found = []
    for shard in (False, True):
        mesh = ProcessMesh.from_world(1, shard_network=shard)
        task = build_task(validate(tiny.emulator(tmp_path), "here"), mesh)
        task.solver.refine(2)
        loss = task.train_epoch(1)
        found.append((loss, torch.nn.utils.parameters_to_vector(task.network.parameters())))
        assert not task._parallel.sharded
        mesh.close()
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("make", "parallel", "message"),
    [
        (tiny.emulator, {"gradients": "mpi"}, "give auto or torch instead of mpi"),
        (tiny.inverse, {}, r"parallel\.shard_network: this task has no network to be divided"),
        (
            tiny.field_inversion,
            {},
            r"parallel\.shard_network: this task has no network to be divided",
        ),
    ],
)
def test_configs_without_a_network_to_divide_are_errors(make, parallel, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        validate(make(tmp_path, parallel={"shard_network": True, **parallel}), "here")
