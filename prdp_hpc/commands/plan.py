"""`prdp-hpc plan`: predict the best split of ranks into replicas × grid ranks for a training."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from prdp_hpc.config import FieldInversionConfig, InverseConfig, SupervisedConfig, load_config
from prdp_hpc.console import show
from prdp_hpc.errors import InputError
from prdp_hpc.planning import (
    Layer,
    PhysicsWorkload,
    Workload,
    input_channels,
    inversion_workload,
    load_machine,
    network_layers,
    physics_workload,
    plan_table,
    splits,
    workload_of,
)


def plan(arguments: argparse.Namespace) -> None:
    """Print the predicted times of every split (docs/results/scaling.md). Nothing is run, so
    one rank is enough.
    """
    config = load_config(arguments.config, arguments.overrides)
    if isinstance(config, InverseConfig):
        raise InputError(
            "an inverse problem has no samples to divide: all ranks share its grid, so there is "
            "nothing to plan"
        )
    machine = load_machine(arguments.machine)
    work = (
        inversion_workload(config, arguments.iterations)
        if isinstance(config, FieldInversionConfig)
        else _workload(config, arguments.iterations)
    )
    candidates = splits(work, machine, arguments.ranks)
    shape = " × ".join(map(str, work.shape))
    show(
        f"{config.name} on {arguments.ranks} ranks of {machine.name!r}: {shape} points, batch of "
        f"{work.batch},\n"
        f"{work.solves} solve(s) per sample with {work.iterations} iterations (adjoint "
        f"{work.adjoint_iterations}), network of {work.parameters:,} parameters",
        plan_table(candidates, machine),
    )


def _workload(config: SupervisedConfig, iterations: int | None) -> Workload:
    """The workload that the config's components declare; components without a declaration are built
    and measured.
    """
    physics = physics_workload(config)
    if physics is None:
        physics = PhysicsWorkload(**_measurements().measured_physics(config))
    layers = network_layers(config, physics)
    if layers is None:
        inside = input_channels(config, physics)
        layers = [Layer(**_measurements().measured_layer(config, inside, physics.channels))]
    return workload_of(config, iterations, physics, layers)


def _measurements() -> Any:
    # Imported late, because it loads torch and PETSc, which built-in components do not need here.
    return importlib.import_module("prdp_hpc.experiments.measured")
