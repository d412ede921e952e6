"""The workload of one evaluation of a field inversion's loss and gradient, from a config."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from prdp_hpc.config import FieldInversionConfig
from prdp_hpc.config.inversion import CoordinateNetworkSection
from prdp_hpc.planning.workload import (
    KRYLOV,
    PRODUCTS,
    REDUCTIONS,
    VECTORS,
    Layer,
    Workload,
    level_iterations,
)

OPTIMISER = 6
"""Fields that the optimisation stores: m, its gradient, Adam's moments, κ and a copy."""


def inversion_workload(config: FieldInversionConfig, iterations: int | None = None) -> Workload:
    """The workload of one evaluation: a forward and an adjoint solve for each fitted experiment,
    all with one matrix.

    The experiments are the samples that are distributed over the replicas. `iterations` per solve
    default to the full level, or to the finest level of the ladder if the full level is a
    tolerance; `InputError` if both are.
    """
    shape, boundary = config.grid.shape, config.grid.boundary
    dim, method = len(shape), config.solver.ksp
    count = level_iterations(config.refinement, iterations)
    held_out = config.validation.experiments
    layers = _layers(config, dim)
    guesses = 2 if getattr(config.solver, "initial_guess", "zero") == "last" else 0
    work = Workload(
        shape=shape,
        boundary=boundary if isinstance(boundary, tuple) else (boundary,) * dim,
        channels=1,
        batch=config.experiments.number - held_out,
        solves=1,
        rows=1,
        entries=2 * dim + 1,
        iterations=count,
        adjoint_iterations=count,
        vectors=VECTORS.get(method, 16.0),
        products=1.0 + PRODUCTS.get(config.solver.pc, 1.0),
        reductions=REDUCTIONS.get(method, 2),
        transforms=0,
        assembled=False,
        at_once=False,
        applications=1,
        layers=layers,
        whole=False,
        # Sources and data of all experiments, and the vectors of the optimisation.
        stored=2 * config.experiments.number + OPTIMISER,
        value=8,
        krylov=2.0 * KRYLOV.get(method, 8.0),
        kept=2.0 + guesses,
        matrices=1,
    )
    return work if layers else replace(work, exchanged_fields=1)


def _layers(config: FieldInversionConfig, dim: int) -> tuple[Layer, ...]:
    """The layers of a coordinate network, which is evaluated once per point."""
    section = config.unknown
    if not isinstance(section, CoordinateNetworkSection):
        return ()
    widths = [2 * section.features, *section.hidden, 1]
    # Divided by the number of samples, since the network is evaluated once for all experiments.
    samples = config.experiments.number - config.validation.experiments
    return tuple(Layer(2.0 * a * b / samples, a * b + b, a, b) for a, b in pairwise(widths))
