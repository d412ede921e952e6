"""The model counts the work of the real networks and partitions, and has the correct limits."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc import ProcessMesh, cli
from prdp_hpc.config import load_config, validate
from prdp_hpc.config.components import component_of, own_keys
from prdp_hpc.experiments.build import build_solver, build_task
from prdp_hpc.grid.partition import BOUNDARIES, Partition
from prdp_hpc.networks import build_network
from prdp_hpc.planning import (
    MACHINES,
    best,
    inversion_workload,
    load_machine,
    plan_table,
    splits,
    step_cost,
    workload_of,
)
from prdp_hpc.planning.cost import Surface, process_grid, surface
from prdp_hpc.planning.workload import PhysicsWorkload, network_layers

CONFIGS = sorted(
    path for path in (tiny.REPOSITORY / "configs").glob("*.yaml") if "inverse" not in path.name
)
NETWORKS = [
    {"kind": "mlp", "hidden": [7, 9]},
    {"kind": "resnet", "channels": 6, "blocks": 2},
    {"kind": "unet", "channels": 8, "depth": 2},
]


def config(**changes):
    return validate(tiny.emulator("runs", **changes), "test")


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["kind"])
@pytest.mark.parametrize("shape", [[8], [8, 12], [8, 4, 8]])
def test_layers_have_the_parameters_of_the_real_network(network, shape):
    one = config(network=network, grid={"shape": shape})
    real = build_network(
        component_of(one.network),
        Partition.whole(shape, "dirichlet"),
        3,
        3,
        own_keys(one.network),
        seed=0,
    )
    assert sum(layer.parameters for layer in network_layers(one, PhysicsWorkload(3, 7))) == sum(
        p.numel() for p in real.parameters()
    )


KINDS = st.sampled_from(BOUNDARIES)


@given(st.lists(st.tuples(st.integers(4, 40), KINDS), min_size=1, max_size=3), st.integers(1, 8))
def test_the_process_grid_covers_the_ranks_with_small_faces(axes, ranks):
    shape, boundary = zip(*axes, strict=True)
    try:
        parts = process_grid(shape, boundary, ranks)
    except ValueError:
        counts = itertools.product(range(1, ranks + 1), repeat=len(shape))
        products = [parts for parts in counts if math.prod(parts) == ranks]
        assert all(any(n < 2 * p for n, p in zip(shape, parts, strict=True)) for parts in products)
        return
    assert math.prod(parts) == ranks
    found = surface(shape, boundary, parts)
    assert (
        found.points
        <= found.neighbours
        * math.prod(math.ceil(n / p) for n, p in zip(shape, parts, strict=True))
        / 2
    )
    assert (found.neighbours > 0) == (ranks > 1)


def test_a_square_is_distributed_along_both_axes():
    assert process_grid((256, 256), ("dirichlet", "dirichlet"), 4) == (2, 2)
    assert surface((256, 256), ("dirichlet", "periodic"), (2, 2)) == Surface(
        neighbours=3, points=3 * 128
    )
    assert surface((64, 64), ("neumann", "neumann"), (4, 1)) == Surface(neighbours=2, points=2 * 64)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_can_be_planned(path: Path) -> None:
    config = load_config(path)
    work = inversion_workload(config) if "inversion" in path.stem else workload_of(config)
    found = splits(work, MACHINES["cpu"], 8)
    assert all(split.ranks == 8 for split in found)
    assert "* best: parallel.grid_ranks=" in plan_table(found, MACHINES["cpu"])


def test_an_inversion_divides_its_experiments_and_sums_its_gradient():
    content = tiny.field_inversion("", experiments={"count": 10}, grid={"shape": [64, 64]})
    work = inversion_workload(validate(content, "here"), iterations=5)
    assert (work.batch, work.solves, work.iterations, work.parameters) == (8, 1, 5, 0)
    costs = {replicas: step_cost(work, MACHINES["cpu"], replicas, 1) for replicas in (1, 2, 8)}
    # Solves are distributed, the assembly of the one matrix is not; the gradient of the field is
    # summed.
    assert costs[8].solver == pytest.approx(costs[1].solver / 8)
    assert costs[8].assembly == costs[1].assembly > 0
    assert costs[1].reduction == 0.0 < costs[2].reduction
    network = content | {"unknown": {"kind": "network", "features": 3, "hidden": [4]}}
    work = inversion_workload(validate(network, "here"), iterations=5)
    assert work.parameters == (6 * 4 + 4) + (4 + 1)
    tolerances = validate(content | {"refinement": {"ladder": {"kind": "tolerances"}}}, "here")
    with pytest.raises(ValueError, match="give --iterations"):
        inversion_workload(tolerances)


def ideal(machine):
    """A machine on which messages and overheads cost nothing."""
    overheads = (
        "iteration_overhead",
        "solve_overhead",
        "layer_overhead",
        "step_overhead",
        "latency",
    )
    rates = ("link", "node_link", "parameter_rate", "copy_bandwidth")
    return dataclasses.replace(
        machine, **dict.fromkeys(overheads, 0.0), **dict.fromkeys(rates, math.inf)
    )


@pytest.mark.parametrize(("replicas", "grid_ranks"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_without_messages_and_overheads_scaling_is_perfect(replicas, grid_ranks):
    one = config(network=NETWORKS[1], grid={"shape": [64, 64]}, training={"batch_size": 8})
    machine = ideal(MACHINES["cpu"])
    single, many = (
        step_cost(workload_of(one), machine, *split) for split in ((1, 1), (replicas, grid_ranks))
    )
    assert many.total == pytest.approx(single.total / 8)
    assert (many.messages > 0) == (grid_ranks > 1)


def test_a_slow_network_prefers_replicas_and_a_small_batch_grid_ranks():
    slow = dataclasses.replace(MACHINES["cpu"], latency=1e-2)
    one = config(network=NETWORKS[1], grid={"shape": [64, 64]}, training={"batch_size": 8})
    assert best(splits(workload_of(one), slow, 8), slow).grid_ranks == 1
    few = config(network=NETWORKS[1], grid={"shape": [512, 512]}, training={"batch_size": 1})
    assert best(splits(workload_of(few), MACHINES["cpu"], 8), MACHINES["cpu"]).grid_ranks == 8


def test_a_batch_that_is_solved_at_once_shares_its_messages():
    """Per iteration a rank sends one message to its only neighbour, independent of the batch."""
    costs = []
    for batch, ksp in ((6, "richardson"), (1, "richardson"), (6, "cg")):
        one = config(
            network=NETWORKS[0],
            grid={"shape": [64]},
            training={"batch_size": batch},
            solver={"ksp": ksp, "pc": "jacobi"},
        )
        costs.append(step_cost(workload_of(one, 10), MACHINES["cpu"], 1, 2))
    gathers = 2  # of the field and of its gradient
    assert [cost.messages - gathers for cost in costs] == [2 * 10, 2 * 10, 6 * 2 * 10]
    assert costs[0].sent > costs[1].sent


def test_splits_beyond_the_memory_are_not_chosen():
    small = dataclasses.replace(MACHINES["cpu"], memory=2e8)
    big = config(
        network={"kind": "resnet", "channels": 64, "blocks": 3},
        grid={"shape": [256, 256]},
        training={"batch_size": 8},
    )
    found = splits(workload_of(big), small, 8)
    chosen = best(found, small)
    assert all(
        split.cost.memory > small.memory or split.cost.total >= chosen.cost.total for split in found
    )
    if chosen.cost.memory > small.memory:
        assert "use more ranks" in plan_table(found, small)


def test_tolerances_need_iterations():
    one = config(refinement={"ladder": {"kind": "tolerances"}})
    with pytest.raises(ValueError, match="give --iterations"):
        workload_of(one)
    assert workload_of(one, 12).iterations == 12


def test_the_command(tmp_path, capsys):
    path = tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path, network=NETWORKS[1]))
    machine = tmp_path / "machine.json"
    # Times too short to be measured are 0.
    fitted = dataclasses.replace(MACHINES["gpu"], layer_overhead=0.0)
    machine.write_text(json.dumps({"machine": fitted.to_dict()}))
    assert load_machine(str(machine)) == fitted
    cli.main(["plan", path, "--ranks", "4", "--machine", str(machine), "training.batch_size=6"])
    output = capsys.readouterr().out
    assert "4 ranks of 'gpu'" in output
    assert "batch of 6" in output
    machine.write_text("{}")
    for options, message in (
        (["--ranks", "4096"], "4096 ranks are too many"),
        (["--ranks", "4", "--machine", "mine"], "neither cpu nor gpu nor a file"),
        (["--ranks", "4", "--machine", str(machine)], "is not a machine file"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["plan", path, *options])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def resnet(**changes):
    return config(
        network=NETWORKS[1],
        grid={"shape": [64, 64]},
        **{"training": {"batch_size": 8}, "solver": {"ksp": "cg", "pc": "jacobi"}} | changes,
    )


@pytest.mark.parametrize("split", [(1, 1), (4, 2), (1, 8)])
def test_the_solver_does_not_run_on_the_gpu(split):
    work, gpu = workload_of(resnet(), 10), MACHINES["gpu"]
    known = step_cost(work, gpu, *split)
    rates = ("copy_bandwidth", "convolution_rate", "dense_rate", "device_link", "memory")
    fast = dataclasses.replace(
        gpu, **{rate: 10 * getattr(gpu, rate) for rate in rates}, device_latency=1e-6
    )
    faster = step_cost(work, fast, *split)
    assert (faster.solver, faster.adjoint) == (known.solver, known.adjoint)
    assert faster.network < known.network
    # The bandwidth of a core is at most its share of that of a socket, and the sum at most that of
    # the socket.
    assert gpu.bandwidth * gpu.ranks_per_node <= 205e9
    local = 64 * 64 / split[1] * math.ceil(8 / split[0])
    # State and gradient are copied to the host, result and gradient back.
    assert known.copies == pytest.approx(local * (2 * 8 + 2 * 4) / gpu.device_link)
    assert step_cost(work, MACHINES["cpu"], *split).copies == 0.0


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("task", [tiny.emulator, tiny.corrector])
@pytest.mark.parametrize("in_memory", ["auto", False])
def test_the_trajectories_are_those_of_a_task(tmp_path, task, precision, in_memory):
    content = task(tmp_path, training={"precision": precision}, data={"in_memory": in_memory})
    one = validate(content, "test")
    mesh = ProcessMesh.from_world(1)
    real = build_task(one, mesh, build_solver(one))
    work = workload_of(one)
    assert work.stored * work.points * work.value == real._data.nbytes
    real.close()


@pytest.mark.parametrize(("replicas", "grid_ranks"), [(1, 1), (8, 1), (2, 4)])
def test_each_replica_holds_all_trajectories(replicas, grid_ranks):
    few, many = (
        step_cost(
            workload_of(resnet(data={"train": train}), 10), MACHINES["gpu"], replicas, grid_ranks
        )
        for train in (100, 300)
    )
    each = 3 * 1 * 64 * 64 * 8 / grid_ranks  # three states of a trajectory in double precision
    assert many.network_memory - few.network_memory == 200 * each
    assert many.solver_memory == few.solver_memory


def test_a_sharded_network_divides_its_parameters_among_all_ranks():
    whole, sharded = (
        workload_of(resnet(parallel={"shard_network": shard}), 10) for shard in (False, True)
    )
    numbers = 4 * 4 * whole.parameters  # with gradients and two moments in single precision
    gathered = 3 * 4 * max(layer.parameters for layer in whole.layers)
    for replicas, grid_ranks in ((8, 1), (2, 4)):
        one, other = (
            step_cost(work, MACHINES["gpu"], replicas, grid_ranks) for work in (whole, sharded)
        )
        saved = one.network_memory - other.network_memory
        assert saved == pytest.approx(numbers * 7 / 8 - gathered)
        assert other.sent > one.sent
    alone = [step_cost(work, MACHINES["gpu"], 1, 1) for work in (whole, sharded)]
    assert alone[0] == alone[1]


@pytest.mark.parametrize("where", ["memory", "host_memory"])
def test_splits_beyond_the_memory_of_gpu_or_host_are_not_chosen(where):
    work = workload_of(resnet(), 10)
    part = {"memory": "network_memory", "host_memory": "solver_memory"}[where]
    halved = getattr(step_cost(work, MACHINES["gpu"], 4, 2), part)
    machine = dataclasses.replace(MACHINES["gpu"], **{where: 1.01 * halved})
    chosen = best(splits(work, machine, 8), machine)
    assert getattr(chosen.cost, part) <= getattr(machine, where)
    tight = dataclasses.replace(machine, **{where: 1.0})
    assert "use more ranks" in plan_table(splits(work, tight, 8), tight)


def test_memory_of_a_solve():
    """GMRES stores its basis, an unrolled solve about as many states as the square root of its
    iterations.
    """

    def memory(iterations, **solver):
        return step_cost(
            workload_of(resnet(solver=solver), iterations), MACHINES["cpu"], 1, 1
        ).solver_memory

    vector, samples = 64 * 64 * 8, 8
    gmres = {"ksp": "gmres", "pc": "jacobi"}
    assert memory(20, **gmres) - memory(10, **gmres) == 2 * 10 * vector
    assert memory(60, **gmres) == memory(30, **gmres)
    cg = {"ksp": "cg", "pc": "jacobi"}
    assert memory(100, **cg) == memory(10, **cg)
    more = [
        memory(k, **cg, differentiation="unrolled") - memory(k, **cg) + samples * vector
        for k in (8, 32)
    ]
    assert more[1] == pytest.approx(2 * more[0])


def test_older_machine_files(tmp_path):
    """A machine without the numbers of a GPU."""
    content = MACHINES["cpu"].to_dict()
    for key in ("device_link", "device_latency", "host_memory"):
        del content[key]
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(content))
    assert load_machine(str(path)) == MACHINES["cpu"]
