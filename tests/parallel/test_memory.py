"""Property: a training step of a PDE leaves no memory behind, on several ranks too, where PETSc
keeps the parallel objects that Python drops.

`PYTHONPATH=tests mpiexec -n 2 python tests/parallel/test_memory.py` prints the growth of each PDE.
"""

import ctypes
import gc
import os
import re
import tempfile
from pathlib import Path

import pytest
import tiny
import torch
from mpi4py import MPI
from petsc4py import PETSc

from prdp_hpc import Grid, NonlinearSolver, ProcessMesh, Solver
from prdp_hpc.config import validate
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.physics import AllenCahn, Burgers, Heat, NavierStokes, NonlinearDiffusion, Poisson

MOST_GROWTH = 2 * 2**20
LIBC = ctypes.CDLL(None)


def resident():
    """Bytes of this process in memory, without what it has freed."""
    gc.collect()
    LIBC.malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def garbage():
    """Parallel PETSc objects of all ranks that Python dropped and PETSc keeps; collective, known to
    rank 0 only.
    """
    gc.collect()
    LIBC.fflush(None)
    with tempfile.TemporaryFile() as file:
        stdout = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            PETSc.garbage_view(MPI.COMM_WORLD)
            LIBC.fflush(None)
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        file.seek(0)
        return sum(map(int, re.findall(rb"Total entries: (\d+)", file.read())))


def steppers(differentiation, side):
    """Every PDE with features that make further vectors and matrices: values that change, batches
    solved together, a nullspace, iterations past the solution, a matrix per sample.
    """

    def solver(ksp, pc, level=3):
        return Solver(ksp, pc, level, differentiation=differentiation)

    fine, coarse = (Grid((n, n), "periodic") for n in (side, side // 2))
    kappa = torch.full(fine.local_shape, 1e-2, dtype=torch.float64, requires_grad=True)
    yield Heat(fine, kappa, 0.1, solver("cg", "jacobi")), ()
    yield Heat(fine, kappa, 0.1, solver("richardson", "jacobi")), ()
    yield Poisson(Grid((side, side), "neumann"), solver("cg", "jacobi"), kappa), ()
    yield Heat(Grid((8,), "dirichlet"), 1e-2, 0.1, solver("cg", "jacobi", 12)), ()
    yield Burgers(fine, 1e-2, 0.1, solver("gmres", "jacobi")), (2,)
    yield NavierStokes(coarse, 1e-2, 0.1, solver("gmres", "constraint")), (3,)
    if differentiation == "implicit":
        yield from newton_steppers(fine, Grid((side, side), "neumann"))


def newton_steppers(periodic, closed):
    """The PDEs whose steps are nonlinear systems; their gradients are always implicit."""

    def newton(ksp):
        return NonlinearSolver(Solver(ksp, "jacobi", 3), 2)

    number = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    yield AllenCahn(closed, number, 0.1, newton("cg")), ()
    yield NonlinearDiffusion(closed, number, 0.1, newton("gmres")), ()
    yield Burgers(periodic, 1e-2, 0.1, newton("gmres")), (2,)


def steps_of(stepper, channels):
    """A step of a stepper forward and back, as a function of its number; batch sizes and values
    change.
    """
    shape = (*channels, *stepper.grid.local_shape)
    diffusivity = getattr(stepper, "diffusivity", None)

    def step(number):
        state = torch.randn(1 + number % 3, *shape, dtype=torch.float64, requires_grad=True)
        if isinstance(stepper, (Heat, Poisson)) and diffusivity.requires_grad:
            with torch.no_grad():
                diffusivity.mul_(1.0 + 1e-6)
        after = stepper(state)
        if number % 7:  # the other graphs are dropped without a backward pass
            after.square().sum().backward()

    return step


def each_stepper(side):
    for differentiation in ("implicit", "unrolled"):
        for stepper, channels in steppers(differentiation, side):
            name = f"{type(stepper).__name__}, {stepper.solver}, {differentiation}"
            yield name, steps_of(stepper, channels)


def check_a_run(folder):
    """Training frees what its set-up has dropped, once an epoch."""
    config = validate(tiny.emulator(folder, parallel={"grid_ranks": 2}), "test")
    run_experiment(config, ProcessMesh.from_world(2), folder / "tiny")
    assert garbage() == 0


@pytest.fixture
def nothing_left():
    """No garbage of the tests before."""
    gc.collect()
    PETSc.garbage_cleanup(MPI.COMM_WORLD)


@pytest.mark.parallel(nprocs=2)
@pytest.mark.usefixtures("nothing_left")
def test_steps_drop_no_parallel_objects(tmp_path):
    check_a_run(Path(MPI.COMM_WORLD.bcast(str(tmp_path))))
    for name, step in each_stepper(side=8):
        counts = []
        for _ in range(2):
            for number in range(3):
                step(number)
            counts.append(garbage())
        assert counts[0] == counts[1], f"{name}: {counts} objects after 3 and 6 steps"


@pytest.mark.long
@pytest.mark.parallel(nprocs=2)
def test_many_steps_leave_no_memory_behind():
    for name, added in growths():
        assert added < MOST_GROWTH, f"{name}: {added / 2**20:.1f} MiB in 500 steps"


def growths():
    """For each PDE its name and the bytes that 500 steps add on this rank."""
    for name, step in each_stepper(side=16):
        for number in range(60):
            step(number)
        before = resident()
        for number in range(500):
            step(number)
        yield name, resident() - before


if __name__ == "__main__":
    for name, added in growths():
        most = MPI.COMM_WORLD.allreduce(added, op=MPI.MAX)
        if MPI.COMM_WORLD.rank == 0:
            print(f"{most / 2**20:+6.2f} MiB  {name}", flush=True)
