"""The best split of ranks into replicas × grid ranks."""

from __future__ import annotations

from dataclasses import dataclass

from prdp_hpc.console import Report, Table
from prdp_hpc.errors import InputError
from prdp_hpc.planning.cost import StepCost, step_cost
from prdp_hpc.planning.machine import Machine
from prdp_hpc.planning.workload import Workload

COLUMNS = (
    "replicas",
    "grid ranks",
    "step s",
    "speed-up",
    "efficiency",
    "solver",
    "network",
    "all-reduce",
    "memory/rank",
)


@dataclass(frozen=True)
class Split:
    """One way to divide the ranks, its cost, and the speed-up against one rank."""

    replicas: int
    grid_ranks: int
    cost: StepCost
    speed_up: float

    @property
    def ranks(self) -> int:
        """Number of all ranks."""
        return self.replicas * self.grid_ranks


def splits(work: Workload, machine: Machine, ranks: int) -> list[Split]:
    """All splits of `ranks` that the batch and the grid allow, fewest grid ranks first.

    A replica must have at least one sample, and a grid rank at least 2 points along each axis;
    `InputError` if no split satisfies this.
    """
    single = step_cost(work, machine, 1, 1).total
    found = []
    for grid_ranks in (g for g in range(1, ranks + 1) if ranks % g == 0):
        replicas = ranks // grid_ranks
        if replicas > work.batch:
            continue
        try:
            cost = step_cost(work, machine, replicas, grid_ranks)
        except ValueError:
            continue
        found.append(Split(replicas, grid_ranks, cost, single / cost.total))
    if not found:
        raise InputError(
            f"{ranks} ranks are too many: a batch has {work.batch} samples for replicas, and the "
            f"grid {work.shape} points for "
            "grid ranks; give fewer ranks, a larger training.batch_size or a larger grid"
        )
    return found


def best(candidates: list[Split], machine: Machine) -> Split:
    """The fastest split that fits into the memory of a rank; if none fits, the smallest one."""
    fitting = [split for split in candidates if split.cost.missing_memory(machine) <= 0.0]
    if not fitting:
        return min(candidates, key=lambda split: split.cost.missing_memory(machine))
    return min(fitting, key=lambda split: split.cost.total)


def plan_table(candidates: list[Split], machine: Machine) -> Report:
    """A table of all splits as text, in which the best one is marked, and advice below."""
    chosen = best(candidates, machine)
    rows = [COLUMNS, *(_row(split, chosen) for split in candidates)]
    return Report([Table(rows, ">" * len(COLUMNS)), _advice(chosen, machine)])


def _row(split: Split, chosen: Split) -> tuple[str, ...]:
    cost = split.cost
    shares = (
        cost.solver + cost.adjoint + cost.assembly + cost.copies,
        cost.network,
        cost.reduction,
    )
    mark = "*" if split is chosen else ""
    return (
        f"{mark}{split.replicas}",
        str(split.grid_ranks),
        f"{cost.total:.3g}",
        f"{split.speed_up:.3g}",
        f"{split.speed_up / split.ranks:.0%}",
        *(f"{share / cost.total:.0%}" for share in shares),
        _size(cost.memory),
    )


def _advice(chosen: Split, machine: Machine) -> str:
    cost = chosen.cost
    lines = [
        f"* best: parallel.grid_ranks={chosen.grid_ranks} ({chosen.replicas} replicas), "
        f"{cost.total:.3g} s per step"
    ]
    if cost.missing_memory(machine) > 0.0:
        needs, has = _size(cost.memory), _size(machine.memory)
        if machine.has_device:
            needs = (
                f"{_size(cost.network_memory)} on its GPU and {_size(cost.solver_memory)} on the "
                "host"
            )
            has = f"{has} and {_size(machine.host_memory)}"
        lines.append(f"  but a rank needs {needs} and {machine.name} has {has}: use more ranks")
    if chosen.speed_up < 0.5 * chosen.ranks:
        lines.append(
            f"  efficiency is below 50 %: {chosen.ranks} ranks are more than this problem can use"
        )
    if chosen.grid_ranks > machine.ranks_per_node:
        nodes = -(-chosen.grid_ranks // machine.ranks_per_node)
        lines.append(f"  a replica spans {nodes} nodes of {machine.ranks_per_node} ranks")
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.0f} MiB"
