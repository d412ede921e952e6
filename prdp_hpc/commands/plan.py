"""`prdp-hpc plan`: which split of replicas × grid ranks a training should have."""

from __future__ import annotations

import argparse

from prdp_hpc.config import InverseConfig, load_config
from prdp_hpc.errors import InputError
from prdp_hpc.planning import load_machine, plan_table, splits, workload_of


def plan(arguments: argparse.Namespace) -> None:
    """Print the model's times of every split (docs/scaling.md); nothing is run, and one rank is
    enough.
    """
    config = load_config(arguments.config, arguments.overrides)
    if isinstance(config, InverseConfig):
        raise InputError(
            "an inverse problem has no samples to divide: all ranks share its grid, there is "
            "nothing to plan"
        )
    machine = load_machine(arguments.machine)
    work = workload_of(config, arguments.iterations)
    candidates = splits(work, machine, arguments.ranks)
    shape = " × ".join(map(str, work.shape))
    print(
        f"{config.name} on {arguments.ranks} ranks of {machine.name!r}: {shape} points, batch of "
        f"{work.batch},"
    )
    print(
        f"{work.solves} solve(s) a sample of {work.iterations} iterations (adjoint "
        f"{work.adjoint_iterations}),",
        end=" ",
    )
    print(f"network of {work.parameters:,} parameters\n")
    print(plan_table(candidates, machine))
