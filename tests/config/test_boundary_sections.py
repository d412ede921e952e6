"""Usability: the PDE has the boundary conditions of the config, and messages contain the wrong key;
a run with such a config generates data, trains and is planned.
"""

import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Solver, train
from prdp_hpc.config import ConfigError, load_config, validate
from prdp_hpc.generation.generate import generated_path
from prdp_hpc.physics import Dirichlet, Heat, Neumann, Poisson, Robin
from prdp_hpc.planning.workload import workload_of

SIDES = {
    "axis_0": {"low": {"kind": "dirichlet", "value": 1.0}, "high": {"kind": "neumann"}},
    "axis_1": {"high": {"kind": "robin", "coefficient": 2, "value": -1e-1}},
}
CELLS = {"shape": [6, 5], "boundary": "neumann"}


def heat(folder="out", sides=SIDES, grid=CELLS, **keys):
    physics = {"pde": "heat", "diffusivity": 0.1, "dt": 0.5, "boundaries": sides, **keys}
    return tiny.emulator(folder, grid=grid, physics=physics)


def test_the_sides_have_the_conditions_of_the_config(tmp_path):
    config = validate(heat(face_mean="harmonic", source=2.0, theta=0.5), "here")
    grid = Grid((6, 5), "neumann", MPI.COMM_SELF)
    stepper = Heat.from_config(config.physics, grid, Solver("cg", "jacobi", 1e-12))
    wanted = [(Dirichlet(1.0), Neumann()), (Neumann(), Robin(2.0, -0.1))]
    same = Heat(grid, 0.1, 0.5, stepper.solver, wanted, "harmonic", theta=0.5)
    u = torch.randn(2, 1, 6, 5, dtype=torch.float64)
    assert torch.equal(stepper(u), same(u, torch.full_like(u, 2.0)))
    assert stepper.attributes() == {
        "dt": 0.5,
        "diffusivity": 0.1,
        "source": 2.0,
        "theta": 0.5,
        "boundaries.axis_0.low.value": 1.0,
        "boundaries.axis_1.high.coefficient": 2.0,
        "boundaries.axis_1.high.value": -0.1,
    }
    sides = {"axis_0": SIDES["axis_1"]}
    inverse = tiny.inverse(tmp_path, physics={"pde": "poisson", "boundaries": sides},
                           grid={"shape": [6], "boundary": "neumann"})  # fmt: skip
    line = Grid((6,), "neumann", MPI.COMM_SELF)
    poisson = Poisson.from_config(validate(inverse, "here").physics, line, stepper.solver)
    again = Poisson(line, stepper.solver, 1.0, [wanted[1]])
    f = torch.randn(2, 6, dtype=torch.float64)
    assert torch.equal(poisson(f), again(f))


def test_only_values_other_than_defaults_are_written(tmp_path):
    plain = validate(tiny.emulator(tmp_path), "here")
    assert set(plain.physics.model_dump()) == {"pde", "diffusivity", "dt"}
    config = validate(heat(tmp_path), "here")
    path = tiny.write(tmp_path / "resolved.yaml", config.model_dump(mode="json"))
    assert load_config(path).physics == config.physics
    assert generated_path(config) != generated_path(validate(heat(sides=None), "here"))


WRONG = [
    ({"axis_2": {"low": {"kind": "neumann"}}}, CELLS, "axis_2: grid.shape has 2 axes"),
    ({"axis0": {}}, CELLS, "axis0: unknown key; did you mean 'axis_0'"),
    ({"axis_0": {"left": {}}}, CELLS, "axis_0.left: unknown key"),
    (
        {"axis_0": {"low": {"kind": "dirichlet", "flux": 1.0}}},
        CELLS,
        "axis_0.low.flux: unknown key; known here: kind, value",
    ),
    (
        {"axis_0": {"low": {"kind": "dirchlet"}}},
        CELLS,
        "axis_0.low.kind: 'dirchlet' is not known here, choose one of 'dirichlet', 'neumann', "
        "'robin'",
    ),
    ({"axis_0": {"low": {"value": 1.0}}}, CELLS, "axis_0.low.kind: must be given"),
    ({"axis_0": {"high": {"kind": "robin"}}}, CELLS, "axis_0.high.coefficient: must be given"),
    (
        {"axis_0": {"high": {"kind": "robin", "coefficient": -1}}},
        CELLS,
        "axis_0.high.coefficient: must be greater than or equal to 0, not -1",
    ),
    (
        {"axis_1": {"high": {"kind": "neumann"}}},
        {"shape": [6, 5], "boundary": ["neumann", "periodic"]},
        "axis_1: this axis of the grid is periodic",
    ),
    (
        {"axis_1": {"high": {"kind": "neumann"}}},
        {"shape": [6, 5], "boundary": "dirichlet"},
        "axis_1.high: with grid.boundary=dirichlet .* only kind dirichlet, not neumann",
    ),
]


@pytest.mark.parametrize(("sides", "grid", "message"), WRONG)
def test_mistakes_are_reported_by_key(sides, grid, message):
    with pytest.raises(ConfigError, match=f"physics.boundaries.{message}"):
        validate(heat(sides=sides, grid=grid), "here")


def test_a_run_generates_trains_and_is_planned(tmp_path):
    content = heat(tmp_path, source=0.5) | {"network": {"kind": "mlp", "hidden": [8]}}
    path = tiny.write(tmp_path / "config.yaml", content)
    assert train(path)["epochs"] == 3
    assert workload_of(load_config(path)).entries == 5
