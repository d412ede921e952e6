"""Property: gradients that ranks average by MPI are those of the whole batch, with equal bits on
all ranks and in each run.
"""

import pytest
import torch
from mpi4py import MPI
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from prdp_hpc import ProcessMesh
from prdp_hpc.distributed.mpi_gradients import MpiGradients, average_by_mpi

WORLD = MPI.COMM_WORLD


@pytest.fixture
def mesh():
    mesh = ProcessMesh.from_world(1)
    yield mesh
    mesh.close()


def network(dtype=torch.float64, width=40):
    torch.manual_seed(3)
    layers = (nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Linear(width, 1))
    return nn.Sequential(*layers).to(dtype)


def batch(dtype, width=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4 * WORLD.size, width, generator=generator, dtype=torch.float64).to(dtype)


def gradients(module):
    return torch.cat([p.grad.reshape(-1) for p in module.parameters()])


def trained(mesh, module, states, steps=3):
    """The parameters after some steps on this rank's share of a batch."""
    parallel = mesh.data_parallel(module)
    parallel.settle(states[:1])
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        share = states[mesh.replica :: mesh.replicas]
        loss = parallel(share).square().sum() / len(states)
        (parallel.loss_weight * loss).backward()
        optimiser.step()
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]), parallel.transport


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_buckets_have_the_gradient_of_the_whole_batch(mesh, dtype):
    states, module, whole = batch(dtype), network(dtype), network(dtype)
    # Buckets of some 2 KB, so that several are on their way at the same time.
    parallel = DistributedDataParallel(module, bucket_cap_mb=0.002, gradient_as_bucket_view=True)
    parallel.register_comm_hook(MpiGradients(mesh.world), average_by_mpi)
    whole(states).square().mean().backward()
    for _ in range(3):  # the first step determines the buckets
        module.zero_grad(set_to_none=True)
        parallel(states[WORLD.rank :: WORLD.size]).square().mean().backward()
        found = gradients(module)
        tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 3e-2}[dtype]
        scale = gradients(whole).abs().max()
        assert (found - gradients(whole)).abs().max() <= tolerance * scale
        assert all(torch.equal(found, other) for other in WORLD.allgather(found))
    with parallel.no_sync():
        parallel(states[WORLD.rank :: WORLD.size]).square().mean().backward()
    before = gradients(module)
    assert not all(torch.equal(before, other) for other in WORLD.allgather(before))
    parallel(states[WORLD.rank :: WORLD.size]).square().mean().backward()
    assert (gradients(module) - 3 * gradients(whole)).abs().max() <= 3 * tolerance * scale


@pytest.mark.long_on(2)
@pytest.mark.parallel(nprocs=[2, 4])
def test_training_is_that_of_torch_and_repeats_bit_for_bit(mesh):
    states = batch(torch.float64)
    first, transport = trained(mesh, network(), states)
    again, _ = trained(mesh, network(), states)
    assert transport == "mpi"
    assert torch.equal(first, again)
    assert all(torch.equal(first, other) for other in WORLD.allgather(first))
    by_gloo = ProcessMesh.from_world(1, gradients="torch")
    gloo, transport = trained(by_gloo, network(), states)
    by_gloo.close()
    assert transport == "gloo"
    torch.testing.assert_close(first, gloo, rtol=1e-12, atol=1e-14)
