"""Property: results on a GPU equal those on the CPU. Without a GPU these tests are skipped."""

import json

import numpy as np
import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc import Burgers, Grid, Heat, NavierStokes, Poisson, Refinement, Solver
from prdp_hpc.networks import ResNet

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
    pytest.mark.timeout(300),
]
DEVICE = "cuda"


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
def test_solves_and_their_gradients(differentiation):
    grid = Grid((9, 8), "dirichlet", MPI.COMM_SELF)
    field, weights = torch.randn(2, 3, 1, 9, 8, dtype=torch.float64)
    results = []
    for device in ("cpu", DEVICE):
        heat = Heat(grid, 1e-2, 0.5, Solver("cg", "jacobi", 4, differentiation=differentiation))
        u = field.to(device).requires_grad_()
        after = heat(u)
        assert after.device == u.device
        (gradient,) = torch.autograd.grad(after, u, weights.to(device))
        results.append((after.cpu(), gradient.cpu()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_networks_with_halos(boundary):
    grid = Grid((9, 8), boundary, MPI.COMM_SELF)
    torch.manual_seed(1)
    network = ResNet(grid.partition, 1, 1, channels=4, blocks=1).double()
    field, results = torch.randn(3, 1, 9, 8, dtype=torch.float64), []
    for device in ("cpu", DEVICE):
        network = network.to(device)
        output = network(field.to(device))
        gradients = torch.autograd.grad(output.square().sum(), list(network.parameters()))
        results.append([tensor.detach().cpu() for tensor in (output, *gradients)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("ranks", "grid_ranks"), [(1, 1), (2, 1), (2, 2)])
def test_training(ranks, grid_ranks, tmp_path, monkeypatch):
    """With one GPU per rank through NCCL, with fewer GPUs through gloo."""
    content = tiny.emulator(
        tmp_path, grid={"shape": [16]}, network={"kind": "resnet", "channels": 4, "blocks": 1}
    )
    config, rows = tiny.write(tmp_path / "config.yaml", content), []
    for name, visible in (("gpu", None), ("cpu", "")):
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        ended = tiny.prdp_hpc(
            ranks, "run", config, f"name={name}", f"parallel.grid_ranks={grid_ranks}", timeout=120
        )
        assert ended.returncode == 0, ended.stderr
        rows.append(
            np.array(
                [
                    [row[key] for key in ("error", "forward_iterations")]
                    for row in tiny.rows(tmp_path / name)
                ]
            )
        )
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-9)


def test_streamed_training_is_that_in_memory(tmp_path):
    """Batches are copied from pinned memory while the GPU computes."""
    from prdp_hpc.config import validate
    from prdp_hpc.distributed.process_mesh import ProcessMesh
    from prdp_hpc.experiments.build import build_task

    mesh, found = ProcessMesh.from_world(1), []
    for in_memory in (True, False):
        data = {"in_memory": in_memory, "train": 40, "normalise": "standard"}
        task = build_task(validate(tiny.emulator(tmp_path, data=data), "here"), mesh)
        task.solver.refine(3)
        assert task._batch(np.arange(2)).device == mesh.device
        losses = [task.train_epoch(epoch) for epoch in (1, 2)]
        found.append((losses, task.validate()["error"]))
        task.close()
    mesh.close()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-12)


def test_a_step_moves_nothing_but_scalars_over_the_bus(tmp_path):
    """A network, a solve with gradients of its matrix, and an optimiser, by CUPTI's records.

    Not with pc="jacobi": in its set-up PETSc looks for zeros on the diagonal on the host.
    """
    grid = Grid((64, 64), "dirichlet", MPI.COMM_SELF)
    heat = Heat(grid, 1e-2, 0.5, Solver("cg", "none", 6))
    kappa = torch.full((64, 64), 0.1, dtype=torch.float64, device=DEVICE, requires_grad=True)
    network = torch.nn.Conv2d(1, 1, 3, padding=1).to(DEVICE).double()
    optimizer = torch.optim.SGD([kappa, *network.parameters()], 1e-3)
    state = torch.randn(2, 1, 64, 64, dtype=torch.float64, device=DEVICE)

    def step():
        optimizer.zero_grad()
        heat.diffusivity = kappa
        heat(network(state)).square().mean().backward()
        optimizer.step()

    step()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    copies = [
        event["args"]["bytes"]
        for event in events
        if event.get("cat") == "gpu_memcpy" and "DtoD" not in event["name"]
    ]
    assert copies, "scalars are copied"
    assert max(copies) <= 64


@pytest.mark.parametrize("pde", ["poisson", "burgers", "navier_stokes"])
def test_all_physics_and_their_gradients(pde):
    periodic = Grid((8, 12), "periodic", MPI.COMM_SELF)
    level = Refinement(rtol=1e-12)
    results = []
    for device in ("cpu", DEVICE):
        if pde == "poisson":
            stepper = Poisson(Grid((8, 12), "neumann", MPI.COMM_SELF), Solver("cg", "gamg", level))
            state = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)).double()
        else:
            channels = 2 if pde == "burgers" else 3
            state = torch.randn(2, channels, 8, 12, generator=torch.Generator().manual_seed(0))
            state = state.double()
            stepper = (
                Burgers(periodic, 1e-2, 0.05, Solver("gmres", "jacobi", level))
                if pde == "burgers"
                else NavierStokes(periodic, 1e-2, 0.05, Solver("gmres", "constraint", level))
            )
        u = state.to(device).requires_grad_()
        after = stepper(u)
        (gradient,) = torch.autograd.grad(after.square().sum(), u)
        assert after.device.type == torch.device(device).type
        results.append((after.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-8)
