"""The cost model: seconds and bytes of a training step on one of many ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prdp_hpc.errors import InputError
from prdp_hpc.planning.machine import Machine
from prdp_hpc.planning.workload import INDEX, VALUE, Layer, Workload

SINGLE = 4
"""Bytes per number of the network."""

BACKWARD = 2.0
"""FLOP of a backward pass relative to the forward pass."""

COPIES = 6.0
"""Reads and writes of the values of a field to add the halo: one copy forward, two backward."""

ASSEMBLY = 60.0
"""Reads and writes per matrix entry for assembly in torch and loading into PETSc, forward and
backward.
"""

CROSSING = 24.0
"""Bytes per entry of a right-hand side that are copied between host and GPU: in double precision to
the host, in the network's precision back, forward and backward.
"""

LOADED = 3.0
"""Copies of each matrix entry: in the matrix, in the tensor of autograd, in the loaded values."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of a training step by part, and the memory and messages of a rank.

    Attributes
    ----------
    solver, adjoint : forward and adjoint solves, with halo exchanges and all-reduces.
    assembly : assembly of matrices.
    copies : copies between the host and the GPU.
    network : forward and backward pass, with halo exchanges (for an MLP: gathering whole fields).
    reduction : the part of DDP's all-reduce that does not overlap with the backward pass.
    optimiser, other : Adam's update; time that does not depend on any size.
    messages, sent, sums : messages and bytes that a rank sends per step, and its all-reduces; for
        DDP's all-reduce only the bytes.
    network_memory : bytes per rank, on the GPU if there is one: the replica's part of all
        trajectories, parameters with gradients and Adam's moments, stored activations. Of a sharded
        network a rank has its share of the parameters, and the layers that are gathered.
    solver_memory : bytes per rank on the host: matrices, vectors of the KSPs, and vectors that
        solves store for their backward passes.
    """

    solver: float
    adjoint: float
    assembly: float
    copies: float
    network: float
    reduction: float
    optimiser: float
    other: float
    messages: float
    sent: float
    sums: float
    network_memory: float
    solver_memory: float

    @property
    def memory(self) -> float:
        """Bytes per rank on host and GPU together."""
        return self.network_memory + self.solver_memory

    def missing_memory(self, machine: Machine) -> float:
        """The missing memory per rank relative to its memory; at most 0 if it is sufficient."""
        if not machine.has_device:
            return self.memory / machine.memory - 1.0
        return (
            max(self.network_memory / machine.memory, self.solver_memory / machine.host_memory)
            - 1.0
        )

    @property
    def total(self) -> float:
        """Seconds per step."""
        return (
            self.solver
            + self.adjoint
            + self.assembly
            + self.copies
            + self.network
            + self.reduction
            + self.optimiser
            + self.other
        )


def step_cost(work: Workload, machine: Machine, replicas: int, grid_ranks: int) -> StepCost:
    """Predict the cost of a step on `replicas × grid_ranks` ranks for the rank with the most work.

    A rank has `n = ⌈N / G⌉` of N points on G grid ranks and `b = ⌈B / R⌉` samples of the batch B:

    - iteration: `bytes n / bandwidth + overhead`, one face sent to each of c neighbours, and r
      all-reduces;
    - samples that are solved together share the overhead and the messages of an iteration;
    - layer: `3 · FLOP n b / rate + overhead`, c messages forward and c backward for the whole
      batch, and copies of its fields to add the halo;
    - all-reduce of the parameters: `2 (P − 1) / P · bytes / link + 2 log2(P) latency`, which
      overlaps with the backward pass;
    - a sharded network gathers its parameters in each forward and backward pass, and averages its
      gradients after it, `3 (P − 1) / P · bytes / link` for each application, over all ranks;
    - all-reduce of a number over P ranks: `2 log2(P) latency`.
    """
    parts = process_grid(work.shape, work.boundary, grid_ranks)
    local = math.prod(math.ceil(n / p) for n, p in zip(work.shape, parts, strict=True))
    samples = math.ceil(work.batch / replicas)
    solves = samples * work.solves
    at_once = solves if work.at_once else 1
    one = _iteration(work, machine, parts, local, grid_ranks, at_once)
    forward = solves * (work.iterations * one.seconds + machine.solve_overhead / at_once)
    adjoint = solves * (work.adjoint_iterations * one.seconds + machine.solve_overhead / at_once)
    iterations = solves * (work.iterations + work.adjoint_iterations)
    assembled = work.matrices + (solves if work.assembled else 0)
    assembly = assembled * work.entries * local * VALUE * ASSEMBLY / machine.bandwidth
    network = _network(work, machine, parts, samples, grid_ranks)
    reducing = replicas if work.whole and not work.sharded else replicas * grid_ranks
    passes = 3 * work.applications if work.sharded else 2
    exchanged = passes * (reducing - 1) / reducing * work.parameters * SINGLE
    exchanged += 2 * (replicas - 1) / replicas * work.exchanged_fields * local * VALUE
    all_reduce = exchanged / machine.link_among(replicas * grid_ranks) + _sum(
        machine.network_latency, reducing
    )
    hidden = network.seconds * BACKWARD / (1 + BACKWARD)
    return StepCost(
        solver=forward,
        adjoint=adjoint,
        assembly=assembly,
        copies=solves * work.rows * local * CROSSING / machine.device_link
        if machine.has_device
        else 0.0,
        network=network.seconds,
        reduction=max(0.0, all_reduce - hidden) if reducing > 1 else 0.0,
        optimiser=work.parameters / machine.parameter_rate,
        other=machine.step_overhead,
        messages=iterations * one.messages + network.messages,
        sent=iterations * one.sent + network.sent + exchanged,
        sums=iterations * one.sums + network.sums,
        network_memory=_network_memory(work, local, samples, replicas * grid_ranks),
        solver_memory=_solver_memory(work, local, samples),
    )


def process_grid(shape: tuple[int, ...], boundary: tuple[str, ...], ranks: int) -> tuple[int, ...]:
    """The process grid, i.e. the number of parts per axis, with the least data to send and at least
    2 points per part and axis; `InputError` if there is none.
    """
    choices = [
        parts
        for parts in _factors(ranks, len(shape))
        if all(n >= 2 * p for n, p in zip(shape, parts, strict=True))
    ]
    if not choices:
        raise InputError(f"a grid of {shape} points cannot be divided among {ranks} ranks")
    return min(choices, key=lambda parts: surface(shape, boundary, parts).points)


@dataclass(frozen=True)
class Surface:
    """Neighbours of a part, and its points next to them, for the part with the most."""

    neighbours: int
    points: float


def surface(shape: tuple[int, ...], boundary: tuple[str, ...], parts: tuple[int, ...]) -> Surface:
    """The surface of a part perpendicular to the distributed axes."""
    local = [math.ceil(n / p) for n, p in zip(shape, parts, strict=True)]
    # With two parts each has one neighbour, which on a periodic axis is on both sides.
    sides = [
        0 if p == 1 else 1 if p == 2 and kind != "periodic" else 2
        for p, kind in zip(parts, boundary, strict=True)
    ]
    faces = [side * math.prod(local) / n for side, n in zip(sides, local, strict=True)]
    return Surface(sum(sides), sum(faces))


def streamed_bytes(work: Workload) -> float:
    """Bytes of matrix and vectors that an iteration reads and writes per point."""
    product = work.entries * (VALUE + INDEX) + 2 * work.rows * VALUE
    return work.products * product + work.vectors * work.rows * VALUE


@dataclass(frozen=True)
class _Work:
    seconds: float
    messages: float
    sent: float
    sums: float


def _iteration(
    work: Workload,
    machine: Machine,
    parts: tuple[int, ...],
    local: int,
    grid_ranks: int,
    at_once: int,
) -> _Work:
    """An iteration of one right-hand side, if `at_once` of them are solved together."""
    cut = surface(work.shape, work.boundary, parts)
    messages = cut.neighbours * math.ceil(work.products if work.products > 2 else 1) / at_once
    sent = cut.points * work.rows * VALUE
    if work.transforms and grid_ranks > 1:
        # Each transform redistributes the complex fields twice by all-to-all communication.
        messages += 2 * work.transforms * (grid_ranks - 1)
        sent += 2 * work.transforms * 2 * VALUE * work.rows * local
    sums = work.reductions if grid_ranks > 1 else 0
    seconds = (
        streamed_bytes(work) * local / machine.bandwidth + machine.iteration_overhead / at_once
    )
    seconds += (
        messages * machine.latency
        + sent / machine.solver_link_among(grid_ranks)
        + sums * _sum(machine.latency, grid_ranks)
    )
    return _Work(seconds, messages, sent, sums)


def _network(
    work: Workload, machine: Machine, parts: tuple[int, ...], samples: int, grid_ranks: int
) -> _Work:
    seconds = messages = sent = sums = 0.0
    for layer in work.layers:
        local = _local(work, parts, layer)
        rate = machine.dense_rate if layer.dense else machine.convolution_rate
        seconds += (1 + BACKWARD) * layer.flops * local * samples / rate + machine.layer_overhead
        if layer.width and (grid_ranks > 1 or not work.zero_outside):
            seconds += (
                COPIES * layer.channels_in * local * samples * SINGLE / machine.copy_bandwidth
            )
        if grid_ranks > 1 and not layer.dense:
            cut = surface(
                tuple(max(1, n // 2**layer.level) for n in work.shape), work.boundary, parts
            )
            messages += 2 * cut.neighbours * (layer.width > 0)
            sent += 2 * cut.points * layer.width * layer.channels_in * samples * SINGLE
            sums += 2 * layer.reductions
    if grid_ranks > 1 and work.whole:
        # The field is gathered before the network, and its gradient after the network.
        messages += 2 * (grid_ranks - 1)
        sent += 2 * work.points / grid_ranks * work.channels * samples * SINGLE * (grid_ranks - 1)
    seconds += (
        messages * machine.network_latency
        + sent / machine.link_among(grid_ranks)
        + sums * _sum(machine.network_latency, grid_ranks)
    )
    calls = work.applications
    return _Work(calls * seconds, calls * messages, calls * sent, calls * sums)


def _local(work: Workload, parts: tuple[int, ...], layer: Layer) -> float:
    """Points of a rank on the level of the layer; 1 for a dense layer, which has samples only."""
    if layer.dense:
        return 1.0
    return float(
        math.prod(math.ceil(n / 2**layer.level / p) for n, p in zip(work.shape, parts, strict=True))
    )


def _network_memory(work: Workload, local: int, samples: int, ranks: int) -> float:
    parameters = 4.0 * work.parameters * SINGLE
    if work.sharded and ranks > 1:
        # Two layers are gathered while one of them runs, which also has gradients.
        largest = max(layer.parameters for layer in work.layers)
        parameters = parameters / ranks + 3 * largest * SINGLE
    # Autograd stores the padded input of each layer, and its output for the activation.
    kept = sum(
        (layer.channels_in + layer.channels_out)
        * (1 if layer.dense else local / 2 ** (layer.level * len(work.shape)))
        for layer in work.layers
    )
    activations = work.applications * samples * SINGLE * kept
    fields = work.points if work.whole else local
    # Every replica stores all trajectories, distributed over its grid ranks.
    trajectories = work.stored * local * work.value
    return parameters + activations + trajectories + 8.0 * samples * work.channels * fields * VALUE


def _solver_memory(work: Workload, local: int, samples: int) -> float:
    solves = samples * work.solves
    systems = solves if work.assembled else 1
    # Samples that are solved together have vectors of the whole batch.
    vectors = work.krylov * (solves if work.at_once else systems) + work.kept * solves
    matrices = systems * work.entries * (LOADED * VALUE + INDEX)
    return float(local * (matrices + vectors * work.rows * VALUE))


def _sum(latency: float, ranks: int) -> float:
    return 2 * math.ceil(math.log2(ranks)) * latency if ranks > 1 else 0.0


def _factors(number: int, count: int) -> list[tuple[int, ...]]:
    if count == 1:
        return [(number,)]
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return [(d, *rest) for d in divisors for rest in _factors(number // d, count - 1)]
