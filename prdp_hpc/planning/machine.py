"""What one rank of a machine can do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors


@dataclass(frozen=True)
class Machine:
    """Rates and overheads of one rank: a core, or a GPU with its core.

    Attributes
    ----------
    name : what it is called.
    bandwidth : bytes/s that the solver's vectors and matrices are streamed at.
    copy_bandwidth : bytes/s of copying fields to give them their neighbours' points.
    convolution_rate, dense_rate : FLOP/s of convolutions and of dense layers, with forward and
        backward pass.
    parameter_rate : parameters/s that the optimiser updates.
    iteration_overhead, solve_overhead, layer_overhead, step_overhead : s, whatever the size: of a
        solver iteration, of a right-hand side (forward or adjoint), of a layer of the network
        (forward and backward), of a training step.
    latency : s of a message; a sum over P ranks takes `2 log2(P)` of them.
    link, node_link : bytes/s of the messages that a rank sends, to other nodes and within its own.
    ranks_per_node : ranks that share a node.
    memory : bytes of a rank.
    """

    name: str
    bandwidth: float
    copy_bandwidth: float
    convolution_rate: float
    dense_rate: float
    parameter_rate: float
    iteration_overhead: float
    solve_overhead: float
    layer_overhead: float
    step_overhead: float
    latency: float
    link: float
    node_link: float
    ranks_per_node: int
    memory: float

    def link_among(self, ranks: int) -> float:
        """Bytes/s among neighbouring ranks: within a node if they fit."""
        return self.node_link if ranks <= self.ranks_per_node else self.link

    def to_dict(self) -> dict[str, float | int | str]:
        """All numbers, for a JSON file that `load_machine` reads."""
        return asdict(self)


MACHINES = {
    # One core of a current server CPU: measured in docs/scaling.md but for what 64 ranks of a node
    # share: memory (700 GB/s), of which 2 ranks measure only the caches, and the network (100
    # Gbit/s).
    "cpu": Machine(
        "cpu", 1.1e10, 6.0e9, 7.5e10, 1.1e11, 1.4e9, 3e-6, 5e-5, 1e-4, 1e-3, 2e-6, 2e8, 4e9, 64, 4e9
    ),
    # One A100 of 80 GB with 25 GB/s to the network and NVLink within the node: half of the data
    # sheet's bandwidth, a fifth of its FLOP/s in TF32, ten kernel launches an iteration. Not
    # measured.
    "gpu": Machine(
        "gpu",
        1.0e12,
        1.0e12,
        3.0e13,
        6.0e13,
        2.0e10,
        6e-5,
        4e-4,
        1e-4,
        2e-3,
        1e-5,
        2.5e10,
        2e11,
        4,
        8e10,
    ),
}
"""Presets of `prdp-hpc plan --machine`."""


def load_machine(name: str) -> Machine:
    """A preset, or the JSON file that `benchmarks/scaling.py` writes; `ValueError` for anything
    else.
    """
    if name in MACHINES:
        return MACHINES[name]
    path = Path(name)
    with file_errors(path, "cannot be read", "give --machine another file"):
        there = path.is_file()
    if not there:
        presets = " nor ".join(MACHINES)
        raise InputError(
            f"--machine: {name!r} is neither {presets} nor a file; make one with "
            "benchmarks/scaling.py"
        )
    wanted = {field.name for field in fields(Machine)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("machine", content)
        given = {key: content[key] for key in wanted}
        numbers = {key: value for key, value in given.items() if key != "name"}
        if not all(
            isinstance(value, int | float) and not isinstance(value, bool)
            for value in numbers.values()
        ):
            raise InputError("everything but the name must be a number")
        if not all(
            value > 0 or (value == 0 and "overhead" in key) for key, value in numbers.items()
        ):
            raise InputError("every number must be positive; overheads may be 0")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"--machine: {path} is not a machine file ({error}): it needs "
            f"{', '.join(sorted(wanted))}"
        ) from None
    return Machine(**given)
