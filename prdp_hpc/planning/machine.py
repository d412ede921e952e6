"""What one rank of a machine can do."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors


@dataclass(frozen=True)
class Machine:
    """Rates and overheads of one rank: a core, or a core with a GPU for its network.

    The solver runs on the core in both cases, so its bandwidth, overheads and messages are the
    core's.

    Attributes
    ----------
    name : what it is called.
    bandwidth : bytes/s that the solver's vectors and matrices are streamed at, by the core.
    copy_bandwidth : bytes/s of copying fields to give them their neighbours' points.
    convolution_rate, dense_rate : FLOP/s of convolutions and of dense layers, with forward and
        backward pass.
    parameter_rate : parameters/s that the optimiser updates.
    iteration_overhead, solve_overhead, layer_overhead, step_overhead : s, whatever the size: of a
        solver iteration, of a right-hand side (forward or adjoint), of a layer of the network
        (forward and backward), of a training step.
    latency : s of a message between cores; a sum over P ranks takes `2 log2(P)` of them.
    link, node_link : bytes/s of the messages that a rank sends, to other nodes and within its own.
    ranks_per_node : ranks that share a node.
    memory : bytes of a rank; with a GPU, of the GPU.
    device_link : bytes/s of copies between the core and its GPU; 0: the network runs on the core.
    device_latency : s of a message between GPUs.
    host_memory : bytes of a rank beside those of its GPU.
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
    device_link: float = 0.0
    device_latency: float = 0.0
    host_memory: float = 0.0

    @property
    def has_device(self) -> bool:
        """Whether the network runs on a GPU."""
        return self.device_link > 0.0

    @property
    def network_latency(self) -> float:
        """Seconds of a message of the network's."""
        return self.device_latency if self.has_device else self.latency

    def link_among(self, ranks: int) -> float:
        """Bytes/s among neighbouring ranks: within a node if they fit."""
        return self.node_link if ranks <= self.ranks_per_node else self.link

    def solver_link_among(self, ranks: int) -> float:
        """As `link_among`, for the solver's messages: past the GPUs, those within a node are
        written to the cores' memory and read from it.
        """
        link = self.link_among(ranks)
        return min(link, self.bandwidth / 2) if self.has_device else link

    def to_dict(self) -> dict[str, float | int | str]:
        """All numbers, for a JSON file that `load_machine` reads."""
        return asdict(self)


MACHINES = {
    # One core of a current server CPU: measured in docs/results/scaling.md but for what 64 ranks of
    # a node share: memory (700 GB/s), of which 2 ranks measure only the caches, and the network
    # (100 Gbit/s).
    "cpu": Machine(
        "cpu", 1.1e10, 6.0e9, 7.5e10, 1.1e11, 1.4e9, 3e-6, 5e-5, 1e-4, 1e-3, 2e-6, 2e8, 4e9, 64, 4e9
    ),
    # A core with an A100 of 80 GB; 4 of them in a node with an EPYC 7763 and 256 GB. By data
    # sheets, not measured. Solver: the core, with half of its quarter of the socket's 205 GB/s,
    # and the overheads of "cpu". Network: half of the GPU's bandwidth, a fifth of its FLOP/s in
    # TF32. NVLink within the node, 25 GB/s to others, half of PCIe 4's 32 GB/s to the GPU.
    "gpu": Machine(
        "gpu",
        bandwidth=2.5e10,
        copy_bandwidth=1.0e12,
        convolution_rate=3.0e13,
        dense_rate=6.0e13,
        parameter_rate=2.0e10,
        iteration_overhead=3e-6,
        solve_overhead=5e-5,
        layer_overhead=1e-4,
        step_overhead=2e-3,
        latency=2e-6,
        link=2.5e10,
        node_link=2e11,
        ranks_per_node=4,
        memory=8e10,
        device_link=1.6e10,
        device_latency=1e-5,
        host_memory=6.4e10,
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
    wanted = {field.name for field in fields(Machine) if field.default is MISSING}
    # Of a GPU; files from before, and of machines without, do not have them.
    optional = {field.name for field in fields(Machine)} - wanted
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("machine", content)
        given = {key: content[key] for key in (*wanted, *(optional & content.keys()))}
        numbers = {key: value for key, value in given.items() if key != "name"}
        if not all(
            isinstance(value, int | float) and not isinstance(value, bool)
            for value in numbers.values()
        ):
            raise InputError("everything but the name must be a number")
        if not all(
            value > 0 or (value == 0 and ("overhead" in key or key in optional))
            for key, value in numbers.items()
        ):
            raise InputError("every number must be positive; overheads may be 0")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"--machine: {path} is not a machine file ({error}): it needs "
            f"{', '.join(sorted(wanted))}"
        ) from None
    return Machine(**given)
