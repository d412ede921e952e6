"""Predictions of the cost of a training step on many ranks, and of the best distribution of ranks;
pure Python, nothing is run.
"""

from prdp_hpc.planning.cost import StepCost, step_cost
from prdp_hpc.planning.inversion import inversion_workload
from prdp_hpc.planning.machine import MACHINES, Machine, load_machine
from prdp_hpc.planning.plan import Split, best, plan_table, splits
from prdp_hpc.planning.workload import (
    Layer,
    PhysicsWorkload,
    Workload,
    input_channels,
    network_layers,
    physics_workload,
    workload_of,
)

__all__ = [
    "MACHINES",
    "Layer",
    "Machine",
    "PhysicsWorkload",
    "Split",
    "StepCost",
    "Workload",
    "best",
    "input_channels",
    "inversion_workload",
    "load_machine",
    "network_layers",
    "physics_workload",
    "plan_table",
    "splits",
    "step_cost",
    "workload_of",
]
