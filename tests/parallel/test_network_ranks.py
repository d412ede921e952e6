"""Property: on any partition a network equals that of one rank, in output and gradients, and no
rank has more than its part.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mpi4py import MPI
from torch.nn.parallel import DistributedDataParallel

from prdp_hpc import Grid, ProcessMesh
from prdp_hpc.distributed.transport import TRAFFIC, TorchTransport, all_reduce_sum
from prdp_hpc.grid import halo
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import Convolution, GroupNorm, Pooling, ResNet, TransposedConvolution, UNet

WORLD = MPI.COMM_WORLD
KINDS = ("dirichlet", "neumann", "periodic")


def grid_and_whole(shape, boundary):
    return Grid(shape, boundary), Partition.whole(shape, boundary)


def same_on_all(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(kind, partition, *arguments, **options):
    torch.manual_seed(5)
    return kind(partition, *arguments, **options).double()


def summed(tensor):
    return all_reduce_sum(tensor, WORLD)


def cut(whole, partition):
    return whole[(..., *partition.local_slices)]


def check(parts, whole, source, target):
    """Outputs, gradients of the field and of the parameters: `parts` on the partition `source` to
    `target` against one rank's.
    """
    field = same_on_all(2, 2, *source.shape).requires_grad_()
    local = cut(field.detach(), source).clone().requires_grad_()
    theirs, ours = whole(field), parts(local)
    torch.testing.assert_close(ours, cut(theirs, target), rtol=1e-10, atol=1e-10)
    weight = same_on_all(*theirs.shape, seed=1)
    (theirs * weight).sum().backward()
    (ours * cut(weight, target)).sum().backward()
    torch.testing.assert_close(local.grad, cut(field.grad, source), rtol=1e-10, atol=1e-10)
    for mine, reference in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(summed(mine.grad), reference.grad, rtol=1e-10, atol=1e-10)


def check_layers(shape, boundary):
    grid, whole = grid_and_whole(shape, boundary)
    mine = grid.partition
    for kernel, stride in itertools.product((2, 3, 5), (1, 2)):
        pair = [
            built(Convolution, part, 2, 3, kernel=kernel, stride=stride) for part in (mine, whole)
        ]
        check(*pair, mine, pair[0].output)
    for kind in ("average", "max"):
        check(Pooling(mine, kind), Pooling(whole, kind), mine, mine.coarsen(2))
    for kernel in (2, 3, 4):
        pair = [built(TransposedConvolution, part, 2, 3, kernel=kernel) for part in (mine, whole)]
        check(*pair, mine.coarsen(2), mine)
    check(GroupNorm(mine, 1, 2).double(), GroupNorm(whole, 1, 2).double(), mine, mine)


def check_networks(shape, boundary, depth):
    grid, whole = grid_and_whole(shape, boundary)
    pair = [
        built(ResNet, part, 2, 3, channels=4, blocks=2, activation="tanh")
        for part in (grid.partition, whole)
    ]
    check(*pair, grid.partition, grid.partition)
    pair = [
        built(UNet, part, 2, 3, channels=4, depth=depth, activation="gelu")
        for part in (grid.partition, whole)
    ]
    check(*pair, grid.partition, grid.partition)


def check_that_torch_carries_halos_and_sums_as_mpi_does(monkeypatch):
    mesh = ProcessMesh.from_world(grid_ranks=WORLD.size)
    through_torch = TorchTransport(dist.group.WORLD)
    for boundary in itertools.product(KINDS, repeat=2):
        field = torch.randn(2, 3, *Grid((9, 8), boundary).local_shape, requires_grad=True)
        results = []
        for transport in (None, through_torch):
            with monkeypatch.context() as patch:
                if transport is not None:
                    patch.setattr(halo, "transport_for", lambda *_: through_torch)
                padded = Grid((9, 8), boundary).halo(field, 2)
                (gradient,) = torch.autograd.grad(padded.square().sum(), field)
            results.append((padded, gradient))
        for by_mpi, by_torch in zip(*results, strict=True):
            assert torch.equal(by_mpi, by_torch)
    part = torch.full((3,), float(WORLD.rank + 1))
    assert torch.equal(through_torch.all_reduce(part), summed(part))
    mesh.close()


def check_that_ddp_sums_over_grid_ranks_and_averages_over_replicas():
    mesh = ProcessMesh.from_world(grid_ranks=2)
    grid = Grid((9, 8), "periodic", mesh.grid_comm)
    network = built(ResNet, grid.partition, 1, 1, channels=4, blocks=1)
    alone = built(ResNet, Partition.whole((9, 8), "periodic"), 1, 1, channels=4, blocks=1)
    samples = same_on_all(2, 3, 1, 9, 8)  # three samples a replica
    divided = DistributedDataParallel(network)
    # DDP takes the mean over all ranks: so times the grid ranks it is the sum over them and the
    # mean over replicas.
    loss = divided(cut(samples[mesh.replica], grid.partition)).square().sum() * mesh.grid_ranks
    loss.backward()
    (sum(alone(replica).square().sum() for replica in samples) / mesh.replicas).backward()
    for mine, reference in zip(network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-10, atol=1e-10)
    mesh.close()


def check_that_a_rank_works_and_sends_in_proportion_to_its_part():
    shape = (32, 32)
    grid, _ = grid_and_whole(shape, "periodic")
    network = built(ResNet, grid.partition, 1, 1, channels=4, blocks=1)
    seen = []
    for module in network.modules():
        module.register_forward_hook(
            lambda _, inputs, output: seen.extend(t.shape for t in (inputs[0], output))
        )
    before = copy.copy(TRAFFIC)
    output = network(torch.randn(5, 1, *grid.local_shape, dtype=torch.float64))
    padded = np.prod([n + 2 for n in grid.local_shape])
    assert len(seen) > 10
    assert all(np.prod(shape[2:]) <= padded for shape in seen)
    # Three convolutions, 1, 4 and 4 channels in, 8 bytes a number, 5 samples; two slabs along each
    # axis that is divided.
    parts = grid.partition.process_grid
    slabs = 2 * sum(
        int(padded / (n + 2)) for n, count in zip(grid.local_shape, parts, strict=True) if count > 1
    )
    exchanged = 2 * sum(count > 1 for count in parts)
    assert TRAFFIC.messages - before.messages == 3 * exchanged
    assert TRAFFIC.bytes - before.bytes <= 8 * 5 * (1 + 4 + 4) * slabs
    assert TRAFFIC.reductions == before.reductions
    before = copy.copy(TRAFFIC)
    output.sum().backward()
    # The field needs no gradient, so the first convolution sends nothing back.
    assert TRAFFIC.messages - before.messages == 2 * exchanged


@pytest.mark.long_on(2, 3)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_networks_on_parts_are_those_of_one_rank(monkeypatch):
    for boundary in (("dirichlet", "neumann"), ("neumann", "periodic"), ("periodic", "dirichlet")):
        # Odd numbers of points, parts that start between two coarse points: where a periodic axis
        # does not forbid it.
        check_layers(tuple(14 if kind == "periodic" else 13 for kind in boundary), boundary)
    check_layers((26,), "periodic")
    check_layers((10, 11, 9), ("periodic", "dirichlet", "neumann"))
    check_networks((29,), "neumann", 2)
    check_networks((20, 23), ("periodic", "dirichlet"), 2)
    check_networks((10, 8, 9), ("periodic", "periodic", "neumann"), 1)
    if WORLD.size != 3:
        check_that_a_rank_works_and_sends_in_proportion_to_its_part()
        check_that_torch_carries_halos_and_sums_as_mpi_does(monkeypatch)
    if WORLD.size == 4:
        check_that_ddp_sums_over_grid_ranks_and_averages_over_replicas()
