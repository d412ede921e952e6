"""The performance of one rank of a machine."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors


@dataclass(frozen=True)
class Machine:
    """Rates and overheads of one rank: a core, or a core with a GPU for its network.

    The solver runs on the core in both cases, so its bandwidth, overheads and messages are those of
    the core.

    Attributes
    ----------
    name : name of the machine.
    bandwidth : memory bandwidth of a core for the solver's vectors and matrices, bytes/s.
    copy_bandwidth : bandwidth of copies that add the halo to fields, bytes/s.
    convolution_rate, dense_rate : rates of convolutions and of dense layers, FLOP/s, averaged over
        forward and backward pass.
    parameter_rate : parameters that the optimiser updates per second.
    iteration_overhead, solve_overhead, layer_overhead, step_overhead : seconds, independent of the
        size, of a solver iteration, a right-hand side (forward or adjoint), a layer of the network
        (forward and backward), and a training step.
    latency : seconds of a message between cores; an all-reduce over P ranks takes `2 log2(P)`
        messages.
    link, node_link : bandwidth of messages of a rank to other nodes and within its node, bytes/s.
    ranks_per_node : number of ranks per node.
    memory : bytes per rank; with a GPU, those of the GPU.
    device_link : bandwidth of copies between host and GPU, bytes/s; 0: the network runs on the
        core.
    device_latency : seconds of a message between GPUs.
    host_memory : bytes per rank on the host, in addition to those of its GPU.
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
        """Seconds of a message of the network."""
        return self.device_latency if self.has_device else self.latency

    def link_among(self, ranks: int) -> float:
        """Bandwidth among neighbouring ranks in bytes/s: that within a node if they fit."""
        return self.node_link if ranks <= self.ranks_per_node else self.link

    def solver_link_among(self, ranks: int) -> float:
        """Like `link_among`, for the messages of the solver. They do not use the links of GPUs:
        within a node they are written to the host's memory and read from it.
        """
        link = self.link_among(ranks)
        return min(link, self.bandwidth / 2) if self.has_device else link

    def to_dict(self) -> dict[str, float | int | str]:
        """All numbers, for a JSON file that `load_machine` reads."""
        return asdict(self)


MACHINES = {
    # One core of a current server CPU, measured in docs/results/scaling.md except for the resources
    # that 64 ranks of a node share: memory (700 GB/s), since 2 ranks measure only the caches, and
    # the network (100 Gbit/s).
    "cpu": Machine(
        "cpu", 1.1e10, 6.0e9, 7.5e10, 1.1e11, 1.4e9, 3e-6, 5e-5, 1e-4, 1e-3, 2e-6, 2e8, 4e9, 64, 4e9
    ),
    # A core with an A100 of 80 GB; 4 of them per node with an EPYC 7763 and 256 GB. From data
    # sheets, not measured. Solver: a core with half of its quarter of the socket's 205 GB/s, and
    # the overheads of "cpu". Network: half of the GPU's bandwidth, a fifth of its FLOP/s in TF32.
    # NVLink within the node, 25 GB/s to other nodes, half of PCIe 4's 32 GB/s to the GPU.
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
    """Return a preset, or load the JSON file that `benchmarks/scaling.py` writes; `InputError` for
    anything else.
    """
    if name in MACHINES:
        return MACHINES[name]
    path = Path(name)
    with file_errors(path, "cannot be read", "give --machine another file"):
        there = path.is_file()
    if not there:
        presets = " nor ".join(MACHINES)
        raise InputError(
            f"--machine: {name!r} is neither {presets} nor a file; create one with "
            "benchmarks/scaling.py"
        )
    wanted = {field.name for field in fields(Machine) if field.default is MISSING}
    # Entries for a GPU, which older files and those of machines without GPUs do not have.
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
