"""Property: every second of a training step is counted once, in the part to which it belongs."""

import itertools

import pytest
import torch

from prdp_hpc import Grid, Solver, SolveReport, SparseOperator
from prdp_hpc.linalg.batch_matrix import BatchMatrix
from prdp_hpc.linalg.report import PartTimer
from prdp_hpc.linalg.solver import LinearSystem
from prdp_hpc.linalg.unrolled.run import Run
from prdp_hpc.metric_names import SOLVER_PARTS
from prdp_hpc.physics import Burgers
from prdp_hpc.tasks.task import Stopwatch


class Clock:
    """A clock that advances only when a test moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def delayed(self, monkeypatch, owner, name, seconds):
        """Make each call of a method take this long, by the clock."""
        real = getattr(owner, name)

        def slow(*arguments, **keywords):
            self.now += seconds
            return real(*arguments, **keywords)

        monkeypatch.setattr(owner, name, slow)


class _Slow(torch.autograd.Function):
    """The identity; its backward pass takes this long, by the clock."""

    @staticmethod
    def forward(ctx, x, clock, seconds):
        ctx.clock, ctx.seconds = clock, seconds
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        ctx.clock.now += ctx.seconds
        return grads[0], None, None


def parts_of(report, stopwatch):
    found = {
        part: getattr(report.forward, f"{part}_seconds")
        + getattr(report.adjoint, f"{part}_seconds")
        for part in SOLVER_PARTS
    }
    for part in ("network", "data", "validation"):
        found[part] = getattr(stopwatch, f"{part}_seconds")
    return found


def counted(differentiation, clock):
    """A chain of network, physics and network with a solver on a clock; its stopwatch."""
    solver = Solver("gmres", "jacobi", 3, differentiation=differentiation)
    solver.report.timer = PartTimer(clock)
    stopwatch = Stopwatch(solver)
    physics = Burgers(Grid((6,), "periodic"), 1e-2, 0.1, solver)

    def step(slow=lambda x, seconds: x):
        with stopwatch.part("network"):
            with stopwatch.part("data"):
                state = torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True)
            first = slow(torch.tanh(state), 1e4)
            middle = stopwatch.physics(lambda u: slow(physics(slow(u, 1e3)), 2e3), first)
            slow(torch.sin(middle), 2e4).square().sum().backward()

    return solver, stopwatch, step


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
def test_each_second_belongs_to_its_part(monkeypatch, differentiation):
    clock = Clock()
    clock.delayed(monkeypatch, BatchMatrix, "load", 1.0)
    clock.delayed(monkeypatch, Burgers, "values", 20.0)
    clock.delayed(monkeypatch, SparseOperator, "values_gradient", 300.0)
    solver, stopwatch, step = counted(differentiation, clock)
    step(lambda x, seconds: _Slow.apply(x, clock, seconds))
    found = parts_of(solver.report, stopwatch)
    assert solver.report.forward.assembly_seconds == 2 * 1.0 + 20.0
    assert solver.report.adjoint.assembly_seconds == 1e3 + 2e3
    assert found["network"] == 3e4
    gradients = found["gradient"] / 300.0
    assert gradients >= 1
    assert gradients == int(gradients)
    assert sum(found.values()) == clock.now


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
def test_every_second_is_counted_once(differentiation):
    """With a clock that advances at each reading."""
    looks = itertools.count()
    solver, stopwatch, step = counted(differentiation, lambda: next(looks))
    step()
    with stopwatch.part("validation"):
        pass
    found = parts_of(solver.report, stopwatch)
    assert all(found.values()), found
    # The first reading starts the first part, and the last one ends the last part; one second
    # between network and validation belongs to no part.
    assert sum(found.values()) == next(looks) - 2
    assert solver.report.forward.seconds + solver.report.adjoint.seconds == sum(
        found[part] for part in SOLVER_PARTS
    )


def test_set_up_and_solve(monkeypatch):
    clock = Clock()
    solver, stopwatch, step = counted("implicit", clock)
    clock.delayed(monkeypatch, LinearSystem, "_on_arrays", 5.0)
    step()
    assert parts_of(solver.report, stopwatch)["solve"] == 4 * 5.0
    clock.delayed(monkeypatch, Run, "_iterate", 7.0)
    solver, stopwatch, step = counted("unrolled", clock)
    step()
    assert parts_of(solver.report, stopwatch)["solve"] == 7.0


def test_an_error_leaves_no_part_open():
    clock, owner = Clock(), Stopwatch(Solver())
    timer = PartTimer(clock)

    def failing():
        with timer.part(owner, "network"):
            timer.begin(owner, "data")
            clock.now = 2.0
            raise RuntimeError("in a backward pass")

    with pytest.raises(RuntimeError, match="in a backward pass"):
        failing()
    clock.now = 5.0
    with timer.part(owner, "validation"):
        clock.now = 6.0
    seconds = owner.network_seconds, owner.data_seconds, owner.validation_seconds
    assert seconds == (0.0, 2.0, 1.0)


def test_the_device_is_synchronised_before_each_reading_of_the_clock():
    calls = []
    report = SolveReport()
    report.timer = PartTimer(lambda: calls.append("look") or 0.0)
    report.timer.synchronise = lambda: calls.append("wait")
    with report.part("forward", "solve"), report.part("forward", "gradient"):
        pass
    assert calls == ["wait", "look"] * (len(calls) // 2)
