"""A user-defined training loop: `mpirun -n 4 python train.py --grid-ranks 2`."""

import argparse

import torch

from prdp_hpc import (
    Checkpoints,
    Coordinator,
    Grid,
    Heat,
    IterationLadder,
    PreemptionWatch,
    ProcessMesh,
    Refinement,
    ResNet,
    Solver,
)

parser = argparse.ArgumentParser()
parser.add_argument("--grid-ranks", type=int, default=1)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--folder", default="runs/own_loop")
options = parser.parse_args()

mesh = ProcessMesh.from_world(options.grid_ranks)
grid = Grid((32, 32), boundary="periodic", comm=mesh.grid_comm)
solver = Solver("cg", "none")
heat = Heat(grid, diffusivity=2e-4, dt=1.0, solver=solver)
exact = Heat(grid, diffusivity=2e-4, dt=1.0, solver=Solver("cg", "none", Refinement(rtol=1e-10)))

torch.manual_seed(0)  # the same parameters on all ranks
network = mesh.data_parallel(ResNet(grid.partition, 1, 1, channels=8, blocks=1), grid)
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
coordinator = Coordinator(IterationLadder(1, 1, 8), ema_window=2, error_window=2)
checkpoints = Checkpoints(f"{options.folder}/checkpoints")
trained = {"network": network.network, "optimizer": optimizer, "coordinator": coordinator}


def states(number, count=8):
    """Random fields, equal on all ranks: this rank's part of this replica's share."""
    noise = torch.Generator().manual_seed(number)
    whole = torch.randn(count, 1, *grid.shape, generator=noise)
    return grid.scatter(whole[mesh.replica :: mesh.replicas])


def relative_error():
    """The error of the network alone, against the converged step."""
    with torch.no_grad():
        target = exact(start := states(10**6))
        difference = network(start) - target
    return (mesh.sum(difference.square().sum()) / mesh.sum(target.square().sum())) ** 0.5


saved = checkpoints.load_latest()
for name, part in trained.items() if saved else ():
    part.load_state_dict(saved[name])
network.settle(states(0))  # so that a resumed run has the same rounding as an uninterrupted one

with PreemptionWatch(mesh.world) as preemption:
    for step in range(saved["epoch"] + 1 if saved else 1, options.steps + 1):
        solver.refine(coordinator.level)
        start = states(step)
        squares = (heat(network(start)) - exact(exact(start))).square().sum()
        loss = squares / (8 * grid.size)  # this rank's part of the mean over the whole batch
        optimizer.zero_grad()
        (network.loss_weight * loss).backward()
        optimizer.step()
        stop = preemption.after_step()
        if step % 20 == 0 or stop:
            error, total = relative_error(), mesh.sum(loss)
            coordinator.observe(error)
            if mesh.is_root:
                checkpoints.save(step, {name: part.state_dict() for name, part in trained.items()})
                print(f"step {step}  loss {total:.3e}  error {error:.3f}  K = {coordinator.level}")
        if stop:
            break
mesh.close()
